"""Trains the demo's language model: a small Gemma 2 and its tokenizer, from text.

    python -m training.lm --corpus 'corpus/train-*.parquet' --validation corpus/validation.parquet \
        --out runs/lm --max-seconds 390

The hidden matrices are trained with Muon, embeddings and norms with AdamW. The learning rate rises
over the first `warmup` of the run, stays, and falls linearly to zero over the last `decay` of it.
The run's progress is

    max(step / steps, seconds / max_seconds)

so that with a budget of seconds it ends in time and fully decayed, on whatever machine. Seconds
count from the end of the first step (which compiles) to the last, validations included; reading the
corpus, compiling and measuring the saved model come on top.

`out` receives `model/` (Hugging Face layout, bfloat16), `metrics.jsonl` as the run goes, and
`report.json`.
"""

import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
import transformers
from torch import Tensor
from transformers import AutoTokenizer, Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core.corpus import documents, expand
from sae_core.files import atomic_folder, atomic_write
from sae_core.tokens import special_ids
from training.lm_data import TokenRows, token_stream, train_tokenizer
from training.lm_model import (
    AttentionKind,
    LMShape,
    attention_masks,
    measure_saved,
    row_losses,
    sample,
    save_model,
)
from training.muon import BatchedMuon

log = logging.getLogger(__name__)

_STEPS_A_RECORD = 20
_SECONDS_A_LINE = 5.0

Losses = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """How to train the demo's language model."""

    corpus: tuple[str, ...]
    """Parquet, JSONL or text files to train on; globs and folders are allowed."""
    validation: tuple[str, ...]
    """Files to measure on; never trained on."""
    out: Path
    """Folder to write to."""
    tokenizer: Path | None = None
    """Folder of a tokenizer to use; without one it is trained on `corpus`."""
    shape: LMShape = field(default_factory=LMShape)
    """Shape of the model."""
    context: int = 512
    """Tokens in a row, BOS included."""
    batch_rows: int = 128
    """Rows in a step."""
    steps: int = 10_000
    """Optimiser steps at most."""
    max_seconds: float | None = None
    """Seconds of training at most; the schedule ends with them. None: no limit."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """For the hidden matrices; the rest always takes AdamW."""
    lr: float = 6e-3
    """Peak learning rate of the hidden matrices, on AdamW's scale for Muon as well."""
    embedding_lr: float = 4e-3
    """Peak learning rate of embeddings and norms."""
    weight_decay: float = 0.1
    """Decay of all matrices, per unit of learning rate and step; norms have none."""
    warmup: float = 0.02
    """Share of the run over which the learning rate rises from zero."""
    decay: float = 0.7
    """Share of the run, at its end, over which the learning rate falls to zero."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    attention: AttentionKind = "eager"
    """Attention while training; flex is faster and needs CUDA. What is saved is the same."""
    compile: bool | None = None
    """Compile the model. None: on CUDA only."""
    validate_seconds: float = 60.0
    """Seconds from one validation to the next."""
    validation_rows: int = 1024
    """Rows of the fixed sample that validations take, rounded down to whole batches."""
    device: str = "auto"
    """cuda, cpu, or auto: cuda where there is one."""
    seed: int = 0
    """Of weights, rows and samples."""
    probe: float = 0.0
    """Seconds of a trial run, which writes nothing; 0: train."""

    def __post_init__(self) -> None:
        if min(self.context - 1, self.batch_rows, self.steps) < 1:
            raise ValueError("context must be 2 or more, batch_rows and steps 1 or more.")
        if self.context > self.shape.max_positions:
            raise ValueError(
                f"context is {self.context} but the model has {self.shape.max_positions} positions:"
                " lower it or raise max_positions."
            )
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise ValueError("max_seconds must be positive; leave it out for no limit.")
        if not (0 <= self.warmup and 0 <= self.decay and self.warmup + self.decay <= 1):
            raise ValueError("warmup and decay are shares of the run: together at most 1.")

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run done after `step` steps and `seconds` of training; it ends at 1."""
        by_time = seconds / self.max_seconds if self.max_seconds else 0.0
        return max(step / self.steps, by_time)

    def lr_factor(self, progress: float) -> float:
        """The learning rate's share of its peak at this progress."""
        rising = progress / self.warmup if self.warmup else 1.0
        falling = (1 - progress) / self.decay if self.decay else 1.0
        return max(0.0, min(1.0, rising, falling))


