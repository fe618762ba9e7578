"""Indexes of one SAE over different texts, joined into what one pass over all of them writes.

    state of A + state of B  ->  statistics of A then B  ->  index

Counts are added, candidates are chosen again from what both have kept, and sums are sums: only
these, and what comes from them, depend on the order of additions in their last bits.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from sae_core.index import kept_state
from sae_core.index.build import check_site
from sae_core.index.gathered import Gathered
from sae_core.index.index_checkpoint import only_build
from sae_core.progress_bar import Progress, silent
from sae_core.sae import SAE


@torch.no_grad()
def merge_indexes(
    model: Any,
    tokenizer: Any,
    sae: SAE,
    parts: Sequence[Path],
    out_path: Path,
    *,
    output_scores: Literal["auto", "on", "off"] = "auto",
    model_name: str = "",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write to `out_path` the index of the texts of `parts`, one after another; returns its meta
    entries. Its own state is kept beside it.

    `parts` are indexes with their states. Output scores are measured anew, as in a build;
    `progress` is told of their tokens. Raises ValueError with one sentence if a state is missing,
    damaged, of another index than is beside it or of other weights than `sae`, if a part is named
    twice, or if parts differ in what they must agree on.
    """
    check_site(model, sae)
    check_parts(parts)
    with (
        only_build([out_path]),
        tempfile.TemporaryDirectory(prefix=f".{out_path.name}.", dir=out_path.parent) as folder,
    ):
        first, *_ = kept_state.read(parts[0])
        _check_weights(parts[0], first, model, sae)
        cfg = first.config(output_scores=output_scores)
        spool = Path(folder) / "tokens.bin"
        gathered = Gathered(model, tokenizer, [sae], cfg, first.context_size, spool)
        try:
            for path in parts:
                facts, state, tokens = kept_state.read(path)
                _check_alike(parts[0], first, path, facts)
                _append(gathered, path, state, tokens)
            name = model_name or sae.cfg.model_name
            with kept_state.kept(out_path, first, gathered, 0) as mark:
                meta = gathered.write(0, out_path, name, progress, mark)
        finally:
            gathered.close()
    return meta


def check_parts(parts: Sequence[Path]) -> None:
    """ValueError with one sentence as `kept_state.check` says, or if an index is among them twice:
    by two names, or as a copy.
    """
    seen: dict[str, Path] = {}
    for path in parts:
        mark = kept_state.check(path)
        if mark in seen:
            raise ValueError(
                f"{seen[mark]} and {path} are the same index: name it once, or its text would "
                "count twice."
            )
        seen[mark] = path


def _append(gathered: Gathered, path: Path, state: dict[str, Any], tokens: np.ndarray) -> None:
    try:
        gathered.append(state, tokens)
    except torch.OutOfMemoryError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise kept_state.damaged(path) from error


def _check_weights(path: Path, facts: kept_state.Facts, model: Any, sae: SAE) -> None:
    state = kept_state.path_of(path)
    if facts.sae != kept_state.sae_mark(sae):
        raise ValueError(f"{state} is of other weights of the SAE: build that index again.")
    if facts.vocabulary != int(model.config.vocab_size):
        raise ValueError(f"{state} is of another model: its vocabulary is not this one's.")


def _check_alike(
    one: Path, facts: kept_state.Facts, other: Path, their_facts: kept_state.Facts
) -> None:
    theirs = asdict(their_facts)
    differ = [name for name, value in asdict(facts).items() if theirs[name] != value]
    if differ:
        raise ValueError(
            f"{one} and {other} cannot be merged: they differ in {' and '.join(differ)}."
        )
