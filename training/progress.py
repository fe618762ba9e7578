"""What a run says while it goes: metrics.jsonl, TensorBoard, and a progress bar on stderr."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from sae_core.files import atomic_write

METRICS_FILE = "metrics.jsonl"


class Progress:
    """Context manager around a run's loop; resumed runs continue the same file."""

    def __init__(
        self, out: Path, names: Sequence[str], *, start: int, steps: int, batch: int, board: bool
    ) -> None:
        """`names`: the SAEs; lines of steps after `start` (of a killed run) are removed."""
        self._batch = batch
        self._board = _board(out, names) if board else {}
        path = out / METRICS_FILE
        _cut(path, start)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed on exit
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

    def log(self, step: int, name: str, metrics: dict[str, Any]) -> None:
        """One line for one SAE; numbers that are not finite become null."""
        line = {
            "step": step,
            "sae": name,
            **{k: v if math.isfinite(v) else None for k, v in metrics.items()},
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if name in self._board:
            for key, value in metrics.items():
                self._board[name].add_scalar(key, value, step)

    def show(self, metrics: Sequence[dict[str, float]]) -> None:
        """The latest numbers of every SAE behind the bar."""
        self._bar.set_postfix_str(
            " | ".join(f"L0 {m['l0']:.1f} FVU {m['fvu']:.4f}" for m in metrics), refresh=False
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._file.close()
        for writer in self._board.values():
            writer.close()


def _board(out: Path, names: Sequence[str]) -> dict[str, Any]:
    from torch.utils.tensorboard import SummaryWriter

    return {name: SummaryWriter(str(out / "tensorboard" / name)) for name in names}


def _cut(path: Path, step: int) -> None:
    """Keep the whole lines of steps up to `step`."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off when the run was killed
        if entry["step"] <= step:
            kept.append(line + "\n")
    with atomic_write(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
