"""What a training run has written so far, read from its folder: `RunRecord`."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sae_core.formats.saelens import load_config
from training import train_checkpoint
from training.doctor import Line
from training.progress import read_metrics
from training.run_status import CHECKPOINTS, CONFIG_FILE, METRICS_FILE, State, status_of
from training.sae_trainer import FREQUENCY_BINS
from training.train_config import Plan, TrainConfig

LINES_OF_SPEED = 5
"""Lines of metrics over which a run's speed is taken, checkpoints between them included."""


@dataclass(frozen=True)
class Spell:
    """A finding of the doctor's and the steps during which it held."""

    check: str
    sentence: str
    first: int
    last: int
    over: bool


@dataclass(frozen=True)
class SAERecord:
    """One SAE of a run."""

    plan: Plan
    lines: list[Line]
    """Its metrics, at least one line."""
    metadata: dict[str, Any] | None
    """Of the SAE as it is saved: of the run's end, or of a checkpoint; None before the first."""

    @property
    def last(self) -> Line:
        """The newest line."""
        return self.lines[-1]

    @property
    def frequencies(self) -> tuple[list[str], list[int]]:
        """Names of the bins of the newest histogram of frequencies, and features in each."""
        edges = [_share(edge) if i in (4, 8) else "" for i, edge in enumerate(FREQUENCY_BINS)]
        return ["never", *edges], self.last["frequencies"]

    @property
    def shares(self) -> list[str]:
        """The bins of that histogram in words."""
        edges = [f"{edge:.2g}" for edge in [*FREQUENCY_BINS, 1.0]]
        return ["never", *(f"{low} to {high}" for low, high in pairwise(edges))]

    @property
    def spells(self) -> list[Spell]:
        """All findings, those that hold first."""
        open_: dict[str, Spell] = {}
        closed = []
        for line in self.lines:
            findings, step = line["findings"], line["step"]
            closed += [
                Spell(s.check, s.sentence, s.first, s.last, True)
                for check, s in open_.items()
                if check not in findings
            ]
            open_ = {
                check: Spell(
                    check, sentence, open_[check].first if check in open_ else step, step, False
                )
                for check, sentence in findings.items()
            }
        return [*open_.values(), *closed]


@dataclass(frozen=True)
class RunRecord:
    """A run, finished or not."""

    name: str
    cfg: TrainConfig
    settings: dict[str, Any]
    """As config.json has them."""
    saes: list[SAERecord]
    """Those with metrics: none until the first line is there."""
    state: State
    said: str
    """The run's own sentence about how it ended; "" without one."""
    checkpoint: int
    """Step of the newest checkpoint, 0 without one."""

    @property
    def step(self) -> int:
        """The newest step with metrics, 0 before the first."""
        return min((sae.last["step"] for sae in self.saes), default=0)

    @property
    def tokens(self) -> int:
        """What every SAE has been trained on at that step."""
        return self.step * self.cfg.batch

    @property
    def at_work(self) -> bool:
        """Whether a process is at work on it."""
        return self.state == "at work"

    @property
    def finished(self) -> bool:
        """Whether its last step is taken and nothing is at work on it any more."""
        stopped = self.state in ("failed", "stopped", "killed")
        return self.step >= self.cfg.steps and not self.at_work and not stopped

    @property
    def speed(self) -> float | None:
        """Tokens per second lately; None before the first line."""
        if not self.saes:
            return None
        lines = self.saes[0].lines[-LINES_OF_SPEED:]
        tokens = lines[-1]["tokens"] - lines[0]["tokens"]
        seconds = lines[-1]["seconds"] - lines[0]["seconds"]
        return tokens / seconds if tokens > 0 and seconds > 0 else lines[-1]["tokens_per_second"]

    @property
    def seconds_left(self) -> float | None:
        """An estimate for the steps that are left, at the speed of lately; None if unknown."""
        if not self.speed or not self.at_work:
            return None
        return (self.cfg.steps - self.step) * self.cfg.batch / self.speed

    @property
    def holding(self) -> list[tuple[str, Spell]]:
        """The findings that hold now, each with its SAE's name."""
        return [(s.plan.name, spell) for s in self.saes for spell in s.spells if not spell.over]


def read_run(folder: Path) -> RunRecord:
    """The run in `folder`; ValueError with one sentence if there is none, or nothing to show."""
    run = read_begun(folder)
    if not run.saes:
        raise ValueError(f"{folder} has no metrics yet: wait for the first line of {METRICS_FILE}.")
    return run


def read_begun(folder: Path) -> RunRecord:
    """The same of a run that may have no metrics yet."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no training run: give the out folder of a jumpscope train."
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        cfg = TrainConfig.from_json(settings)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: train again to another folder.") from error
    # Before the metrics: of a run that ends meanwhile, the next look tells all.
    state, said = status_of(folder)
    lines = read_metrics(folder / METRICS_FILE)
    saes = []
    for plan in cfg.plans:
        own = [line for line in lines if line["sae"] == plan.name]
        if own:
            saes.append(SAERecord(plan, own, _metadata(folder / "saes" / plan.name)))
    saved = train_checkpoint.list_saved(folder / CHECKPOINTS)
    return RunRecord(
        name=folder.resolve().name,
        cfg=cfg,
        settings=settings,
        saes=saes if len(saes) == len(cfg.plans) else [],
        state=state,
        said=said,
        checkpoint=saved[0][0] if saved else 0,
    )


def _metadata(folder: Path) -> dict[str, Any] | None:
    if not (folder / "cfg.json").is_file():
        return None
    try:
        return load_config(folder).metadata
    except ValueError:
        return None  # another one is taking its place


def _share(value: float) -> str:
    """A power of ten as a share: 1 % or 1 in 10,000."""
    return f"{value:.0%}" if value >= 0.01 else f"1 in {round(1 / value):,}"
