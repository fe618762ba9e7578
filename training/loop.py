"""The training run: `train(cfg)`.

One pass over the model's activations trains every SAE of the configuration. A run that was stopped
(Ctrl-C, SIGTERM, kill -9) goes on from its last checkpoint when it is started again with the same
settings, and ends with the weights it would have had.
"""

import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.bundle import load_language_model
from sae_core.config import Site
from sae_core.corpus import expand
from sae_core.files import atomic_write
from sae_core.sites import module_path, site_width
from training import checkpoint
from training.activations import ActivationBuffer, rows_per_forward
from training.config import TrainConfig
from training.losses import JumpReLULoss
from training.optim import Control, controls
from training.parameters import initial_parameters
from training.progress import Progress
from training.results import TrainResult, save_and_measure
from training.text import Text
from training.trainee import Trainee, compiler

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"
MOST_LOG_STEPS = 100
"""Metrics are written every 100 steps, or every hundredth of a shorter run."""


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; its text says where it stands and how to go on."""


def train(cfg: TrainConfig) -> list[TrainResult]:
    """Train the SAEs of `cfg`, save them under `cfg.out` and measure them as saved.

    Continues the run that `cfg.out` holds, if it has the same settings. Writes OUT/NAME/ for each
    SAE, OUT/metrics.jsonl, OUT/config.json and OUT/checkpoints/. Raises ValueError with one
    sentence for a mistake of the user's, and `Interrupted` after SIGINT or SIGTERM, having saved.
    """
    device, dtype = _place(cfg)
    for corpus in (cfg.corpus, cfg.eval_corpus):
        if corpus:
            expand(corpus)
    out = Path(cfg.out)
    _claim(out, cfg)
    model, tokenizer = load_language_model(cfg.model, dtype, device)
    _check_model(cfg, model)
    sites = list(dict.fromkeys(plan.site for plan in cfg.plans))
    text = Text(
        corpus=cfg.corpus,
        tokenizer=tokenizer,
        context_size=cfg.context_size,
        rows=rows_per_forward(cfg.context_size, cfg.buffer_tokens),
        seed=cfg.seed,
    )
    buffer = ActivationBuffer(model, sites, text, capacity=cfg.buffer_tokens, batch=cfg.batch)
    with closing(buffer):
        run = Run(cfg, buffer, {site: site_width(model, site) for site in sites}, device, dtype)
        run.start()
        with _stoppable() as stopped:
            run.loop(stopped)
    return save_and_measure(cfg, model, tokenizer, run.trainees, run.cost())


class Run:
    """The state of a run between its steps."""

    def __init__(
        self,
        cfg: TrainConfig,
        buffer: ActivationBuffer,
        widths: dict[Site, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.cfg = cfg
        self.step = 0
        self.trainees: list[Trainee] = []
        self._buffer = buffer
        self._widths = widths
        self._device = device
        self._dtype = dtype
        self._folder = Path(cfg.out) / CHECKPOINTS
        self._controls = controls(cfg, device)
        self._moments: dict[Site, tuple[float, Tensor]] = {}
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._logged = 0
        self._log_every = max(1, min(MOST_LOG_STEPS, cfg.steps // 100))

    def start(self) -> None:
        """From the newest checkpoint, or else from the beginning."""
        loaded = checkpoint.load_newest(self._folder)
        if loaded is None:
            log.info("filling the buffer with %s activations", f"{self._buffer.tokens_held:,}")
            self._buffer.begin()
            self._moments = {
                site: (square**0.5, mean) for site, (square, mean) in self._buffer.moments().items()
            }
            self._make_trainees()
            return
        self.step, tensors, state = loaded
        log.info("continuing from step %s of %s", f"{self.step:,}", f"{self.cfg.steps:,}")
        self._seconds_before = state["seconds"]
        self._logged = state["logged"]
        self._moments = {
            site: (state["scales"][str(site)], tensors[f"mean.{site}"].to(self._device))
            for site in self._widths
        }
        self._make_trainees()
        for trainee in self.trainees:
            prefix = f"{trainee.plan.name}."
            trainee.restore(
                {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            )
        if self.step < self.cfg.steps:
            self._buffer.restore(state["buffer"])

    def _make_trainees(self) -> None:
        cfg = self.cfg
        compile_ = compiler(cfg.run.compile, self._device)
        loss = JumpReLULoss(
            bandwidth=cfg.bandwidth,
            kernel=cfg.kernel,
            targeted=bool(cfg.l0_targets),
            products=self._dtype,
            compiler=compile_,
        )
        for plan in cfg.plans:
            scale, mean = self._moments[plan.site]
            # The same seed for every SAE: what one of them learns depends on no other.
            start = initial_parameters(
                self._widths[plan.site], cfg.d_sae, cfg.threshold_init, cfg.seed, self._device
            )
            coefficient = cfg.target_coefficient if plan.lambda_ is None else plan.lambda_
            self.trainees.append(
                Trainee(
                    plan,
                    start,
                    loss,
                    coefficient=coefficient,
                    scale=scale,
                    mean=mean,
                    compiler=compile_,
                )
            )

    def loop(self, stopped: threading.Event) -> None:
        """The remaining steps, with a checkpoint after the last."""
        cfg = self.cfg
        with Progress(
            Path(cfg.out),
            [trainee.plan.name for trainee in self.trainees],
            start=self.step,
            steps=cfg.steps,
            batch=cfg.batch,
            board=cfg.run.tensorboard,
        ) as progress:
            saved = self.step
            clock = time.monotonic()
            while self.step < cfg.steps:
                control = self._controls[self.step]
                batch = self._buffer.batch()
                if cfg.run.compile == "reduce-overhead":
                    torch.compiler.cudagraph_mark_step_begin()
                for trainee in self.trainees:
                    trainee.step(batch[trainee.plan.site], control)
                self.step += 1
                progress.step()
                if self.step % self._log_every == 0 or self.step == cfg.steps:
                    now = time.monotonic()
                    self._report(progress, control, now - clock)
                    clock = now
                due = cfg.run.checkpoint_every and self.step % cfg.run.checkpoint_every == 0
                if due or stopped.is_set() or self.step == cfg.steps:
                    self.save()
                    saved = self.step
                if stopped.is_set() and self.step < cfg.steps:
                    raise Interrupted(
                        f"interrupted at step {saved:,} of {cfg.steps:,}, saved: "
                        "give the same command again to continue."
                    )

    def _report(self, progress: Progress, control: Control, seconds: float) -> None:
        cfg = self.cfg
        steps = self.step - self._logged
        seen = self.step * cfg.batch
        lr, sparsity, *_ = control.tolist()
        every = []
        for trainee in self.trainees:
            found = trainee.measured(steps, cfg.batch, seen)
            every.append(found)
            progress.log(
                self.step,
                trainee.plan.name,
                {
                    "tokens": seen,
                    **found,
                    "lr": lr,
                    "sparsity_coefficient": sparsity * trainee.coefficient,
                    "tokens_per_second": steps * cfg.batch / max(seconds, 1e-9),
                    "seconds": self.seconds(),
                },
            )
            if not found["loss"] < float("inf"):
                raise ValueError(
                    f"the loss of {trainee.plan.name} is no longer finite at step {self.step:,}: "
                    "lower lr, or check the model's activations."
                )
        self._logged = self.step
        progress.show(every)

    def save(self) -> None:
        """Write a checkpoint of this step."""
        tensors = {f"mean.{site}": mean for site, (_, mean) in self._moments.items()}
        for trainee in self.trainees:
            for name, tensor in trainee.state().items():
                tensors[f"{trainee.plan.name}.{name}"] = tensor
        state = {
            "scales": {str(site): scale for site, (scale, _) in self._moments.items()},
            "buffer": self._buffer.state(),
            "logged": self._logged,
            "seconds": self.seconds(),
        }
        checkpoint.save(self._folder, self.step, tensors, state)

    def seconds(self) -> float:
        """Seconds of training so far, of every part of a run that was interrupted."""
        return self._seconds_before + time.monotonic() - self._started

    def cost(self) -> dict[str, Any]:
        """What the run took."""
        return {
            "steps": self.step,
            "tokens": self.step * self.cfg.batch,
            "seconds": round(self.seconds(), 1),
            "scale_tokens": self._buffer.tokens_held,
        }


def _place(cfg: TrainConfig) -> tuple[torch.device, torch.dtype]:
    """Device and number format of the products."""
    available = torch.cuda.is_available()
    if cfg.run.device == "cuda" and not available:
        raise ValueError("device is cuda but PyTorch finds no CUDA device: use cpu or auto.")
    cuda = available and cfg.run.device != "cpu"
    bfloat16 = cfg.precision == "bfloat16" or (cfg.precision == "auto" and cuda)
    return torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if bfloat16 else torch.float32


def _claim(out: Path, cfg: TrainConfig) -> None:
    """Make `out` this run's folder; ValueError if it holds a run of other settings."""
    settings = json.loads(json.dumps(asdict(cfg)))
    path = out / CONFIG_FILE
    if path.is_file():
        try:
            before = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged: choose another out folder.") from error
        same = ("run", "out")
        differing = [k for k, v in settings.items() if k not in same and before.get(k) != v]
        if differing:
            raise ValueError(
                f"{out} holds a run with another {', '.join(differing)}: choose another out "
                "folder, or remove this one."
            )
        return
    if out.is_file():
        raise ValueError(f"out is {out}, which is a file: name a folder.")
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n")


def _check_model(cfg: TrainConfig, model: Any) -> None:
    for plan in cfg.plans:
        module_path(model, plan.site)
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and cfg.context_size > longest:
        raise ValueError(
            f"context_size is {cfg.context_size} but the model reads {longest} tokens at most."
        )


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
