"""Checkpoints: one safetensors file each, whole or absent, the newest two kept.

A file holds every tensor that a step changes, and as JSON in its header the place in the text. It
is written under another name, flushed and renamed; one that is damaged all the same (a truncated
copy, say) is passed over for the one before it. Several processes write a folder instead
(`training.checkpoint_parts`); any number of them reads both.
"""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae_core.files import atomic_write
from training.shard import ALONE, Shard, features_dim

log = logging.getLogger(__name__)

KEPT = 2
_NAME = re.compile(r"step-(\d+)(?:\.safetensors)?")


class DamagedError(Exception):
    """A checkpoint that is not whole; says why."""


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
        _save_file(path, tensors, state)
    else:
        from training.checkpoint_parts import save_parts

        path = folder / f"step-{step:09d}"
        save_parts(path, tensors, state, shard)
    if shard.first:
        _clear(folder, path)
    return path


def _save_file(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
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


def _clear(folder: Path, newest: Path) -> None:
    """Remove checkpoints before the newest, and what processes that were killed have left."""
    other = newest.with_suffix("" if newest.suffix else ".safetensors")
    old = [path for _, path in found(folder) if path != other][KEPT:]
    for path in [*old, other, *folder.glob(".step-*.tmp")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def found(folder: Path) -> list[tuple[int, Path]]:
    """Steps and paths of the checkpoints in `folder`, the newest first."""
    if not folder.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)


def load_newest(
    folder: Path, shard: Shard = ALONE
) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """Step, tensors (on the processor) and state of the newest whole checkpoint, None without any.

    Of tensors with features, those that are `shard`'s; all processes call this together. A damaged
    one is named in the log and passed over; ValueError if all are damaged.
    """
    paths = found(folder)
    for step, path in paths:
        try:
            return step, *_load(path, shard)
        except DamagedError as error:
            log.warning("checkpoint %s is damaged (%s): trying the one before it.", path, error)
    if paths:
        raise ValueError(
            f"every checkpoint in {folder} is damaged: remove that folder to start again."
        )
    return None


def _load(path: Path, shard: Shard) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if path.is_file():
        return _load_file(path, shard)
    from training.checkpoint_parts import load_parts  # half a second, which few runs need

    return load_parts(path, shard)


def _load_file(path: Path, shard: Shard) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = json.loads(file.metadata()["state"])
            for name in file.keys():  # noqa: SIM118
                dim = features_dim(name)
                if shard.alone or dim is None:
                    tensors[name] = file.get_tensor(name)
                else:
                    part = file.get_slice(name)
                    mine = shard.features(part.get_shape()[dim])
                    tensors[name] = part[:, mine] if dim else part[mine]
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DamagedError(error) from error
    return tensors, state
