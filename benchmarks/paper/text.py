"""The text of the studies: rows of tokens from a corpus, or from a file that holds them tokenised.

    python -m benchmarks.paper text --corpus train-11.parquet --tokens 6200000 --out rows.npz

writes such a file, which is smaller than the text and needs no tokenizer where it is read.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sae_core.corpus import Document, TokenRow, documents, token_rows
from sae_core.evaluation import take_tokens

ROWS_SUFFIX = ".npz"
NOBODY = Document(0, "", "", "", "")


def read_rows(paths: Iterable[str], tokenizer: Any, context_size: int, tokens: int) -> list[Any]:
    """The first rows with `tokens` tokens, BOS not counted; ValueError if there are fewer."""
    paths = list(paths)
    if len(paths) == 1 and paths[0].endswith(ROWS_SUFFIX):
        rows = take_tokens(_saved(Path(paths[0])), tokens)
    else:
        rows = take_tokens(token_rows(documents(paths), tokenizer, context_size), tokens)
    if (held := sum(len(row.ids) - 1 for row in rows)) < tokens:
        raise ValueError(f"{', '.join(paths)} holds {held:,} tokens but {tokens:,} are needed.")
    return rows


def write_rows(rows: Iterable[TokenRow], path: Path) -> None:
    """Keep rows of a vocabulary of at most 65,536 entries."""
    ids = [row.ids for row in rows]
    lengths = np.array([len(each) for each in ids], dtype=np.uint16)
    np.savez_compressed(path, ids=np.concatenate(ids).astype(np.uint16), lengths=lengths)


def _saved(path: Path) -> Iterable[TokenRow]:
    with np.load(path, allow_pickle=False) as file:
        ids, lengths = file["ids"].astype(np.int32), file["lengths"].astype(np.int64)
    for row in np.split(ids, np.cumsum(lengths)[:-1]):
        yield TokenRow(NOBODY, 0, row)
