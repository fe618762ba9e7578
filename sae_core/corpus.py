"""Text corpora as documents, rows of tokens, and batches; the one reader for all of Jumpscope.

Parquet, JSONL (also gzipped) and plain text, local or behind a URL, read by DuckDB as a stream.
"""

import glob
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_core.tokens import ordinary_ids, special_ids

_READERS = {
    ".parquet": "read_parquet(?, union_by_name=true)",
    ".jsonl": "read_json(?, format='newline_delimited', union_by_name=true)",
    ".ndjson": "read_json(?, format='newline_delimited', union_by_name=true)",
    ".json": "read_json(?, union_by_name=true)",
    ".txt": "(SELECT content AS text, filename AS title FROM read_text(?))",
    ".md": "(SELECT content AS text, filename AS title FROM read_text(?))",
}
_COLUMNS = ("text", "title", "source", "license")
_DOCUMENTS_AT_ONCE = 256


@dataclass(frozen=True)
class Document:
    """A passage of text; `number` is its place in the corpus."""

    number: int
    text: str
    title: str
    source: str
    license: str


@dataclass(frozen=True)
class TokenRow:
    """BOS and a stretch of one document: `ids` int32; `offset` counts the document's own tokens."""

    document: Document
    offset: int
    ids: np.ndarray


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded rows. `mask` is True at tokens that count: neither special nor padding."""

    input_ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    rows: list[TokenRow]


def _suffix(path: str) -> str:
    name = path.split("?")[0]
    return Path(name.removesuffix(".gz")).suffix.lower()


def expand(paths: Sequence[str]) -> list[str]:
    """Files and URLs named by `paths` (globs and folders allowed), in order.

    Raises ValueError naming the first path that matches nothing or is of an unknown kind.
    """
    files: list[str] = []
    for path in paths:
        if "://" in path:
            files.append(path)
            continue
        if Path(path).is_dir():
            inside = [str(p) for p in sorted(Path(path).iterdir()) if _suffix(p.name) in _READERS]
        else:
            inside = sorted(glob.glob(path, recursive=True))
        if not inside:
            raise ValueError(f"no corpus file matches {path}: check the path.")
        files.extend(inside)
    for path in files:
        if _suffix(path) not in _READERS:
            raise ValueError(
                f"corpus file {path} is of an unknown kind: use Parquet, JSONL, .txt or .md."
            )
    if not files:
        raise ValueError("no corpus given: name at least one Parquet, JSONL or text file.")
    return files


def documents(paths: Sequence[str], *, skip: int = 0) -> Iterator[Document]:
    """Stream the documents of a corpus in file and row order, leaving out the first `skip`.

    A file needs a column `text`; `title`, `source` and `license` are "" where they are missing.
    Raises ValueError with one sentence for a missing, unreadable or text-less file.
    """
    number = 0
    for path in expand(paths):
        with duckdb.connect() as connection:
            connection.execute("SET preserve_insertion_order = true")
            try:
                reader = _READERS[_suffix(path)]
                columns = connection.execute(f"DESCRIBE SELECT * FROM {reader}", [path]).fetchall()
                have = {name for name, *_ in columns}
                if "text" not in have:
                    raise ValueError(
                        f"corpus file {path} has no column 'text', only {', '.join(sorted(have))}."
                    )
                fields = [f"CAST({c} AS VARCHAR)" if c in have else f"'' AS {c}" for c in _COLUMNS]
                result = connection.execute(f"SELECT {', '.join(fields)} FROM {reader}", [path])
                while rows := result.fetchmany(_DOCUMENTS_AT_ONCE):
                    for text, title, source, licence in rows:
                        if number >= skip and text:
                            yield Document(number, text, title or "", source or "", licence or "")
                        number += 1
            except duckdb.Error as error:
                reason = str(error).splitlines()[0]
                raise ValueError(f"corpus file {path} cannot be read: {reason}") from error


def token_rows(docs: Iterable[Document], tokenizer: Any, context_size: int) -> Iterator[TokenRow]:
    """Cut documents into rows of BOS and up to `context_size - 1` tokens of one document.

    Documents are tokenised many at a time, in parallel where the tokenizer can. A tokenizer
    without BOS gives rows without one.
    """
    if context_size < 2:
        raise ValueError(f"context_size is {context_size} but must be 2 or more.")
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    body = context_size - len(bos)
    docs = iter(docs)
    while chunk := list(itertools.islice(docs, _DOCUMENTS_AT_ONCE)):
        encoded = ordinary_ids(tokenizer, [d.text for d in chunk])
        for document, ids in zip(chunk, encoded, strict=True):
            for offset in range(0, len(ids), body):
                row = np.asarray(bos + ids[offset : offset + body], dtype=np.int32)
                yield TokenRow(document, offset, row)


def batches(rows: Iterable[TokenRow], tokenizer: Any, rows_per_batch: int) -> Iterator[TokenBatch]:
    """Group rows in order, padded on the right to the longest of each batch."""
    specials = torch.tensor(sorted(special_ids(tokenizer)), dtype=torch.long)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, rows_per_batch)):
        longest = max(len(row.ids) for row in chunk)
        ids = torch.full((len(chunk), longest), pad, dtype=torch.long)
        real = torch.zeros((len(chunk), longest), dtype=torch.bool)
        for i, row in enumerate(chunk):
            ids[i, : len(row.ids)] = torch.from_numpy(row.ids)
            real[i, : len(row.ids)] = True
        yield TokenBatch(ids, real & ~torch.isin(ids, specials), chunk)
