"""The corpus as a stream of rows, remembered on disk while it is read.

The tokens of every row (BOS left out) are appended to a spool file; their number in it is a token's
*place in the stream*. The contexts that an index shows are cut out of the spool at the end, and a
run that was killed cuts the spool back to its last checkpoint and goes on from there.

Every document has a *key*, 64 bits of a hash of its source, title and text, and every token that of
its document plus its place in it: what is drawn at random is drawn by these, so that it depends
neither on what else is read nor on who reads it.
"""

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_core.corpus import Document, TokenRow, documents, token_rows
from sae_core.index.index_config import IndexConfig

MAX_SOURCES = 256
"""Sources counted apart; those met later are counted together as `OTHER_SOURCES`."""
OTHER_SOURCES = "(other sources)"


class Spool:
    """Rows and documents of the stream so far: small tables in memory, tokens in a file."""

    def __init__(self, path: Path | None, vocab_size: int) -> None:
        """`path`: file of the tokens; None remembers everything but them."""
        self._path = path
        self._dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        self._file = open(path or os.devnull, "ab")  # noqa: SIM115 - closed by close()
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
        self.keys: list[int] = []
        """Of each document, an int64."""
        self.sources: list[str] = []
        self._source_index: dict[str, int] = {}
        self.corpus_documents = 0
        """Documents in the corpus, those without text too, once all have been looked at."""
        self.whole_documents = 0
        """The same, once all their rows have been taken."""

    @property
    def documents_read(self) -> int:
        """How many documents of the corpus have been read, those without text too."""
        last = self.documents[-1][0] + 1 if self.documents else 0
        return max(last, self.whole_documents)

    def append(self, rows: Sequence[TokenRow], skip: int) -> None:
        """Remember rows whose first `skip` tokens are BOS."""
        for row in rows:
            document = row.document
            if not self.documents or self.documents[-1][0] != document.number:
                self.documents.append(self._facts(document))
                self.keys.append(document_key(document))
            self.row_start.append(self.length)
            self.row_document.append(len(self.documents) - 1)
            self.row_offset.append(row.offset)
            self._file.write(row.ids[skip:].astype(self._dtype).tobytes())
            self.length += len(row.ids) - skip

    def _facts(self, document: Document) -> tuple[int, str, int, str]:
        source = self._source(document.source)
        return document.number, document.title, source, document.license

    def _source(self, name: str) -> int:
        """Its number in `sources`, where it is put if it is new."""
        if name not in self._source_index:
            if len(self.sources) >= MAX_SOURCES:
                name = OTHER_SOURCES
            if name not in self._source_index:
                self._source_index[name] = len(self.sources)
                self.sources.append(name)
        return self._source_index[name]

    def absorb(self, state: dict[str, Any], tokens: np.ndarray) -> list[int]:
        """Append another spool, with its tokens; says which of this one's sources its sources are.

        Its documents are numbered on from the last that this one has read.
        """
        sources = [self._source(name) for name in state["sources"]]
        number = self.documents_read
        before = len(self.documents)
        self.documents += [
            (n + number, title, sources[source], lic)
            for n, title, source, lic in state["documents"]
        ]
        self.keys += state["keys"].tolist()
        self.row_start += [start + self.length for start in state["row_start"].tolist()]
        self.row_document += [document + before for document in state["row_document"].tolist()]
        self.row_offset += state["row_offset"].tolist()
        self._file.write(tokens.astype(self._dtype).tobytes())
        self.length += state["length"]
        self.whole_documents = number + state["documents_read"]
        return sources

    def row_sources(self, rows: Sequence[int]) -> list[int]:
        """Source of each of these rows."""
        return [self.documents[self.row_document[row]][2] for row in rows]

    def row_keys(self, rows: Sequence[int]) -> np.ndarray:
        """Key of the first token of each of these rows."""
        keys = np.array([self.keys[self.row_document[row]] for row in rows], np.int64)
        # Array arithmetic wraps.
        return keys + np.array([self.row_offset[row] for row in rows], np.int64)

    def tokens(self) -> np.ndarray:
        """All tokens, mapped from the file; read-only."""
        assert self._path is not None
        self._file.flush()
        if not self.length:
            return np.empty(0, self._dtype)
        return np.memmap(self._path, self._dtype, mode="r", shape=(self.length,))

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs; the tokens are on disk when this returns."""
        self._file.flush()
        if self._path is not None:
            os.fsync(self._file.fileno())
        return {
            "length": self.length,
            "row_start": torch.tensor(self.row_start, dtype=torch.int64),
            "row_document": torch.tensor(self.row_document, dtype=torch.int64),
            "row_offset": torch.tensor(self.row_offset, dtype=torch.int64),
            "documents": [list(facts) for facts in self.documents],
            "keys": torch.tensor(self.keys, dtype=torch.int64),
            "sources": list(self.sources),
            "documents_read": self.documents_read,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint; ValueError if the file is shorter than it was then."""
        if self._path is not None:
            size = state["length"] * self._dtype.itemsize
            if self._path.stat().st_size < size:
                raise ValueError(
                    f"{self._path} is cut off: delete the folder {self._path.parent} to start "
                    "again."
                )
            self._file.truncate(size)
        self.length = state["length"]
        self.row_start = state["row_start"].tolist()
        self.row_document = state["row_document"].tolist()
        self.row_offset = state["row_offset"].tolist()
        self.documents = [(n, title, source, lic) for n, title, source, lic in state["documents"]]
        self.keys = state["keys"].tolist()
        self.sources = list(state["sources"])
        self.whole_documents = state["documents_read"]
        self._source_index = {source: i for i, source in enumerate(self.sources)}

    def close(self) -> None:
        """Close the file, leaving it on disk. What a full disk does not take any more is lost: it
        comes after the last checkpoint.
        """
        with suppress(OSError):
            self._file.close()


def document_key(document: Document) -> int:
    """64 bits of a hash of a document's source, title and text, as an int64."""
    facts = "\0".join((document.source, document.title, document.text))
    digest = hashlib.blake2b(facts.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def corpus_rows(
    cfg: IndexConfig, tokenizer: Any, context_size: int, spool: Spool
) -> Iterator[TokenRow]:
    """Rows of the corpus that come after those in the spool."""
    last, offset = (spool.documents[-1][0], spool.row_offset[-1]) if spool.row_document else (0, -1)

    def counted() -> Iterator[Document]:
        docs = documents(cfg.corpus, skip=last, options=cfg.text)
        spool.corpus_documents = yield from docs

    rows = token_rows(counted(), tokenizer, context_size)

    def seen(row: TokenRow) -> bool:
        return row.document.number == last and row.offset <= offset

    return itertools.dropwhile(seen, rows)


def until(rows: Iterator[TokenRow], tokens: int, spool: Spool, skip: int) -> Iterator[TokenRow]:
    """Rows until the stream, which goes on from the spool, holds at least `tokens` tokens; at the
    end of the corpus the spool is told that all of it has been read.
    """
    have = spool.length
    for row in rows:
        if have >= tokens:
            return
        have += len(row.ids) - skip
        yield row
    spool.whole_documents = spool.corpus_documents