def _optimizers(model: Gemma2ForCausalLM, cfg: LMConfig) -> list[torch.optim.Optimizer]:
    """Optimisers whose groups carry their peak learning rate as `peak`."""
    embedding = model.model.embed_tokens.weight
    others = [p for p in model.parameters() if p is not embedding]
    matrices = [p for p in others if p.ndim == 2]
    groups = [
        {"params": [embedding], "lr": cfg.embedding_lr, "weight_decay": cfg.weight_decay},
        {"params": [p for p in others if p.ndim < 2], "lr": cfg.embedding_lr, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if cfg.optimizer == "muon":
        optimizers.append(BatchedMuon(matrices, lr=cfg.lr, weight_decay=cfg.weight_decay))
    else:
        groups.append({"params": matrices, "lr": cfg.lr, "weight_decay": cfg.weight_decay})
    fused = embedding.device.type == "cuda"
    optimizers.append(torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=fused))
    for group in (g for o in optimizers for g in o.param_groups):
        group["peak"] = group["lr"]
    return optimizers


@dataclass
class _Trainer:
    """The state of a run: model, data, and what was recorded."""

    cfg: LMConfig
    model: Gemma2ForCausalLM
    losses: Losses
    batches: Iterator[Tensor]
    sample: list[Tensor]
    special: Tensor
    metrics: Any  # an open text file, or None for a trial run
    curve: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)

    def validate(self) -> float:
        """Mean loss in nats of the sample's ordinary tokens.

        Gradients stay on, so that the function compiled for training serves here too.
        """
        nats, tokens = torch.zeros(2, device=self.special.device)
        for rows in self.sample:
            losses = self.losses(rows)[1]
            counts = ~torch.isin(rows[:, 1:], self.special)
            nats += (losses * counts).sum()
            tokens += counts.sum()
        return float(nats / tokens)

    def record(self, kind: list[dict[str, float]], row: dict[str, float]) -> None:
        kind.append(row)
        if self.metrics is not None:
            self.metrics.write(json.dumps(row) + "\n")
            self.metrics.flush()

    def fit(self) -> dict[str, float]:
        """Train to the end of the schedule; returns what it took."""
        cfg, device = self.cfg, self.special.device
        optimizers = _optimizers(self.model, cfg)
        groups = [g for o in optimizers for g in o.param_groups]
        parameters = list(self.model.parameters())
        tokens_a_step = cfg.batch_rows * cfg.context
        total = torch.zeros((), device=device)
        began = time.perf_counter()
        start = line_at = validated_at = began
        validating, step, recorded, progress = 0.0, 0, 0, 0.0
        while progress < 1.0:
            # The step about to be taken counts as half done: neither the first nor the last is void.
            at = cfg.progress(step, time.perf_counter() - start if step else 0.0)
            factor = cfg.lr_factor(min(1.0, at + 0.5 / cfg.steps))
            for group in groups:
                group["lr"] = group["peak"] * factor
            loss, _ = self.losses(next(self.batches))
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, cfg.clip)
            for optimizer in optimizers:
                optimizer.step()
            self.model.zero_grad(set_to_none=True)
            total += loss.detach()
            step += 1
            if step == 1:
                float(loss)  # waits for the device
                start = line_at = validated_at = time.perf_counter()
                log.info("first step: loss %.3f after %.1f s", float(loss), start - began)
            progress = cfg.progress(step, time.perf_counter() - start)
            if step % _STEPS_A_RECORD and progress < 1.0:
                continue
            mean = float(total) / (step - recorded)
            total.zero_()
            recorded = step
            now = time.perf_counter()
            seconds = now - start
            if not mean < float("inf"):
                raise ValueError(f"the loss is {mean} at step {step}: lower the learning rates.")
            rate = (step - 1) * tokens_a_step / max(seconds - validating, 1e-9)
            self.record(
                self.curve,
                {
                    "step": step,
                    "seconds": round(seconds, 2),
                    "tokens": step * tokens_a_step,
                    "loss": round(mean, 4),
                    "gradient_norm": round(float(norm), 4),
                    "lr_factor": round(factor, 5),
                },
            )
            if now - line_at >= _SECONDS_A_LINE or progress >= 1.0:
                line_at = now
                left = seconds * (1 / progress - 1)
                log.info(
                    "step %d (%.0f %%)  loss %.4f  lr x %.3f  %.0f tokens/s  %.0f s left",
                    *(step, 100 * progress, mean, factor, rate, max(0.0, left)),
                )
            if now - validated_at >= cfg.validate_seconds or progress >= 1.0:
                loss_there = self.validate()
                validated_at = time.perf_counter()
                validating += validated_at - now
                self.record(
                    self.validations,
                    {"step": step, "seconds": round(seconds, 2), "validation_loss": loss_there},
                )
                log.info("step %d  validation %.4f nats/token", step, loss_there)
        seconds = validated_at - start
        return {
            "steps": step,
            "tokens_seen": step * tokens_a_step,
            "seconds": round(seconds, 1),
            "first_step_seconds": round(start - began, 1),
            "tokens_per_second": round((step - 1) * tokens_a_step / (seconds - validating)),
        }


