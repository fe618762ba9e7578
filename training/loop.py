"""The training run: `train(cfg)`.

One pass over the model's activations trains every SAE of the configuration. A run that was stopped
(Ctrl-C, SIGTERM, kill -9) goes on from its last checkpoint when it is started again with the same
settings, and ends with the weights it would have had.
"""

import json
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sae_core.attention_sink import sink_at
from sae_core.bundle import BUNDLE_FILE
from sae_core.corpus import documents, expand, token_rows
from sae_core.files import atomic_write, only_one
from sae_core.language_model import check_context, load_language_model
from sae_core.placement import chosen_device, chosen_dtype
from sae_core.residual_stream import check_stream
from sae_core.sites import module_path
from sae_core.text_options import TextOptions
from training import train_checkpoint
from training.activations import ActivationBuffer, buffer_capacity, rows_per_forward
from training.checkpoint_saes import CheckpointSAEs, renew_indexes
from training.processes import together
from training.results import TrainResult, save_and_measure
from training.run_provenance import model_place
from training.run_status import CHECKPOINTS, CONFIG_FILE, LOCK_FILE, announced
from training.sae_trainer import SAETrainer
from training.shard import ALONE, Shard
from training.text import Text
from training.train_config import LossOptions, TrainConfig
from training.train_run import Interrupted, TrainRun

__all__ = ["Interrupted", "TrainResult", "train"]

log = logging.getLogger(__name__)

FREE = ("out", "run", "eval_corpus", "eval_tokens", "save_dtype")
"""Settings that may change when a run goes on: they leave the weights as they are."""


def train(cfg: TrainConfig) -> list[TrainResult]:
    """Train the SAEs of `cfg`, save them under `cfg.out` and measure them as saved.

    Continues the run that `cfg.out` holds, if it has the same settings. Writes OUT/saes/NAME/ for
    each SAE, OUT/bundle.json, OUT/metrics.jsonl, OUT/config.json and OUT/checkpoints/. Raises
    ValueError with one sentence for a mistake of the user's, and `Interrupted` after SIGINT or
    SIGTERM, having saved.

    Under torchrun, every process calls this (`training.processes`); the first one writes, measures
    and returns the results, the others return none.
    """
    with ExitStack() as held:
        with together(cfg.run.device) as shard:
            model, tokenizer = _prepared(cfg, shard, held)
            with computing():
                # The buffer's memory is free again when the SAEs are measured.
                trainers, facts = _trained(cfg, model, tokenizer, shard)
        if not shard.first:
            return []
        with computing():
            results = save_and_measure(cfg, model, tokenizer, trainers, facts)
            renew_indexes(cfg, model, tokenizer, [result.folder for result in results])
            return results


def _prepared(cfg: TrainConfig, shard: Shard, held: ExitStack) -> tuple[Any, Any]:
    """Model and tokenizer, all that can be wrong with the settings having been checked; `held`
    keeps other runs out of the folder.
    """
    model, tokenizer = load_checked(cfg, shard)
    if shard.first:
        busy = (
            f"another run is at work in {cfg.out}: wait until it has ended, or choose another out "
            "folder."
        )
        held.enter_context(only_one(Path(cfg.out) / LOCK_FILE, busy))
        _claim(cfg)
        held.enter_context(announced(Path(cfg.out), model_place(cfg.model)))
    shard.barrier()
    return model, tokenizer


def load_checked(cfg: TrainConfig, shard: Shard = ALONE) -> tuple[Any, Any]:
    """Model and tokenizer of a run; ValueError for what is wrong with the settings. Writes
    nothing, and looks at names and files before the model is loaded.
    """
    device, dtype = _place(cfg)
    if cfg.d_sae % shard.world:
        raise ValueError(
            f"d_sae is {cfg.d_sae} but must be a multiple of {shard.world}, the number of "
            "processes that share the features."
        )
    if cfg.run.compile == "cuda-graph" and not shard.alone:
        raise ValueError("compile is cuda-graph, which is for one process: use auto.")
    for corpus in (cfg.corpus, cfg.eval_corpus):
        if corpus:
            expand(corpus)
    if shard.first:
        _check_out(cfg)
    model, tokenizer = load_language_model(cfg.model, dtype, device)
    _check_model(cfg, model)
    return model, tokenizer


def _trained(
    cfg: TrainConfig, model: Any, tokenizer: Any, shard: Shard
) -> tuple[list[SAETrainer], dict[str, Any]]:
    """The SAEs after their last step, whole, and `TrainRun.facts` of how they came to be."""
    sites = list(dict.fromkeys(plan.site for plan in cfg.plans))
    capacity = buffer_capacity(cfg.buffer_tokens, cfg.steps, cfg.batch)
    text = text_of(cfg, model, tokenizer, capacity)
    buffer = ActivationBuffer(model, sites, text, capacity=capacity, batch=cfg.batch, shard=shard)
    # Of several processes, none has a whole SAE before the end.
    features = CheckpointSAEs(cfg, model, tokenizer) if shard.alone else None
    with closing(buffer):
        run = TrainRun(cfg, buffer, shard, features.write if features else None)
        run.start()
        with _stoppable() as stopped:
            run.loop(stopped)
        for trainer in run.trainers:
            trainer.collect()
        return run.trainers, {**run.facts, "attention_sink": text.leave_first}


