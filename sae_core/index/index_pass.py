"""One pass of a corpus through a model and its SAEs: `Pass` reads, and counts what fires."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sae_core.attention_sink import FirstTokenStats, first_of_rows, without_first
from sae_core.corpus import TokenBatch, TokenRow, batches
from sae_core.index.ahead import ahead
from sae_core.index.corpus_spool import corpus_rows, until
from sae_core.index.counted_tokens import Chunk
from sae_core.index.forwards import Forwards, Run
from sae_core.index.gathered import Gathered
from sae_core.index.index_config import IndexConfig
from sae_core.index.ranks import Ranks
from sae_core.progress_bar import Progress
from sae_core.sae import SAE

log = logging.getLogger(__name__)

_PROBE_ROWS, _PROBE_BATCH, _PROBE_TOKENS = 64, 8, 8192
"""Rows, and tokens at most, on which it is settled whether first tokens are attention sinks."""
_AHEAD = 4
"""Batches of text made while others are counted."""


class Pass:
    """Reads a corpus; what it counts is `gathered`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        saes: Sequence[SAE],
        cfg: IndexConfig,
        context_size: int,
        spool: Path | None,
        ranks: Ranks,
    ) -> None:
        """`spool`: file for the tokens read; None for processes that write no index."""
        self._tokenizer, self._saes, self._cfg = tokenizer, saes, cfg
        self._context_size, self._ranks = context_size, ranks
        self._forwards = Forwards(model, saes)
        self._running: Run | None = None
        """What the model is at work on, or has been, and has not been counted yet."""
        self.gathered = Gathered(model, tokenizer, saes, cfg, context_size, spool, ranks)
        self._to_complete = self.gathered.prepared if ranks.world > 1 else []
        self._rows: Iterator[TokenRow] = iter(())
        """The corpus after what is in the spool."""

    def begin(self) -> None:
        """Settle what has to be fixed before the first token is counted; ValueError if there is
        none.
        """
        rows = self._corpus_rows()
        first = list(itertools.islice(rows, _PROBE_ROWS))
        if not first:
            raise ValueError("the corpus holds no text: give one that does.")
        if not self.gathered.skip:
            self.gathered.sink = self._is_sink(first)
        self._rows = itertools.chain(first, rows)

    def resume(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint."""
        self.gathered.load(state)
        self._rows = self._corpus_rows()

    def follow(self, position: dict[str, Any]) -> None:
        """Begin where the first process does, with nothing counted."""
        self.gathered.go_to(position)
        self._rows = self._corpus_rows()

    def _corpus_rows(self) -> Iterator[TokenRow]:
        spool = self.gathered.spool
        return corpus_rows(self._cfg, self._tokenizer, self._context_size, spool)

    def _is_sink(self, rows: Sequence[TokenRow]) -> bool:
        """Of a model without BOS, from the first rows; in batches of one size whatever the settings
        are.
        """
        home = self._saes[0].W_dec.device
        apart = [FirstTokenStats(s.cfg.width_out, s.cfg.d_sae, home) for s in self._saes]
        tokens = 0
        for batch in batches(rows, self._tokenizer, _PROBE_BATCH):
            first = first_of_rows(self._tokenizer, batch.mask)[batch.mask].to(home)
            pairs = self._forwards.pairs(batch.input_ids)
            for sae, stats, pair in zip(self._saes, apart, pairs, strict=True):
                x, y = (each[batch.mask.to(each.device)].float().to(home) for each in pair)
                stats.read(sae, x, y, first)
            tokens += int(batch.mask.sum())
            if tokens >= _PROBE_TOKENS:
                break
        sink = any(stats.sink for stats in apart)
        if sink:
            log.warning(
                "the model has no BOS, and the first token of each row is an attention sink: it is "
                "left out."
            )
        return sink

    def read(self, save: Callable[[], None], progress: Progress) -> None:
        """Read the rest of the sample. Now and then, and at the end, the first process has all that
        was counted; now and then it is told to `save`.
        """
        gathered = self.gathered
        for prepared in gathered.prepared:
            prepared.begin()
        saved = gathered.tokens
        for number, batch in enumerate(ahead(self._batches(), _AHEAD)):
            before, first = gathered.tokens, len(gathered.spool.row_start)
            gathered.remember(batch)
            if self._ranks.is_mine(number):
                begun = self._forwards.add(batch, first)
                if begun is not None:
                    self._count_last(begun)
            progress(gathered.tokens - before)
            if gathered.tokens - saved >= self._cfg.checkpoint_tokens:
                self._hand_over()
                save()
                saved = gathered.tokens
        self._hand_over()

    def _batches(self) -> Iterator[TokenBatch]:
        spool = self.gathered.spool
        rows = until(self._rows, self._cfg.tokens, spool, self.gathered.skip)
        given = batches(rows, self._tokenizer, self._cfg.rows_per_batch)
        return map(without_first, given) if self.gathered.sink else given

    def _hand_over(self) -> None:
        """All is counted. The first process absorbs what the others have counted, and they begin
        anew.
        """
        self._count_last(self._forwards.rest())
        self._count_last(None)
        if self._ranks.world == 1:
            return
        for prepared in self._to_complete:
            # Before the first waits for the others' shares, which they make at the same time.
            share = prepared.share()
            if self._ranks.first:
                prepared.complete(list(self._ranks.from_others()))
            else:
                self._ranks.send_to_first([share])
        self._to_complete = []
        for statistics in self.gathered.statistics:
            # All do this at the same time.
            statistics.settle()
            if not self._ranks.first:
                self._ranks.send_to_first(statistics.parts())
                statistics.handed_over()
                continue
            for state in self._ranks.from_others():
                statistics.absorb(state)

    def _count_last(self, begun: Run | None) -> None:
        """Count what fires in what ran before, now that the model has something else to do."""
        last, self._running = self._running, begun
        if last is not None:
            self._count(last)

    def _count(self, run: Run) -> None:
        """Count what fires."""
        spool, batch = self.gathered.spool, run.batch
        run.wait()
        keys, sources = spool.row_keys(batch.numbers), spool.row_sources(batch.numbers)
        documents = [spool.row_document[number] for number in batch.numbers]
        for statistics, (x, y) in zip(self.gathered.statistics, run.pairs, strict=True):
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
                    skip=self.gathered.skip,
                    row=like.new_tensor(batch.numbers),
                    key=like.new_tensor(keys),
                    document=like.new_tensor(documents),
                    source=like.new_tensor(sources),
                )
            )
