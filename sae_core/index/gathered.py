"""What has been read and counted of a text, for any number of SAEs; it can be written as indexes.

One process gathers it from a corpus, several processes of a run each a part of it, and indexes that
are merged have each gathered a part.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_core.corpus import TokenBatch
from sae_core.index.corpus_spool import Spool
from sae_core.index.index_config import IndexConfig
from sae_core.index.output_scores import OutputScores, are_due, arms_of, output_scores
from sae_core.index.prepared import Prepared
from sae_core.index.ranks import ALONE, Ranks
from sae_core.index.statistics import FeatureStatistics
from sae_core.index.write import write_index
from sae_core.progress_bar import Progress
from sae_core.sae import SAE
from sae_core.splice import SplicedLM

log = logging.getLogger(__name__)


class Gathered:
    """The stream's spool, the sample's own counts, and statistics for each SAE."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        saes: Sequence[SAE],
        cfg: IndexConfig,
        context_size: int,
        spool: Path | None,
        ranks: Ranks = ALONE,
    ) -> None:
        """`spool`: file for the tokens read; None where nothing will be written."""
        self._model, self._tokenizer, self._saes, self._cfg = model, tokenizer, saes, cfg
        self._context_size = context_size
        self.skip = 0 if tokenizer.bos_token_id is None else 1
        """Tokens at the start of a row that are BOS."""
        self._vocab_size = max(len(tokenizer), int(model.config.vocab_size))
        self.spool = Spool(spool, self._vocab_size)
        self.sink = False
        """Whether the first token of each row is an attention sink, and counts nowhere."""
        self._token_counts = np.zeros(self._vocab_size, np.int64)
        self._source_tokens = np.zeros(0, np.int64)
        self.statistics = [FeatureStatistics(sae, cfg, self._vocab_size) for sae in saes]
        self.prepared = [
            Prepared(model, tokenizer, sae, cfg, self._vocab_size, ranks) for sae in saes
        ]

    @property
    def tokens(self) -> int:
        """Tokens read; special ones do not count."""
        return int(self._token_counts.sum())

    def remember(self, batch: TokenBatch) -> None:
        """Take the next rows into the spool and into the counts of tokens."""
        first = len(self.spool.row_start)
        self.spool.append(batch.rows, self.skip)
        real = batch.input_ids[batch.mask].numpy()
        self._token_counts += np.bincount(real, minlength=self._vocab_size)
        source = np.asarray(self.spool.row_sources(range(first, len(self.spool.row_start))))
        self._room_for_sources()
        np.add.at(self._source_tokens, source, batch.mask.sum(1).numpy())

    def _room_for_sources(self) -> None:
        missing = len(self.spool.sources) - len(self._source_tokens)
        self._source_tokens = np.pad(self._source_tokens, (0, missing))

    def write(
        self, n: int, path: Path, model_name: str, progress: Progress, state_mark: str = ""
    ) -> dict[str, Any]:
        """Write the index of the n-th SAE; returns its meta entries. `state_mark` is that of the
        state that is kept beside it.
        """
        self.prepared[n].decoder()  # before the SAE may move
        scores = self._output_scores(n, progress)
        return self._write(n, path, model_name, scores=scores, state_mark=state_mark)

    def write_so_far(self, n: int, path: Path, model_name: str) -> None:
        """The same of a text that will be longer, without output scores."""
        self._write(n, path, model_name, planned=self._cfg.tokens)

    def _write(self, n: int, path: Path, model_name: str, **more: Any) -> dict[str, Any]:
        return write_index(
            path,
            prepared=self.prepared[n],
            model_name=model_name,
            context_size=self._context_size,
            statistics=self.statistics[n],
            spool=self.spool,
            token_counts=self._token_counts,
            source_tokens=self._source_tokens,
            cfg=self._cfg,
            sink=self.sink,
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

    def position(self) -> dict[str, Any]:
        """What has been read, without what was counted of features: tensors and plain values."""
        return {
            "spool": self.spool.state(),
            "token_counts": torch.from_numpy(self._token_counts),
            "source_tokens": torch.from_numpy(self._source_tokens),
            "sink": self.sink,
        }

    def go_to(self, position: dict[str, Any]) -> None:
        """Inverse of `position`."""
        self.spool.load(position["spool"])
        self._token_counts = position["token_counts"].numpy().copy()
        self._source_tokens = position["source_tokens"].numpy().copy()
        self.sink = position["sink"]

    def state(self) -> dict[str, Any]:
        """All that `load` needs."""
        return self.position() | {
            "statistics": [statistics.state() for statistics in self.statistics]
        }

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.go_to(state)
        for statistics, saved in zip(self.statistics, state["statistics"], strict=True):
            statistics.load(saved)

    def append(self, state: dict[str, Any], tokens: np.ndarray) -> None:
        """Take in what was gathered of another text for the same SAEs, as if it had been read after
        this one; `tokens` are those of its spool.
        """
        rows, documents = len(self.spool.row_start), len(self.spool.documents)
        sources = self.spool.absorb(state["spool"], tokens)
        self._token_counts += state["token_counts"].numpy()
        self._room_for_sources()
        np.add.at(self._source_tokens, sources, state["source_tokens"].numpy())
        self.sink = state["sink"]
        for statistics, saved in zip(self.statistics, state["statistics"], strict=True):
            statistics.absorb(saved, rows=rows, documents=documents, sources=sources)

    def close(self) -> None:
        """Close the spool, end the threads, and leave the SAEs as they were."""
        self.spool.close()
        for prepared in self.prepared:
            prepared.close()
        for statistics in self.statistics:
            statistics.release()
