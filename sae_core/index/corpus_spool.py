"""The corpus as a stream of rows, remembered on disk while it is read.

The tokens of every row (BOS left out) are appended to a spool file; their number in it is a token's
*place in the stream*. The contexts that an index shows are cut out of the spool at the end, and a
run that was killed cuts the spool back to its last checkpoint and goes on from there.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sae_core.corpus import Document, TokenRow, documents, token_rows
from sae_core.index.index_config import IndexConfig

MAX_SOURCES = 256
"""Sources counted apart; those met later are counted together as `OTHER_SOURCES`."""
OTHER_SOURCES = "(other sources)"


class Spool:
    """Rows and documents of the stream so far: small tables in memory, tokens in a file."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        self._path = path
        self._dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        self._file = open(path, "ab")  # noqa: SIM115 - closed by close()
        self.length = 0
        """Tokens in the spool."""
        self.row_start: list[int] = []
        """Place of each row's first token."""
        self.row_document: list[int] = []
        """Index into `documents`."""
        self.row_offset: list[int] = []
        """Token of its document at which a row begins."""
        self.documents: list[tuple[int, str, int, str]] = []
        """Number in the corpus, title, index into `sources`, licence."""
        self.sources: list[str] = []
        self._source_index: dict[str, int] = {}

    def append(self, rows: Sequence[TokenRow], skip: int) -> None:
        """Remember rows whose first `skip` tokens are BOS."""
        for row in rows:
            document = row.document
            if not self.documents or self.documents[-1][0] != document.number:
                self.documents.append(self._facts(document))
            self.row_start.append(self.length)
            self.row_document.append(len(self.documents) - 1)
            self.row_offset.append(row.offset)
            self._file.write(row.ids[skip:].astype(self._dtype).tobytes())
            self.length += len(row.ids) - skip

    def _facts(self, document: Document) -> tuple[int, str, int, str]:
        source = document.source
        if source not in self._source_index:
            if len(self.sources) >= MAX_SOURCES:
                source = OTHER_SOURCES
            if source not in self._source_index:
                self._source_index[source] = len(self.sources)
                self.sources.append(source)
        return document.number, document.title, self._source_index[source], document.license

    def row_sources(self, first: int) -> list[int]:
        """Source of each row from row `first` on."""
        return [self.documents[d][2] for d in self.row_document[first:]]

    def tokens(self) -> np.ndarray:
        """All tokens, mapped from the file; read-only."""
        self._file.flush()
        if not self.length:
            return np.empty(0, self._dtype)
        return np.memmap(self._path, self._dtype, mode="r", shape=(self.length,))

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs; the tokens are on disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {
            "length": self.length,
            "row_start": list(self.row_start),
            "row_document": list(self.row_document),
            "row_offset": list(self.row_offset),
            "documents": [list(facts) for facts in self.documents],
            "sources": list(self.sources),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint; ValueError if the file is shorter than it was then."""
        size = state["length"] * self._dtype.itemsize
        if self._path.stat().st_size < size:
            raise ValueError(
                f"{self._path} is cut off: delete the folder {self._path.parent} to start again."
            )
        self._file.truncate(size)
        self.length = state["length"]
        self.row_start = list(state["row_start"])
        self.row_document = list(state["row_document"])
        self.row_offset = list(state["row_offset"])
        self.documents = [(n, title, source, lic) for n, title, source, lic in state["documents"]]
        self.sources = list(state["sources"])
        self._source_index = {source: i for i, source in enumerate(self.sources)}

    def close(self) -> None:
        """Close the file, leaving it on disk. What a full disk does not take any more is lost: it
        comes after the last checkpoint.
        """
        with suppress(OSError):
            self._file.close()


def corpus_rows(
    cfg: IndexConfig, tokenizer: Any, context_size: int, spool: Spool
) -> Iterator[TokenRow]:
    """Rows of the corpus that come after those in the spool."""
    if not spool.row_document:
        return token_rows(documents(cfg.corpus, options=cfg.text), tokenizer, context_size)
    last = spool.documents[-1][0]
    offset = spool.row_offset[-1]
    docs = documents(cfg.corpus, skip=last, options=cfg.text)
    rows = token_rows(docs, tokenizer, context_size)

    def seen(row: TokenRow) -> bool:
        return row.document.number == last and row.offset <= offset

    return itertools.dropwhile(seen, rows)


def until(rows: Iterator[TokenRow], tokens: int, have: int, skip: int) -> Iterator[TokenRow]:
    """Rows until the stream holds at least `tokens` tokens, `have` of which came before."""
    for row in rows:
        if have >= tokens:
            return
        have += len(row.ids) - skip
        yield row
