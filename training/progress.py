"""What a run says while it goes: metrics.jsonl, TensorBoard, and a progress bar on stderr."""

import errno
import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from sae_core.files import atomic_write
from training.doctor import Finding, Goal, Line, alike, examine
from training.run_status import METRICS_FILE
from training.train_config import TrainConfig

MOST_LOG_STEPS = 100
"""Metrics are written every 100 steps, or every hundredth of a shorter run."""

log = logging.getLogger(__name__)


class Progress:
    """Context manager around a run's loop; resumed runs continue the same file."""

    def __init__(
        self, out: Path, goals: Sequence[Goal], *, start: int, steps: int, batch: int, board: bool
    ) -> None:
        """`goals`: of each SAE; lines of steps after `start` (of a killed run) are removed."""
        self._batch = batch
        names = [goal.plan.name for goal in goals]
        self._board = _board(out, names) if board else {}
        path = out / METRICS_FILE
        _cut(path, start)
        self._goals = dict(zip(names, goals, strict=True))
        self._lines = {name: read_metrics(path, name) for name in names}
        self._findings: dict[str, list[Finding]] = {
            name: examine(lines, self._goals[name]) if lines else []
            for name, lines in self._lines.items()
        }
        self._path = path
        self._redirect = logging_redirect_tqdm()
        self._bar = tqdm(
            total=steps * batch,
            initial=start * batch,
            unit="token",
            unit_scale=True,
            desc="training",
            dynamic_ncols=True,
            smoothing=0.05,
            # In a log file every refresh is a line of its own.
            mininterval=0.5 if sys.stderr.isatty() else 10,
        )

    def step(self) -> None:
        """One batch is done."""
        self._bar.update(self._batch)

    def log(self, step: int, name: str, metrics: dict[str, Any]) -> list[Finding]:
        """One line for one SAE, and what the doctor finds; numbers that are not finite are null."""
        line: Line = {"step": step, "sae": name, **{k: _finite(v) for k, v in metrics.items()}}
        self._lines[name].append(line)
        findings = examine(self._lines[name], self._goals[name])
        line["findings"] = {finding.check: finding.sentence for finding in findings}
        self._write(json.dumps(line) + "\n")
        if name in self._board:
            for key, value in metrics.items():
                if isinstance(value, float):
                    self._board[name].add_scalar(key, value, step)
        self._tell(name, findings)
        return findings

    def _write(self, text: str) -> None:
        """Add to the metrics file; without a full disk's line a run is still worth finishing."""
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            log.warning("no space left on the disk of %s: a line is lost.", self._path)

    def _tell(self, name: str, findings: list[Finding]) -> None:
        """A finding is said once when it appears, and once when it is gone."""
        before = {finding.check for finding in self._findings[name]}
        now = {finding.check for finding in findings}
        for finding in findings:
            if finding.check not in before:
                log.warning("doctor: %s: %s: %s", name, finding.check, finding.sentence)
        for check in sorted(before - now):
            # It may only have given way to another that sees the same.
            if not now.intersection(alike(check)):
                log.info("doctor: %s: %s is over", name, check)
        self._findings[name] = findings

    def show(self) -> None:
        """The latest numbers and findings of every SAE behind the bar."""
        parts = []
        for name, lines in self._lines.items():
            line = lines[-1]
            words = "".join(f" ! {finding.check}" for finding in self._findings[name])
            numbers = f"L0 {_shown(line['l0'], 1)} FVU {_shown(line['fvu'], 4)}"
            parts.append(f"{name}: {numbers}{words}")
        self._bar.set_postfix_str(" | ".join(parts), refresh=False)

    def __enter__(self) -> "Progress":
        # Whatever is logged meanwhile stands on lines of its own, above the bar.
        self._redirect.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._redirect.__exit__(kind, error, trace)
        for writer in self._board.values():
            writer.close()


def log_every(cfg: TrainConfig) -> int:
    """Steps between two lines of metrics."""
    return max(1, min(MOST_LOG_STEPS, cfg.steps // 100))


def read_metrics(path: Path, name: str | None = None) -> list[Line]:
    """The lines of a metrics file, of one SAE or of all; one that was cut off is left out."""
    lines = []
    if not path.is_file():
        return lines
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # cut off when the run was killed, or still being written
        if name is None or line["sae"] == name:
            lines.append(line)
    return lines


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _board(out: Path, names: Sequence[str]) -> dict[str, Any]:
    from torch.utils.tensorboard import SummaryWriter

    return {name: SummaryWriter(str(out / "tensorboard" / name)) for name in names}


def _cut(path: Path, step: int) -> None:
    """Keep the whole lines of steps up to `step`."""
    if not path.is_file():
        return
    kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= step]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
