"""Checkpoints: one safetensors file each, whole or absent, the newest two kept.

A file holds every tensor that a step changes, and as JSON in its header the place in the text. It
is written under another name, flushed and renamed; one that is damaged all the same (a truncated
copy, say) is passed over for the one before it.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae_core.files import atomic_write

log = logging.getLogger(__name__)

KEPT = 2
_NAME = re.compile(r"step-(\d+)\.safetensors")


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write the checkpoint of `step` and remove all but the newest `KEPT`; returns its path.

    Raises ValueError if the disk is full; the earlier checkpoints are then untouched.
    """
    path = folder / f"step-{step:09d}.safetensors"
    on_processor = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(on_processor, temporary, metadata={"state": json.dumps(state)})
        except SafetensorError as error:
            # The library wraps the system's error in its own; the disk is the only cause here.
            raise ValueError(
                f"checkpoint {path} cannot be written ({error}): free some space, then give the "
                "same command again."
            ) from error
    for _, old in found(folder)[KEPT:]:
        old.unlink()
    # What processes that were killed while they wrote have left.
    for leftover in folder.glob(".step-*.tmp"):
        leftover.unlink()
    return path


def found(folder: Path) -> list[tuple[int, Path]]:
    """Steps and paths of the checkpoints in `folder`, the newest first."""
    if not folder.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)


def load_newest(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """Step, tensors (on the processor) and state of the newest whole checkpoint, None without any.

    A damaged one is named in the log and passed over; ValueError if all are damaged.
    """
    paths = found(folder)
    for step, path in paths:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                state = json.loads(file.metadata()["state"])
                return step, {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
            log.warning("checkpoint %s is damaged (%s): trying the one before it.", path, error)
    if paths:
        raise ValueError(
            f"every checkpoint in {folder} is damaged: remove that folder to start again."
        )
    return None