def _tokenizer(cfg: LMConfig) -> PreTrainedTokenizerFast:
    """The tokenizer of the configuration, or one trained on its corpus."""
    if cfg.tokenizer is None:
        texts = (document.text for document in documents(cfg.corpus))
        return train_tokenizer(texts, cfg.shape.vocab_size, cfg.shape.max_positions)
    if not (cfg.tokenizer / "tokenizer.json").is_file():
        raise ValueError(f"{cfg.tokenizer} holds no tokenizer.json: name a tokenizer's folder.")
    tokenizer = AutoTokenizer.from_pretrained(cfg.tokenizer)
    if len(tokenizer) != cfg.shape.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} entries but vocab_size is {cfg.shape.vocab_size}:"
            " make them equal."
        )
    return tokenizer


def train_lm(cfg: LMConfig) -> dict[str, Any]:
    """Train, save, measure what was saved, and return the report (also in `out/report.json`).

    Raises ValueError with one sentence for a missing or too small corpus, an impossible shape, an
    `out` that holds a model already, or a loss that is no longer finite.
    """
    if cfg.probe:
        cfg = replace(cfg, max_seconds=cfg.probe)
    elif (cfg.out / "model").exists():
        raise ValueError(f"{cfg.out} holds a model already: choose another folder.")
    files = expand(cfg.corpus)
    expand(cfg.validation)
    has_cuda = torch.cuda.is_available()
    device = torch.device(("cuda" if has_cuda else "cpu") if cfg.device == "auto" else cfg.device)

    began = time.perf_counter()
    tokenizer = _tokenizer(cfg)
    log.info("tokenizer: %d entries, %.1f s", len(tokenizer), time.perf_counter() - began)
    stream = token_stream(files, tokenizer)
    validation = token_stream(cfg.validation, tokenizer)
    log.info(
        "corpus: %d tokens, validation: %d; %.1f s",
        *(len(stream), len(validation), time.perf_counter() - began),
    )

    torch.manual_seed(cfg.seed)
    model = cfg.shape.build(tokenizer).to(device)
    parameters = model.num_parameters()
    log.info("model: %d parameters on %s", parameters, device)
    bos: int = tokenizer.bos_token_id
    masks = attention_masks(model, cfg.context, cfg.attention, device)

    def losses(rows: Tensor) -> tuple[Tensor, Tensor]:
        each = row_losses(model, rows, masks, bos)
        return each.sum() / (rows[:, 1:] != bos).sum(), each.detach()

    use_compiler = device.type == "cuda" if cfg.compile is None else cfg.compile
    rows = TokenRows(stream, cfg.context, bos, device)
    checked = TokenRows(validation, cfg.context, bos, device).in_order(cfg.batch_rows)
    wanted = max(1, cfg.validation_rows // cfg.batch_rows)
    whole = [b for _, b in zip(range(wanted), checked, strict=False) if len(b) == cfg.batch_rows]
    if not whole:
        raise ValueError(
            f"the validation text has {len(validation)} tokens, too few for a batch of "
            f"{cfg.batch_rows} rows of {cfg.context}: add text or lower batch_rows."
        )
    trainer = _Trainer(
        cfg=cfg,
        model=model,
        losses=torch.compile(losses, dynamic=False) if use_compiler else losses,
        batches=rows.shuffled(cfg.batch_rows, cfg.seed),
        sample=whole,
        special=torch.tensor(sorted(special_ids(tokenizer)), device=device),
        metrics=None,
    )
    report: dict[str, Any] = {
        "config": json.loads(json.dumps(asdict(cfg), default=str)),
        "parameters": parameters,
        "corpus_tokens": len(stream),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }
    if cfg.probe:
        report["training"] = trainer.fit() | {"validation": trainer.validations}
        return report

    cfg.out.mkdir(parents=True, exist_ok=True)
    with open(cfg.out / "metrics.jsonl", "w") as trainer.metrics:
        report["training"] = trainer.fit()
    with atomic_folder(cfg.out / "model") as folder:
        save_model(model, tokenizer, folder)
    log.info("saved to %s", cfg.out / "model")
    report["training"]["epochs"] = report["training"]["tokens_seen"] / len(stream)
    report["validation"] = measure_saved(cfg.out / "model", validation, cfg.context, device)
    log.info("saved model: %s", json.dumps(report["validation"]))
    report["validation_curve"] = trainer.validations
    report["training_curve"] = trainer.curve[:: max(1, len(trainer.curve) // 200)]
    report["samples"] = sample(cfg.out / "model", device, cfg.seed)
    with atomic_write(cfg.out / "report.json") as path:
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return report


def main() -> None:
    """Command line of `python -m training.lm`: the report goes to stdout, progress to stderr."""
    import tyro

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        report = train_lm(tyro.cli(LMConfig, description=__doc__))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    shown = {k: v for k, v in report.items() if k != "training_curve"}
    sys.stdout.write(json.dumps(shown, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
