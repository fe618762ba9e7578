"""Build indexes: one pass of a corpus through a model and any number of SAEs on it."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_core.attention_sink import FirstTokenStats, first_of_rows, without_first
from sae_core.corpus import TokenBatch, TokenRow, batches
from sae_core.index import index_checkpoint
from sae_core.index.ahead import ahead
from sae_core.index.corpus_spool import Spool, corpus_rows, until
from sae_core.index.index_config import IndexConfig
from sae_core.index.output_scores import OutputScores, are_due, arms_of, output_scores
from sae_core.index.so_far import Spacing, gives_way
from sae_core.index.statistics import Chunk, FeatureStatistics, histogram_width
from sae_core.index.write import write_index
from sae_core.language_model import check_context
from sae_core.progress_bar import Progress, reported
from sae_core.residual_stream import check_stream
from sae_core.sae import SAE
from sae_core.sites import activations, check_widths
from sae_core.splice import SplicedLM

log = logging.getLogger(__name__)

_CALIBRATION_ROWS, _CALIBRATION_BATCH, _CALIBRATION_TOKENS = 64, 8, 8192
"""Rows, and tokens at most, on which the bins of the pre-activation histograms are settled."""
_AHEAD = 4
"""Batches of text made while others are counted."""


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
) -> list[dict[str, Any]]:
    """Index several SAEs of one model in one pass; returns the meta entries of each index.

    Model and SAEs stay on the device that they are on. Work in progress is kept beside the first
    index, so that a run that was killed goes on from its last checkpoint when it is started again;
    the result is the same. At some checkpoints indexes of what has been read so far are written.
    `progress` is told the number of tokens read, and then of those run for output scores; None
    shows a bar on stderr if it takes long. Raises ValueError with one sentence if the SAEs do not
    fit the model, the corpus cannot be read or is empty, a checkpoint belongs to another run,
    another process is building one of these indexes, or the disk is full.
    """
    with index_checkpoint.only_build([target.out_path for target in targets]):
        return _build(model, tokenizer, targets, cfg, model_name, progress)


def _build(
    model: Any,
    tokenizer: Any,
    targets: Sequence[Target],
    cfg: IndexConfig,
    model_name: str,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """`build_indexes` while no other process builds one of them."""
    saes = [target.sae for target in targets]
    context_size = _context_size(saes, cfg)
    check_context(model, context_size)
    _check_sites(model, saes)
    folder = index_checkpoint.folder_of(targets[0].out_path)
    if cfg.fresh:
        index_checkpoint.remove(folder)
    marks = index_checkpoint.fingerprint(model, saes, cfg, context_size)
    state = index_checkpoint.load(folder, marks)
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(model, tokenizer, saes, cfg, context_size, folder)
    try:
        if state is None:
            run.begin()
        else:
            run.resume(state)
            log.info("going on from %s tokens", f"{run.tokens:,}")
        with reported(progress, "indexing", tokens_to_run(saes, cfg)) as report:
            report(run.tokens)
            name = model_name or saes[0].cfg.model_name
            spacing = Spacing(sum(sae.cfg.d_sae for sae in saes))

            def save() -> None:
                index_checkpoint.save(folder, marks, run.state())
                if spacing.due():
                    with spacing.writing():
                        for n, target in enumerate(targets):
                            run.write_so_far(n, target.out_path, name)

            run.read(save, report)
            entries = [
                run.write(n, target.out_path, name, report) for n, target in enumerate(targets)
            ]
    except KeyboardInterrupt as stop:
        if not index_checkpoint.exists(folder):
            raise
        raise KeyboardInterrupt(
            f"interrupted at {run.tokens:,} tokens: the same command goes on from the last "
            f"checkpoint in {folder}."
        ) from stop
    finally:
        run.close()
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


def _check_sites(model: Any, saes: Sequence[SAE]) -> None:
    for sae in saes:
        if sae.cfg.site is None:
            raise ValueError("an SAE does not say at which site it reads: add it to its cfg.json.")
        check_widths(model, sae.cfg, f"the SAE at {sae.cfg.site}")
        check_stream(model, sae.cfg.site, sae.cfg.site_out)


class _Run:
    """One pass: the stream's spool, the sample's own counts, and statistics for each SAE."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        saes: Sequence[SAE],
        cfg: IndexConfig,
        context_size: int,
        folder: Path,
    ) -> None:
        self._model, self._tokenizer, self._saes, self._cfg = model, tokenizer, saes, cfg
        self._context_size = context_size
        self._device = next(model.parameters()).device
        self._skip = 0 if tokenizer.bos_token_id is None else 1
        self._vocab_size = max(len(tokenizer), int(model.config.vocab_size))
        spool = folder / index_checkpoint.SPOOL_FILE
        if not index_checkpoint.exists(folder):
            spool.unlink(missing_ok=True)
        self._spool = Spool(spool, self._vocab_size)
        self._sink = False
        """Whether the first token of each row is an attention sink, and counts nowhere."""
        self._token_counts = np.zeros(self._vocab_size, np.int64)
        self._source_tokens = np.zeros(0, np.int64)
        self._statistics: list[FeatureStatistics] = []
        self._rows: Iterator[TokenRow] = iter(())
        """The corpus after what is in the spool."""

    @property
    def tokens(self) -> int:
        """Tokens read; special ones do not count."""
        return int(self._token_counts.sum())

    def begin(self) -> None:
        """Settle what has to be fixed before the first token is counted."""
        self._rows = self._corpus_rows()
        first = list(itertools.islice(self._rows, _CALIBRATION_ROWS))
        widths = self._calibrate(first)
        self._rows = itertools.chain(first, self._rows)
        self._statistics = [
            FeatureStatistics(sae, self._cfg, width, self._vocab_size)
            for sae, width in zip(self._saes, widths, strict=True)
        ]

    def _corpus_rows(self) -> Iterator[TokenRow]:
        return corpus_rows(self._cfg, self._tokenizer, self._context_size, self._spool)

    def _calibrate(self, rows: Sequence[TokenRow]) -> list[torch.Tensor]:
        """Bin widths from the first rows, in batches of a fixed size whatever the settings."""
        seen: list[list[torch.Tensor]] = [[] for _ in self._saes]
        home = self._saes[0].W_dec.device
        apart = [FirstTokenStats(s.cfg.width_out, s.cfg.d_sae, home) for s in self._saes]
        firsts: list[torch.Tensor] = []
        tokens = 0
        for batch in batches(rows, self._tokenizer, _CALIBRATION_BATCH):
            pairs = self._activations(batch)
            firsts.append(first_of_rows(self._tokenizer, batch.mask)[batch.mask].to(home))
            for sae, kept, stats, pair in zip(self._saes, seen, apart, pairs, strict=True):
                x, y = (each[batch.mask.to(each.device)].float().to(home) for each in pair)
                kept.append(x)
                if not self._skip:
                    stats.read(sae, x, y, firsts[-1])
            tokens += int(batch.mask.sum())
            if tokens >= _CALIBRATION_TOKENS:
                break
        if not tokens:
            raise ValueError("the corpus holds no text: give one that does.")
        first = torch.cat(firsts)
        self._sink = any(stats.sink for stats in apart)
        if self._sink:
            log.warning(
                "the model has no BOS, and the first token of each row is an attention sink: it is "
                "left out."
            )
        counted = ~first if self._sink else torch.ones_like(first)
        return [
            histogram_width(sae, torch.cat(kept)[counted][:_CALIBRATION_TOKENS])
            for sae, kept in zip(self._saes, seen, strict=True)
        ]

    def _activations(self, batch: TokenBatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each SAE what it reads and what it reconstructs: the same, but for transcoders."""
        pairs = [(site, sae.cfg.site_out or site) for sae in self._saes if (site := sae.cfg.site)]
        sites = list(dict.fromkeys(site for pair in pairs for site in pair))
        captured = activations(self._model, batch.input_ids.to(self._device), sites)
        return [(captured[read], captured[write]) for read, write in pairs]

    def read(self, save: Callable[[], None], progress: Progress) -> None:
        """Read the rest of the sample, saving now and then."""
        saved = self.tokens
        for batch in ahead(self._batches(), _AHEAD):
            before = self.tokens
            self._count(batch)
            progress(self.tokens - before)
            if self.tokens - saved >= self._cfg.checkpoint_tokens:
                save()
                saved = self.tokens

    def _batches(self) -> Iterator[TokenBatch]:
        rows = until(self._rows, self._cfg.tokens, self._spool.length, self._skip)
        given = batches(rows, self._tokenizer, self._cfg.rows_per_batch)
        return map(without_first, given) if self._sink else given

    def _count(self, batch: TokenBatch) -> None:
        first = len(self._spool.row_start)
        pairs = self._activations(batch)
        self._spool.append(batch.rows, self._skip)
        real = batch.input_ids[batch.mask].numpy()
        self._token_counts += np.bincount(real, minlength=self._vocab_size)
        source = np.asarray(self._spool.row_sources(first))
        missing = len(self._spool.sources) - len(self._source_tokens)
        self._source_tokens = np.pad(self._source_tokens, (0, missing))
        np.add.at(self._source_tokens, source, batch.mask.sum(1).numpy())
        for statistics, (x, y) in zip(self._statistics, pairs, strict=True):
            # Apple's GPUs have no float64: there the SAEs are on the CPU, and the model is not.
            home = statistics.sae.W_dec.device
            x, y = x.to(home), y.to(home)
            like = torch.empty(0, dtype=torch.int64, device=x.device)
            statistics.update(
                Chunk(
                    x=x,
                    y=y,
                    ids=batch.input_ids.to(x.device),
                    valid=batch.mask.to(x.device),
                    skip=self._skip,
                    row=torch.arange(first, first + len(batch.rows), device=x.device),
                    start=like.new_tensor(self._spool.row_start[first:]),
                    document=like.new_tensor(self._spool.row_document[first:]),
                    source=like.new_tensor(source),
                )
            )

    def write(self, n: int, path: Path, model_name: str, progress: Progress) -> dict[str, Any]:
        """Write the index of the n-th SAE."""
        return self._write(n, path, model_name, scores=self._output_scores(n, progress))

    def write_so_far(self, n: int, path: Path, model_name: str) -> None:
        """The same of the tokens read so far, unless a finished index of more is there."""
        sae_hash = self._saes[n].cfg.metadata.get("content_hash", "")
        if self.tokens < self._cfg.tokens and gives_way(path, self.tokens, sae_hash):
            self._write(n, path, model_name, planned=self._cfg.tokens)

    def _write(self, n: int, path: Path, model_name: str, **more: Any) -> dict[str, Any]:
        return write_index(
            path,
            model=self._model,
            tokenizer=self._tokenizer,
            model_name=model_name,
            context_size=self._context_size,
            statistics=self._statistics[n],
            spool=self._spool,
            token_counts=self._token_counts,
            source_tokens=self._source_tokens,
            cfg=self._cfg,
            sink=self._sink,
            **more,
        )

    def _output_scores(self, n: int, progress: Progress) -> OutputScores | None:
        """Those of the n-th SAE's features, None where they are not to be measured."""
        arms = sum(arms_of(sae.cfg.d_sae) for sae in self._saes)
        if not are_due(self._cfg.output_scores, arms, self.tokens):
            return None
        sae, name = self._saes[n], str(n)
        home = sae.W_dec.device
        try:
            lm = SplicedLM(self._model, self._tokenizer, {name: sae})
            return output_scores(lm, name, progress=progress)
        except ValueError as error:
            # A model whose forwards cannot be gone on from. What was read is worth more.
            log.warning("the index has no output scores: %s", error)
            return None
        finally:
            sae.to(home)  # where its statistics are

    def state(self) -> dict[str, Any]:
        """All that `resume` needs."""
        return {
            "spool": self._spool.state(),
            "token_counts": torch.from_numpy(self._token_counts),
            "source_tokens": torch.from_numpy(self._source_tokens),
            "statistics": [statistics.state() for statistics in self._statistics],
            "sink": self._sink,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint."""
        self._spool.load(state["spool"])
        self._sink = state["sink"]
        self._token_counts = state["token_counts"].numpy()
        self._source_tokens = state["source_tokens"].numpy()
        self._statistics = []
        for sae, saved in zip(self._saes, state["statistics"], strict=True):
            statistics = FeatureStatistics(
                sae, self._cfg, saved["width"].to(sae.W_dec.device), self._vocab_size
            )
            statistics.load(saved)
            self._statistics.append(statistics)
        self._rows = self._corpus_rows()

    def close(self) -> None:
        """Close the spool."""
        self._spool.close()
