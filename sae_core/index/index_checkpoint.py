"""Checkpoints of an unfinished index: a folder beside it with one state file and the spool."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_core.corpus import expand
from sae_core.files import atomic_write, only_one
from sae_core.index.index_config import IndexConfig
from sae_core.sae import SAE

log = logging.getLogger(__name__)

STATE_FILE, SPOOL_FILE = "state.pt", "tokens.bin"
_VERSION = 5
# What may change between a run and its continuation.
_FREE = (
    "bundle", "sae", "model", "corpus", "rows_per_batch", "checkpoint_tokens",
    "fresh", "device", "dtype", "output_scores", "keep_state", "map",
)  # fmt: skip


def folder_of(out_path: Path) -> Path:
    """Where the unfinished work for an index at `out_path` is kept."""
    return out_path.with_name(f"{out_path.name}.partial")


@contextmanager
def only_build(paths: Sequence[Path]) -> Iterator[None]:
    """Keep other builds away from the indexes at `paths`, until the block or the process ends;
    ValueError with one sentence if one is at work on any of them.
    """
    with ExitStack() as held:
        for path in paths:
            busy = (
                f"another jumpscope index is at work on {path}: wait until it has ended, or stop "
                "it and give this command again to go on from its checkpoint."
            )
            held.enter_context(only_one(path.with_name(f"{path.name}.lock"), busy))
        yield


def fingerprint(
    model: nn.Module, saes: Sequence[SAE], cfg: IndexConfig, context_size: int
) -> dict[str, str]:
    """What a checkpoint must agree on: settings, corpus, model, SAEs."""
    settings = {k: v for k, v in asdict(cfg).items() if k not in _FREE}
    settings |= {"context_size": context_size, "version": _VERSION}
    files = [[Path(path).name, *_file_marks(path)] for path in expand(cfg.corpus)]
    return {
        "settings": json.dumps(settings, sort_keys=True),
        "corpus": json.dumps(files),
        "model": weights_mark(model),
        "SAEs": json.dumps(
            [[str(sae.cfg.site), str(sae.cfg.target), weights_mark(sae)] for sae in saes]
        ),
    }


def _file_marks(path: str) -> list[str]:
    """Size and a hash of both ends, which in Parquet hold data and the statistics of all of it."""
    if "://" in path:
        return []
    end = 2**20
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(end))
        size = file.seek(0, 2)
        file.seek(max(0, size - end))
        digest.update(file.read(end))
    return [str(size), digest.hexdigest()]


def weights_mark(module: nn.Module) -> str:
    """Hash of the names, shapes, dtypes and first and last values of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        flat = parameter.detach().reshape(-1)
        ends = torch.cat([flat[:64], flat[-64:]]).float().cpu().numpy()
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(ends.tobytes())
    return digest.hexdigest()


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return (folder / STATE_FILE).is_file()


def save(folder: Path, marks: dict[str, str], state: dict[str, Any]) -> None:
    """Write the state; a reader sees the old one or the new one."""
    with atomic_write(folder / STATE_FILE) as temporary:
        torch.save({"marks": marks, "state": state}, temporary)


def load(folder: Path, marks: dict[str, str]) -> dict[str, Any] | None:
    """The state of an unfinished run, None if there is none.

    Raises ValueError if it belongs to another run, saying what differs.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        theirs, state = saved["marks"], saved["state"]
    except Exception as error:  # torch.load raises whatever the damage makes its parts raise
        raise ValueError(
            f"checkpoint {path} is damaged: delete the folder {folder} to start again."
        ) from error
    different = [name for name, mark in marks.items() if theirs.get(name) != mark]
    if different:
        raise ValueError(
            f"{folder} holds an unfinished index with other {' and '.join(different)}: "
            "start again with --fresh, or give the same as then."
        )
    return state


def remove(folder: Path) -> None:
    """Delete the unfinished work."""
    shutil.rmtree(folder, ignore_errors=True)
