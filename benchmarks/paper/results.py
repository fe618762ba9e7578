"""The results of the studies: `benchmarks/results/paper_STUDY.json`, kept as they come."""

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.compact_json import compact_json, tabled, untabled
from benchmarks.gemma_shapes import machine

FOLDER = Path("benchmarks/results")
DIGITS = 4


def path_of(study: str, folder: Path = FOLDER) -> Path:
    """The file of a study's results."""
    return folder / f"paper_{study}.json"


def read(study: str, folder: Path = FOLDER) -> dict[str, Any]:
    """A study's results, as they were kept."""
    return read_file(path_of(study, folder))


def read_file(path: Path) -> dict[str, Any]:
    """The results in a file."""
    return untabled(json.loads(path.read_text(encoding="utf-8")))


class Results:
    """A study's results, written to its file after every part; their `rows` as tables."""

    def __init__(self, study: str, folder: Path, settings: dict[str, Any]) -> None:
        """`settings`: all that the numbers depend on beside the code, the seed among them."""
        self._path = path_of(study, folder)
        self._started = time.monotonic()
        self.data: dict[str, Any] = {"study": study, "settings": settings}

    def keep(self, **parts: Any) -> None:
        """Add parts, with the cost so far, and write everything."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        of_now = {"threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d")}
        self.data["machine"] = machine(device) | of_now
        self.data["seconds"] = round(time.monotonic() - self._started, 1)
        self.data |= {name: shortened(part) for name, part in parts.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(self._path.name + ".tmp")
        temporary.write_text(compact_json(tabled(self.data)) + "\n", encoding="utf-8")
        temporary.replace(self._path)


def shortened(value: Any, digits: int = DIGITS) -> Any:
    """Numbers with so many significant digits, tensors as lists, null for what is not finite."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): shortened(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(v, digits) for v in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
