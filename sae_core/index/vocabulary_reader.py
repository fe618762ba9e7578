"""The vocabulary of an index, kept as one run of bytes: a quarter of a million tokens are read at
once, and made into texts only where they are shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from sae_core.index.index_checks import check_ids
from sae_core.index.schema import columns_of, rows_of


class TokenBytes(Sequence[bytes]):
    """Bytes of each token: of its text, or what stands in their place. No slices, and no numbers
    from the end: a page takes thousands of tokens.
    """

    def __init__(self, joined: bytes, ends: np.ndarray, other: Mapping[int, bytes]) -> None:
        """`joined`: all texts in UTF-8, which end at `ends`; `other` of the tokens that are not
        what their text is.
        """
        self._joined, self._bounds, self._other = joined, [0, *ends.tolist()], other

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, token: Any) -> Any:
        if token in self._other:
            return self._other[token]
        return self._joined[self._bounds[token] : self._bounds[token + 1]]

    def __iter__(self) -> Iterator[bytes]:
        return map(self.__getitem__, range(len(self)))


class TokenTexts(Sequence[str]):
    """Text of each token."""

    def __init__(self, texts: TokenBytes) -> None:
        """`texts`: their bytes, none of them in the place of a text."""
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, token: Any) -> Any:
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
