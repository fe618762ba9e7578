"""What a training run has written so far, read from its folder: `RunRecord`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_core.formats.saelens import load_config
from training.loop import CONFIG_FILE
from training.progress import METRICS_FILE, Line, read_metrics
from training.sae_trainer import FREQUENCY_BINS
from training.train_config import Plan, TrainConfig


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
    """Of the saved SAE; None before the run's end."""

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

    @property
    def step(self) -> int:
        """The newest step with metrics."""
        return min(sae.last["step"] for sae in self.saes)

    @property
    def finished(self) -> bool:
        """Whether its last step is taken."""
        return self.step >= self.cfg.steps


def read_run(folder: Path) -> RunRecord:
    """The run in `folder`; ValueError with one sentence if there is none, or nothing to show."""
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
    lines = read_metrics(folder / METRICS_FILE)
    saes = []
    for plan in cfg.plans:
        own = [line for line in lines if line["sae"] == plan.name]
        if own:
            saes.append(SAERecord(plan, own, _metadata(folder / "saes" / plan.name)))
    if not saes:
        raise ValueError(f"{folder} has no metrics yet: wait for the first line of {METRICS_FILE}.")
    return RunRecord(folder.resolve().name, cfg, settings, saes)


def _metadata(folder: Path) -> dict[str, Any] | None:
    return load_config(folder).metadata if (folder / "cfg.json").is_file() else None


def _share(value: float) -> str:
    """A power of ten as a share: 1 % or 1 in 10,000."""
    return f"{value:.0%}" if value >= 0.01 else f"1 in {round(1 / value):,}"
