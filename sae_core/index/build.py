"""Build indexes: one pass of a corpus through a model and any number of SAEs on it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sae_core.index import index_checkpoint, kept_state
from sae_core.index.index_config import IndexConfig
from sae_core.index.index_pass import Pass
from sae_core.index.output_scores import are_due, arms_of
from sae_core.index.ranks import ALONE, Ranks
from sae_core.index.so_far import Spacing, gives_way
from sae_core.language_model import check_context
from sae_core.progress_bar import Progress, reported, silent
from sae_core.residual_stream import check_stream
from sae_core.sae import SAE
from sae_core.sites import check_widths

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Target:
    """An SAE and the file its index goes to."""

    sae: SAE
    out_path: Path


def build_index(
    model: Any,
    tokenizer: Any,
    sae: SAE,
    cfg: IndexConfig,
    out_path: Path,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Index one SAE; returns the index's meta entries. See `build_indexes`."""
    targets = [Target(sae=sae, out_path=Path(out_path))]
    return build_indexes(model, tokenizer, targets, cfg, progress=progress)[0]


@torch.no_grad()
def build_indexes(
    model: Any,
    tokenizer: Any,
    targets: Sequence[Target],
    cfg: IndexConfig,
    *,
    model_name: str = "",
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> list[dict[str, Any]]:
    """Index several SAEs of one model in one pass; returns the meta entries of each index.

    Model and SAEs stay on the device that they are on. Work in progress is kept beside the first
    index, so that a run that was killed goes on from its last checkpoint when it is started again,
    by however many processes; the result is the same. At some checkpoints indexes of what has been
    read so far are written. `progress` is told the number of tokens read, and then of those run for
    output scores; None shows a bar on stderr if it takes long. Of several `ranks` all call this,
    and all but the first return nothing. Raises ValueError with one sentence if the SAEs do not
    fit the model, the corpus cannot be read or is empty, a checkpoint belongs to another run,
    another process is building one of these indexes, or the disk is full.
    """
    saes = [target.sae for target in targets]
    context_size = _context_size(saes, cfg)
    check_context(model, context_size)
    for sae in saes:
        check_site(model, sae)
    if not ranks.first:
        follower = Pass(model, tokenizer, saes, cfg, context_size, None, ranks)
        try:
            follower.follow(ranks.from_first(None))
            follower.read(lambda: None, silent)
        finally:
            follower.gathered.close()
        return []
    with index_checkpoint.only_build([target.out_path for target in targets]):
        return _build(model, tokenizer, targets, cfg, context_size, model_name, progress, ranks)


def _build(
    model: Any,
    tokenizer: Any,
    targets: Sequence[Target],
    cfg: IndexConfig,
    context_size: int,
    model_name: str,
    progress: Progress | None,
    ranks: Ranks,
) -> list[dict[str, Any]]:
    """`build_indexes` of the first process, while no other run builds one of them."""
    saes = [target.sae for target in targets]
    folder = index_checkpoint.folder_of(targets[0].out_path)
    if cfg.fresh:
        index_checkpoint.remove(folder)
    marks = index_checkpoint.fingerprint(model, saes, cfg, context_size)
    state = index_checkpoint.load(folder, marks)
    folder.mkdir(parents=True, exist_ok=True)
    spool = folder / index_checkpoint.SPOOL_FILE
    if state is None:
        spool.unlink(missing_ok=True)
    run = Pass(model, tokenizer, saes, cfg, context_size, spool, ranks)
    gathered = run.gathered
    try:
        if state is None:
            run.begin()
        else:
            run.resume(state)
            log.info("going on from %s tokens", f"{gathered.tokens:,}")
        ranks.from_first(gathered.position())
        with reported(progress, "indexing", tokens_to_run(saes, cfg)) as report:
            report(gathered.tokens)
            name = model_name or saes[0].cfg.model_name
            spacing = Spacing(sum(sae.cfg.d_sae for sae in saes))

            def save() -> None:
                index_checkpoint.save(folder, marks, gathered.state())
                if gathered.tokens < cfg.tokens and spacing.due():
                    with spacing.writing():
                        for n, target in enumerate(targets):
                            sae_hash = target.sae.cfg.metadata.get("content_hash", "")
                            if gives_way(target.out_path, gathered.tokens, sae_hash):
                                gathered.write_so_far(n, target.out_path, name)
                                kept_state.remove(target.out_path)

            run.read(save, report)
            entries = []
            for n, target in enumerate(targets):
                path = target.out_path
                if not cfg.keep_state:
                    entries.append(gathered.write(n, path, name, report))
                    kept_state.remove(path)
                    continue
                facts = kept_state.Facts.of(model, target.sae, cfg, context_size, gathered.sink)
                with kept_state.kept(path, facts, gathered, n) as mark:
                    entries.append(gathered.write(n, path, name, report, mark))
    except KeyboardInterrupt as stop:
        if not index_checkpoint.exists(folder):
            raise
        raise KeyboardInterrupt(
            f"interrupted at {gathered.tokens:,} tokens: the same command goes on from the last "
            f"checkpoint in {folder}."
        ) from stop
    finally:
        gathered.close()
        if not index_checkpoint.exists(folder):
            index_checkpoint.remove(folder)
    index_checkpoint.remove(folder)
    return entries


def tokens_to_run(saes: Sequence[SAE], cfg: IndexConfig) -> int:
    """Tokens to read, and those to run for output scores, if the corpus holds as many."""
    arms = sum(arms_of(sae.cfg.d_sae) for sae in saes)
    return cfg.tokens + (arms if are_due(cfg.output_scores, arms, cfg.tokens) else 0)


def _context_size(saes: Sequence[SAE], cfg: IndexConfig) -> int:
    if cfg.context_size:
        return cfg.context_size
    sizes = {sae.cfg.context_size for sae in saes}
    if None in sizes:
        raise ValueError("an SAE does not say its context_size: give one.")
    if len(sizes) > 1:
        raise ValueError("the SAEs do not agree on a context_size: give one.")
    return int(sizes.pop() or 0)


def check_site(model: Any, sae: SAE) -> None:
    """ValueError with one sentence if the SAE does not fit the model, or says no site."""
    if sae.cfg.site is None:
        raise ValueError("an SAE does not say at which site it reads: add it to its cfg.json.")
    check_widths(model, sae.cfg, f"the SAE at {sae.cfg.site}")
    check_stream(model, sae.cfg.site, sae.cfg.site_out)
