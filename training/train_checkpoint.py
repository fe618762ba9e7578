"""Checkpoints of a training run: whole or absent, the newest two kept.

A checkpoint holds every tensor that a step changes, and the place in the text. It is written under
another name, flushed and renamed; one that is damaged all the same (a truncated copy, say) is
passed over for the one before it. One process writes a file (`training.checkpoint_file`), several
a folder (`training.checkpoint_parts`); any number of them reads both.
"""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from training.checkpoint_file import DamagedError, load_whole, save_whole
from training.shard import ALONE, Shard

log = logging.getLogger(__name__)

KEPT = 2
_NAME = re.compile(r"step-(\d+)(?:\.safetensors)?")


def save(
    folder: Path,
    step: int,
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    shard: Shard = ALONE,
) -> Path:
    """Write the checkpoint of `step` and remove all but the newest `KEPT`; returns its path.

    `shard`: the part of the features that `tensors` hold; all processes call this together. Raises
    ValueError if the disk is full; the earlier checkpoints are then untouched.
    """
    if shard.alone:
        path = folder / f"step-{step:09d}.safetensors"
        save_whole(path, tensors, state)
    else:
        from training.checkpoint_parts import save_parts

        path = folder / f"step-{step:09d}"
        save_parts(path, tensors, state, shard)
    if shard.first:
        _clear(folder, path)
    return path


def _clear(folder: Path, newest: Path) -> None:
    """Remove checkpoints before the newest, and what processes that were killed have left."""
    other = newest.with_suffix("" if newest.suffix else ".safetensors")
    old = [path for _, path in list_saved(folder) if path != other][KEPT:]
    for path in [*old, other, *folder.glob(".step-*.tmp")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def list_saved(folder: Path) -> list[tuple[int, Path]]:
    """Steps and paths of the checkpoints in `folder`, the newest first."""
    if not folder.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)


def load_newest(
    folder: Path, shard: Shard = ALONE
) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """Step, tensors (on the CPU) and state of the newest whole checkpoint, None without any.

    Of tensors with features, those that are `shard`'s; all processes call this together. A damaged
    one is named in the log and passed over; ValueError if all are damaged.
    """
    saved = list_saved(folder)
    for step, path in saved:
        try:
            return step, *_load(path, shard)
        except DamagedError as error:
            log.warning("checkpoint %s is damaged (%s): trying the one before it.", path, error)
    if saved:
        raise ValueError(
            f"every checkpoint in {folder} is damaged: remove that folder to start again."
        )
    return None


def _load(path: Path, shard: Shard) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if path.is_file():
        return load_whole(path, shard)
    from training.checkpoint_parts import load_parts  # half a second, which few runs need

    return load_parts(path, shard)
