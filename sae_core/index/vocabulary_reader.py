"""The vocabulary of an index, kept as one run of bytes: a quarter of a million tokens are read at
once, and made into texts only where they are shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import duckdb
import numpy as np

from sae_core.index.index_checks import check_ids
from sae_core.index.schema import columns_of, rows_of


class TokenBytes(Sequence[bytes]):
    """Bytes of each token: of its text, or what stands in their place."""

    def __init__(self, joined: bytes, ends: np.ndarray, other: Mapping[int, bytes]) -> None:
        """`joined`: all texts in UTF-8, which end at `ends`; `other` of the tokens that are not
        what their text is.
        """
        self._joined, self._ends, self._other = joined, ends, other

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, token: int) -> bytes: ...
    @overload
    def __getitem__(self, token: slice) -> list[bytes]: ...
    def __getitem__(self, token: int | slice) -> bytes | list[bytes]:
        if isinstance(token, slice):
            return [self[i] for i in range(*token.indices(len(self)))]
        token = range(len(self))[token]
        if token in self._other:
            return self._other[token]
        start = int(self._ends[token - 1]) if token else 0
        return self._joined[start : int(self._ends[token])]

    def __iter__(self) -> Iterator[bytes]:
        start, other, joined = 0, self._other, self._joined
        for token, end in enumerate(self._ends.tolist()):
            yield other[token] if token in other else joined[start:end]
            start = end


class TokenTexts(Sequence[str]):
    """Text of each token."""

    def __init__(self, texts: TokenBytes) -> None:
        """`texts`: their bytes, none of them in the place of a text."""
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, token: int) -> str: ...
    @overload
    def __getitem__(self, token: slice) -> list[str]: ...
    def __getitem__(self, token: int | slice) -> str | list[str]:
        if isinstance(token, slice):
            return [text.decode() for text in self._texts[token]]
        return self._texts[token].decode()

    def __iter__(self) -> Iterator[str]:
        return map(bytes.decode, self._texts)


def read_vocabulary(
    connection: duckdb.DuckDBPyConnection, path: Path
) -> tuple[TokenTexts, TokenBytes]:
    """Text and bytes of each token; ValueError unless tokens are numbered and have texts."""
    columns = columns_of(
        connection, path, "SELECT token, strlen(text) AS bytes FROM vocabulary ORDER BY token"
    )
    lengths = columns["bytes"]
    check_ids("tokens in its vocabulary", columns["token"], len(lengths))
    if np.isnan(lengths).any():
        raise ValueError("a token has no text")
    [(joined,)] = rows_of(
        connection, path, "SELECT string_agg(text, '' ORDER BY token) FROM vocabulary"
    )
    other = rows_of(connection, path, "SELECT token, bytes FROM vocabulary WHERE bytes IS NOT NULL")
    ends = np.cumsum(lengths, dtype=np.int64)
    texts = (joined or "").encode()
    return TokenTexts(TokenBytes(texts, ends, {})), TokenBytes(texts, ends, dict(other))
