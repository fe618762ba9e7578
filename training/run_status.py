"""Where a run stands, for whoever looks into its folder from another process.

The run's lock says whether it is at work, however it ended; `status.json` says how it ended, where
it had time to say so. Neither needs PyTorch.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from sae_core.files import atomic_write, is_held

log = logging.getLogger(__name__)

CONFIG_FILE: Final = "config.json"
METRICS_FILE: Final = "metrics.jsonl"
STATUS_FILE: Final = "status.json"
LOCK_FILE: Final = "run.lock"
CHECKPOINTS: Final = "checkpoints"

State = Literal["at work", "finished", "stopped", "failed", "killed", "unknown"]
"""`killed`: it ended without a word, by kill -9 or a power cut. `unknown`: it is not at work, and
is of a version that did not say how it ended."""


def is_run(folder: Path) -> bool:
    """Whether a folder is a training run's."""
    try:
        settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    # A language model's folder has a config.json too.
    return isinstance(settings, dict) and {"d_sae", "sites", "corpus", "out"} <= settings.keys()


@contextmanager
def announced(out: Path, model: str) -> Iterator[None]:
    """Say in `out` that a run is at work inside the block, and after it how it ended. `model` is
    where its language model is, for readers elsewhere on this machine: an absolute folder, or a hub
    id.
    """
    _write(out, {"state": "at work", "model": model})
    ended: dict[str, str] = {"state": "finished", "sentence": ""}
    try:
        yield
    except KeyboardInterrupt as stop:
        ended = {"state": "stopped", "sentence": str(stop) or "interrupted."}
        raise
    except BaseException as error:
        sentence = str(error) if isinstance(error, ValueError) else ""
        ended = {"state": "failed", "sentence": sentence or f"an error: {type(error).__name__}."}
        raise
    finally:
        _write(out, {**ended, "model": model})


def _write(out: Path, status: dict[str, str]) -> None:
    try:
        with atomic_write(out / STATUS_FILE) as temporary:
            temporary.write_text(json.dumps(status) + "\n", encoding="utf-8")
    except ValueError as error:
        # A run goes on, or ends as it ends, whether or not somebody can be told.
        log.warning("where the run stands is not written: %s", error)


def status_of(out: Path) -> tuple[State, str]:
    """How the run in `out` stands, and its own sentence about that, "" without one."""
    held = is_held(out / LOCK_FILE)
    status = _read(out)
    state = status.get("state", "unknown")
    if not held and state == "at work":
        # It may have begun between the two looks.
        held = is_held(out / LOCK_FILE)
        state = "killed"
    return ("at work", "") if held else (state, str(status.get("sentence", "")))


def model_of(out: Path) -> str:
    """Where the run's language model is; "" if it has not said so."""
    return str(_read(out).get("model", ""))


def _read(out: Path) -> dict[str, Any]:
    try:
        status = json.loads((out / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}
