"""What an index was made from, kept beside it so that it can be merged: `index.state.safetensors`.

It holds what a checkpoint does, of one SAE, and the tokens that were read (docs/format.md). A state
and its index have the same random mark, so that one is never taken for the state of another index,
whatever has failed or was killed between the two.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_core.files import atomic_write, remove_leftovers
from sae_core.index import state_file
from sae_core.index.gathered import Gathered
from sae_core.index.index_checkpoint import weights_mark
from sae_core.index.index_config import IndexConfig
from sae_core.index.schema import connect, rows_of
from sae_core.sae import SAE
from sae_core.text_options import TextOptions

_FORMAT, _VERSION = "jumpscope-index-state", "2"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What indexes that are merged must agree on; strings and numbers."""

    sae: str
    """Hash of its weights."""
    model: str
    """Hash of its parameters' names, shapes, dtypes and ends."""
    vocabulary: int
    context_size: int
    attention_sink: bool
    before: int
    after: int
    top: int
    intervals: int
    per_interval: int
    near_misses: int
    seed: int
    text: dict[str, Any]

    @classmethod
    def of(
        cls, model: Any, sae: SAE, cfg: IndexConfig, context_size: int, attention_sink: bool
    ) -> "Facts":
        """Those of a run."""
        return cls(
            sae=sae_mark(sae),
            model=weights_mark(model),
            vocabulary=int(model.config.vocab_size),
            context_size=context_size,
            attention_sink=attention_sink,
            before=cfg.before,
            after=cfg.after,
            top=cfg.top,
            intervals=cfg.intervals,
            per_interval=cfg.per_interval,
            near_misses=cfg.near_misses,
            seed=cfg.seed,
            text=asdict(cfg.text),
        )

    def config(self, **more: Any) -> IndexConfig:
        """Settings of a run that has them."""
        names = {f.name for f in fields(IndexConfig)} - {"sae", "model", "text"}
        given = {name: value for name, value in asdict(self).items() if name in names} | more
        return IndexConfig(corpus=("what was merged",), text=TextOptions(**self.text), **given)


def sae_mark(sae: SAE) -> str:
    """What tells its weights from others."""
    return sae.cfg.metadata.get("content_hash", "") or weights_mark(sae)


def path_of(index_path: Path) -> Path:
    """Where the state of an index is kept."""
    return index_path.with_name(f"{index_path.stem}.state.safetensors")


def remove(index_path: Path) -> None:
    """Remove the state of an index that has been replaced."""
    path_of(index_path).unlink(missing_ok=True)


@contextmanager
def kept(index_path: Path, facts: Facts, gathered: Gathered, n: int) -> Iterator[str]:
    """Keep what was gathered of the n-th SAE beside the index that the block writes with the mark
    that it is given.

    The state takes its place after the index has done so. If the block raises, or the disk is full,
    the old state stays, beside the old index or one that it does not fit.
    """
    mark = uuid.uuid4().hex
    remove_leftovers(path_of(index_path))
    with atomic_write(path_of(index_path)) as temporary:
        _write(temporary, mark, facts, gathered, n)
        yield mark


def _write(path: Path, mark: str, facts: Facts, gathered: Gathered, n: int) -> None:
    tokens = np.asarray(gathered.spool.tokens())
    state = gathered.position() | {
        "facts": asdict(facts),
        "statistics": [gathered.statistics[n].state()],
        "token_bytes": tokens.dtype.itemsize,
        "tokens": torch.from_numpy(np.frombuffer(bytearray(tokens.tobytes()), np.uint8)),
    }
    state_file.write(path, state, {"format": _FORMAT, "version": _VERSION, "mark": mark})


def check(index_path: Path) -> str:
    """The mark of an index's state. ValueError with one sentence if that is missing, another kind
    of file, of another version, or of another index than is there.
    """
    path = path_of(index_path)
    if not path.is_file():
        raise ValueError(f"there is no {path} to merge: build that index with --keep-state.")
    marks = state_file.read_marks(path)
    if marks.get("format") != _FORMAT:
        raise ValueError(f"{path} is not the state of an index.")
    if marks.get("version") != _VERSION:
        raise ValueError(
            f"{path} was written by another version of Jumpscope: build that index again."
        )
    # A state says all by itself: its index need not have been copied with it.
    mark = marks.get("mark", "")
    if index_path.is_file() and json.dumps(mark) != _mark_of(index_path):
        raise ValueError(
            f"{path} is not the state of the index beside it, whose writing did not get as far as "
            "that: build that index again with --keep-state."
        )
    return mark


def _mark_of(index_path: Path) -> str | None:
    """The mark in an index, as JSON; None if it was written without a state."""
    connection = connect(index_path)
    try:
        rows = rows_of(connection, index_path, "SELECT value FROM meta WHERE key = 'state_mark'")
    finally:
        connection.close()
    return rows[0][0] if rows else None


def read(index_path: Path) -> tuple[Facts, dict[str, Any], np.ndarray]:
    """Facts, what was gathered (`Gathered.append`), and the tokens of an index's state.

    ValueError with one sentence as `check` says, or if it is damaged.
    """
    check(index_path)
    path = path_of(index_path)
    state = state_file.read(path)
    try:
        facts = Facts(**state["facts"])
        facts.config()  # which checks them
        dtype = {2: "<u2", 4: "<u4"}[state["token_bytes"]]
        tokens = state["tokens"].numpy().view(dtype)
        length = state["spool"]["length"]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(index_path) from error
    if len(tokens) != length:
        raise ValueError(f"{path} is damaged: it lacks some of its tokens.")
    return facts, state, tokens


def damaged(index_path: Path) -> ValueError:
    """Of an index's state that cannot be what was written."""
    return ValueError(f"{path_of(index_path)} is damaged: build that index again.")
