"""One run between its first step and its last: `TrainRun`."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from sae_core.config import Site
from training import train_checkpoint
from training.activations import ActivationBuffer
from training.assembly import make_trainers
from training.doctor import Goal
from training.graph import Recorded
from training.optim import Controls, controls
from training.progress import Progress, log_every
from training.run_provenance import software
from training.run_status import CHECKPOINTS
from training.sae_trainer import SAETrainer, compiler
from training.shard import ALONE, Shard
from training.train_config import TrainConfig

log = logging.getLogger(__name__)

AGREE = 16
"""Steps after which several processes ask each other whether one was told to stop: asking takes
them a tenth of a millisecond."""


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; its text says where it stands and how to go on."""


class TrainRun:
    """The SAEs of a run, where it stands, and the loop that takes it further."""

    def __init__(
        self,
        cfg: TrainConfig,
        buffer: ActivationBuffer,
        shard: Shard = ALONE,
        on_checkpoint: Callable[[Sequence[SAETrainer], dict[str, Any]], None] | None = None,
    ) -> None:
        """`buffer`: of the activations at every site of `cfg`; `shard`: of several processes, which
        do everything together but log, write metrics and answer to the user; `on_checkpoint` is
        told the SAEs, and what training them has cost, after each checkpoint on the way.
        """
        self.cfg = cfg
        self.step = 0
        self.trainers: list[SAETrainer] = []
        self.facts: dict[str, Any] = {}
        """Where, with what and at which cost the SAEs were trained; known after the last step and
        kept in its checkpoint, so that another process does not say its own."""
        self._buffer = buffer
        self._shard = shard
        self._on_checkpoint = on_checkpoint
        self._sites = list(dict.fromkeys(plan.site for plan in cfg.plans))
        self._device = buffer.device
        self._dtype = buffer.dtype
        self._folder = Path(cfg.out) / CHECKPOINTS
        self._lrs = list(dict.fromkeys(plan.lr for plan in cfg.plans))
        self._controls = controls(cfg, self._lrs, buffer.device)
        self._moments: dict[Site, tuple[float, Tensor]] = {}
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._logged = 0
        self._log_every = log_every(cfg)

    def start(self) -> None:
        """From the newest checkpoint, or else from the beginning."""
        loaded = train_checkpoint.load_newest(self._folder, self._shard)
        if loaded is None:
            with self._filling(self._buffer.tokens_held) as progress:
                self._buffer.begin(progress)
            self._moments = {
                site: (square**0.5, mean) for site, (square, mean) in self._buffer.moments().items()
            }
            self._make_trainers()
            return
        self.step, tensors, state = loaded
        log.info("continuing from step %s of %s", f"{self.step:,}", f"{self.cfg.steps:,}")
        self._seconds_before = state["seconds"]
        self._logged = state["logged"]
        self._moments = {
            site: (state["scales"][str(site)], tensors[f"mean.{site}"].to(self._device))
            for site in self._sites
        }
        self._make_trainers()
        for trainer in self.trainers:
            prefix = f"{trainer.plan.name}."
            mine = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            trainer.restore(mine, self.step)
        if self.step < self.cfg.steps:
            place = state["buffer"]
            with self._filling(self._buffer.tokens_to_restore(place)) as progress:
                self._buffer.restore(place, progress)
        else:
            self.facts = state["facts"]

    @contextmanager
    def _filling(self, tokens: int) -> Iterator[Callable[[int], object]]:
        """A bar while the buffer is filled, on the first process; `Interrupted` says that nothing
        came of it.
        """
        with tqdm(
            total=tokens,
            unit="token",
            unit_scale=True,
            desc="filling the buffer",
            dynamic_ncols=True,
            disable=not self._shard.first,
        ) as bar:
            try:
                yield bar.update
            except KeyboardInterrupt as stop:
                begun = (
                    f"the run is saved as of step {self.step:,}: give the same command again to "
                    "continue."
                    if self.step
                    else "nothing is saved, since no step was taken: give the same command again "
                    "to begin."
                )
                raise Interrupted(f"interrupted while the buffer was filled; {begun}") from stop

    def _make_trainers(self) -> None:
        cfg = self.cfg
        compile_ = compiler(cfg.run.compile, self._device)
        self.trainers = make_trainers(cfg, self._moments, self._dtype, compile_, self._shard)

    def loop(self, stopped: threading.Event) -> None:
        """The remaining steps, with a checkpoint after the last."""
        cfg = self.cfg
        with self._progress() as progress:
            timed = self.step
            clock = time.monotonic()
            take = Recorded(self._take) if cfg.run.compile == "cuda-graph" else self._take
            while self.step < cfg.steps:
                control = self._controls[self.step]
                batch = self._buffer.batch()
                take(batch, control)
                self.step += 1
                if progress is not None:
                    progress.step()
                if self.step % self._log_every == 0 or self.step == cfg.steps:
                    now = time.monotonic()
                    # Steps of a process before this one took none of these seconds.
                    rate = (self.step - timed) * cfg.batch / max(now - clock, 1e-9)
                    self._report(progress, batch, control, rate)
                    timed, clock = self.step, now
                due = cfg.run.checkpoint_every and self.step % cfg.run.checkpoint_every == 0
                stop = self._stops(stopped)
                if stop or self.step == cfg.steps:
                    self.save()
                elif due:
                    self._try_to_save()
                if stop and self.step < cfg.steps:
                    raise Interrupted(
                        f"interrupted at step {self.step:,} of {cfg.steps:,}, saved: "
                        "give the same command again to continue."
                    )

    def _progress(self) -> AbstractContextManager[Progress | None]:
        """Of the first process; the others say nothing."""
        if not self._shard.first:
            return nullcontext()
        cfg = self.cfg
        return Progress(
            Path(cfg.out),
            [Goal(cfg, trainer.plan, trainer.limits) for trainer in self.trainers],
            start=self.step,
            steps=cfg.steps,
            batch=cfg.batch,
            board=cfg.run.tensorboard,
        )

    def _stops(self, stopped: threading.Event) -> bool:
        """Whether to stop after this step; several processes agree on it, every `AGREE` steps."""
        if self._shard.alone:
            return stopped.is_set()
        return self.step % AGREE == 0 and self._shard.any(stopped.is_set())

    def _take(self, batch: dict[Site, Tensor], control: Controls) -> None:
        """One step of every SAE."""
        for trainer in self.trainers:
            row = self._lrs.index(trainer.plan.lr)
            trainer.step(batch[trainer.plan.site], control[row])

    def _report(
        self,
        progress: Progress | None,
        batch: dict[Site, Tensor],
        control: Controls,
        rate: float,
    ) -> None:
        cfg = self.cfg
        steps = self.step - self._logged
        seen = self.step * cfg.batch
        rows = control.tolist()
        norms = {site: _norms(x, self._moments[site][0]) for site, x in batch.items()}
        for trainer in self.trainers:
            lr, share, *_ = rows[self._lrs.index(trainer.plan.lr)]
            measured = trainer.measured(steps, cfg.batch, seen)
            if progress is None:
                continue
            findings = progress.log(
                self.step,
                trainer.plan.name,
                {
                    "tokens": seen,
                    **measured,
                    **norms[trainer.plan.site],
                    "lr": lr,
                    "sparsity_coefficient": share * trainer.coefficient,
                    "tokens_per_second": rate,
                    "seconds": self.seconds(),
                },
            )
            for finding in findings:
                if finding.check == "loss-not-finite":
                    raise ValueError(finding.sentence)
        self._logged = self.step
        if progress is not None:
            progress.show()

    def save(self) -> None:
        """Write a checkpoint of this step."""
        tensors = {f"mean.{site}": mean for site, (_, mean) in self._moments.items()}
        for trainer in self.trainers:
            for name, tensor in trainer.state().items():
                tensors[f"{trainer.plan.name}.{name}"] = tensor
        state = {
            "scales": {str(site): scale for site, (scale, _) in self._moments.items()},
            "buffer": self._buffer.state(),
            "logged": self._logged,
            "seconds": self.seconds(),
        }
        if self.step == self.cfg.steps:
            self.facts = state["facts"] = {**self._cost(), **software(self._device)}
        train_checkpoint.save(self._folder, self.step, tensors, state, self._shard)

    def _try_to_save(self) -> None:
        """Write a checkpoint, or go on without: a full disk may have room again at the next."""
        try:
            self.save()
        except ValueError as error:
            log.warning("going on without a checkpoint of step %s: %s", f"{self.step:,}", error)
            return
        if self._on_checkpoint is not None:
            self._on_checkpoint(self.trainers, self._cost())

    def seconds(self) -> float:
        """Seconds of training so far, of every part of a run that was interrupted."""
        return self._seconds_before + time.monotonic() - self._started

    def _cost(self) -> dict[str, Any]:
        """What the run took, and what `auto` became."""
        return {
            "precision": str(self._dtype).removeprefix("torch."),
            "steps": self.step,
            "tokens": self.step * self.cfg.batch,
            "seconds": round(self.seconds(), 1),
            "scale_tokens": self._buffer.tokens_held,
            **({} if self._shard.alone else {"processes": self._shard.world}),
        }


def _norms(raw: Tensor, scale: float) -> dict[str, float]:
    """Median and largest norm of a batch's activations, divided by C."""
    norms = raw.float().norm(dim=1) / scale
    return {"norm_p50": float(norms.median()), "norm_max": float(norms.max())}
