"""Which features have a text among the words that they are described by.

A feature's words are the tokens that it fires on most and those that its signature shows. Distinct
words are few beside features (a token is one word, however many features fire on it): a query is
looked for once in all of them, laid end to end as bytes, and then the features of the words that
have it are gathered. So a search of a million features takes tens of milliseconds, and what makes
it so, about 70 bytes a feature, is made from the file once.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np

from sae_core.index.schema import columns_of, rows_of
from sae_core.index.signature import SEPARATORS, words_in

_TERM = re.compile(r'"([^"]+)"|(\S+)')
_MARKS = {"·", "→", "…"}
"""What a signature has beside words."""
_GATHER = 1 / 8
"""Share of all entries above which those of the words that match are not taken one by one."""


def folded(text: str) -> str:
    """A text without its case."""
    return text.casefold()


def terms(query: str) -> list[str]:
    """What has to stand somewhere: words, and what is in double quotes with its spaces. A signature
    may be a query as it stands.
    """
    matches = [(quoted, word) for quoted, word in _TERM.findall(query) if word not in _MARKS]
    return [folded(quoted or word) for quoted, word in matches]


class Words:
    """Numbers texts as they come; those that differ in case alone are one word."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        """The number of a text's word."""
        return self._number.setdefault(folded(text), len(self._number))

    def __iter__(self) -> Iterator[str]:
        """The words, without case, by their numbers."""
        return iter(self._number)


class WordSearch:
    """Finds the features of which a word has a text in it."""

    def __init__(
        self, words: Sequence[str], word: np.ndarray, feature: np.ndarray, d_sae: int
    ) -> None:
        """`words` without case; `word`, `feature`: pairs of equal length, in any order."""
        raw = [text.encode("utf-8", "surrogatepass") for text in words]
        self._bytes = np.frombuffer(b"".join(raw), np.uint8)
        self._end = np.cumsum([len(each) for each in raw], dtype=np.int64)
        pairs = word.astype(np.uint64) << np.uint64(32) | feature.astype(np.uint64)
        pairs.sort()
        self._feature = (pairs & np.uint64(2**32 - 1)).astype(np.int32)
        bounds = np.arange(len(words) + 1, dtype=np.uint64) << np.uint64(32)
        self._bound = np.searchsorted(pairs, bounds)
        self._d_sae = d_sae

    def matching(self, query: str) -> np.ndarray:
        """Mask `[d_sae]` of the features that have every term of a query in a word of theirs."""
        mask = np.ones(self._d_sae, bool)
        for term in terms(query):
            mask &= self._having(self._words_with(term))
        return mask

    def _words_with(self, term: str) -> np.ndarray:
        """Numbers of the words in which a term stands."""
        needle = np.frombuffer(term.encode("utf-8", "surrogatepass"), np.uint8)
        last = len(self._bytes) - len(needle)
        if last < 0:
            return np.empty(0, np.int64)
        # UTF-8 begins no character with a byte that goes on with one.
        place = np.flatnonzero(self._bytes[: last + 1] == needle[0])
        for n, byte in enumerate(needle[1:], 1):
            place = place[self._bytes[place + n] == byte]
        word = np.searchsorted(self._end, place, side="right")
        inside = place + len(needle) <= self._end[word]
        return np.unique(word[inside])

    def _having(self, words: np.ndarray) -> np.ndarray:
        mask = np.zeros(self._d_sae, bool)
        first, stop = self._bound[words], self._bound[words + 1]
        if (stop - first).sum() < _GATHER * len(self._feature):
            spans = [self._feature[a:b] for a, b in zip(first.tolist(), stop.tolist(), strict=True)]
            mask[np.concatenate([*spans, np.empty(0, np.int32)])] = True
        else:
            chosen = np.zeros(len(self._bound) - 1, bool)
            chosen[words] = True
            mask[self._feature[np.repeat(chosen, np.diff(self._bound))]] = True
        return mask


def read_words(
    connection: duckdb.DuckDBPyConnection, path: Path, texts: Sequence[str]
) -> WordSearch:
    """The words of an index's features; `texts` are its vocabulary's.

    DuckDB splits the lines and unnests the lists: of what it finds only what is distinct, and
    columns of numbers, come to Python.
    """
    words = Words()
    number_of_token = np.array([words(text) for text in texts], np.int64)
    fires_on = columns_of(connection, path, "SELECT feature, unnest(tokens) AS token FROM features")
    split = "signature"
    for separator in SEPARATORS[1:]:
        split = f"replace({split}, '{separator}', '{SEPARATORS[0]}')"
    parts = (
        f"SELECT feature, unnest(string_split({split}, '{SEPARATORS[0]}')) AS part FROM features"
    )
    shown = columns_of(connection, path, f"SELECT feature, hash(part) AS key FROM ({parts})")
    distinct = rows_of(
        connection, path, f"SELECT DISTINCT hash(part) AS key, part FROM ({parts}) ORDER BY key"
    )
    place = np.searchsorted(np.array([key for key, _ in distinct], np.uint64), shown["key"])
    # A word and a source at most.
    numbers = np.full((len(distinct), 2), -1, np.int64)
    for row, (_, part) in zip(numbers, distinct, strict=True):
        of_part = [words(word) for word in words_in(part)]
        row[: len(of_part)] = of_part
    word = np.concatenate([number_of_token[fires_on["token"]], *numbers[place].T])
    feature = np.concatenate([fires_on["feature"], shown["feature"], shown["feature"]])
    there = word >= 0
    [(d_sae,)] = rows_of(connection, path, "SELECT count(*) FROM features")
    return WordSearch(list(words), word[there], feature[there], d_sae)