def text_of(cfg: TrainConfig, model: Any, tokenizer: Any, capacity: int) -> Text:
    """The text of a run whose buffer has room for `capacity` tokens."""
    return Text(
        corpus=cfg.corpus,
        tokenizer=tokenizer,
        context_size=cfg.context_size,
        rows=rows_per_forward(cfg.context_size, capacity),
        seed=cfg.seed,
        options=cfg.text,
        leave_first=has_sink(cfg, model, tokenizer),
    )


def has_sink(cfg: TrainConfig, model: Any, tokenizer: Any) -> bool:
    """Whether the first token of a row is an attention sink at one of the run's sites, which is
    then said and left out at all of them: they share their tokens.
    """
    sites = list(dict.fromkeys(plan.site for plan in cfg.plans))
    rows = token_rows(documents(cfg.corpus, options=cfg.text), tokenizer, cfg.context_size)
    sinks = sink_at(model, tokenizer, sites, rows)
    if sinks:
        log.warning(
            "the model has no BOS, and the first token of each row is an attention sink at %s: it "
            "is left out.",
            ", ".join(map(str, sinks)),
        )
    return bool(sinks)


def _place(cfg: TrainConfig) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the products."""
    device = chosen_device(cfg.run.device)
    if cfg.run.compile == "cuda-graph" and device.type != "cuda":
        raise ValueError("compile is cuda-graph but the run is not on CUDA: use auto.")
    return device, chosen_dtype(cfg.precision, device)


def _claim(cfg: TrainConfig) -> None:
    """Make `cfg.out` this run's folder; ValueError if it holds another run or another's bundle."""
    _check_out(cfg)
    with atomic_write(Path(cfg.out) / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(asdict(cfg), indent=2) + "\n")


def _check_out(cfg: TrainConfig) -> None:
    """ValueError if `cfg.out` is a file, or holds another run or another's bundle."""
    out = Path(cfg.out)
    if out.is_file():
        raise ValueError(f"out is {out}, which is a file: name a folder.")
    settings = json.loads(json.dumps(asdict(cfg)))
    path = out / CONFIG_FILE
    bundle = (out / BUNDLE_FILE).exists()
    if bundle and not path.is_file():
        raise ValueError(
            f"{out} holds a bundle that train did not make: choose another out folder."
        )
    saved = any((out / "saes" / plan.name).exists() for plan in cfg.plans)
    if path.is_file() and (bundle or saved or train_checkpoint.list_saved(out / CHECKPOINTS)):
        try:
            before = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged: choose another out folder.") from error
        differing = _differing(settings, before)
        if differing:
            raise ValueError(
                f"{out} holds a run with another {', '.join(differing)}: choose another out "
                "folder, or remove this one."
            )


def _differing(settings: dict[str, Any], before: Any) -> list[str]:
    """Names of the settings in which a run is another than the one `before`."""
    if not isinstance(before, dict):
        return ["config"]
    before = {"text": asdict(TextOptions()), **before}  # which came later
    differing = [k for k, v in settings.items() if k not in {*FREE, "loss"} and before.get(k) != v]
    loss = before.get("loss", {})
    if not isinstance(loss, dict):
        return [*differing, "loss"]
    # Options that came later were at their defaults.
    loss = asdict(LossOptions()) | loss
    return differing + [k for k, v in settings["loss"].items() if loss[k] != v]


def _check_model(cfg: TrainConfig, model: Any) -> None:
    for plan in cfg.plans:
        module_path(model, plan.site)
        check_stream(model, plan.site)
    check_context(model, cfg.context_size)


@contextmanager
def computing() -> Iterator[None]:
    """What a run computes, it computes in here: sums in float32, a full memory explained."""
    with _float32_sums(), _memory_explained():
        yield


@contextmanager
def _float32_sums() -> Iterator[None]:
    """Partial sums of bfloat16 products are added in float32 inside the block."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before


@contextmanager
def _memory_explained() -> Iterator[None]:
    """Running out of the device's memory is a matter of settings: say which."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(
            "the device's memory is full: use a smaller buffer_tokens, d_sae or batch, or fewer "
            "SAEs in one run."
        ) from error


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; a second one acts as it usually does."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def stop(_number: int, _frame: object) -> None:
        stopped.set()
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        for number in before:
            signal.signal(number, stop)
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
