"""Reading which words describe each feature of an index, and how much of its firing is on them.

DuckDB splits the lines and unnests the lists: of what it finds only what is distinct, and columns
of numbers, come to Python. How often a feature fires on a listed token stands in the pages, of
which those two arrays alone are inflated.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np

from sae_core.index.arrays import unpack
from sae_core.index.feature_pages import FEATURES, listed_counts_and_places
from sae_core.index.index_checks import page_shape
from sae_core.index.schema import GATHERED, columns_of, rows_of, streamed
from sae_core.index.signature import SEPARATORS, words_in
from sae_core.index.word_search import Words, WordTable


class DescribedWords(NamedTuple):
    """Pairs of a feature and a word of it, sorted by feature; and the words."""

    words: WordTable
    base: np.ndarray
    """Share of all tokens that are each word."""
    feature: np.ndarray
    word: np.ndarray
    share: np.ndarray
    """Of the feature's firing: 0 for a word of its line alone; negative where the text at large
    has at least as much of the word."""
    strongest: np.ndarray
    """Place of the peak of each feature's strongest context, -1 for none, `[d_sae]`."""

    def sorted(self) -> "DescribedWords":
        """The same, features in order and each one's words as they stood."""
        order = np.argsort(self.feature, kind="stable")
        pairs = {name: getattr(self, name)[order] for name in ("feature", "word", "share")}
        return self._replace(**pairs)


def read_described_words(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    meta: Mapping[str, Any],
    vocabulary: tuple[Sequence[str], Sequence[bytes], np.ndarray],
    active: np.ndarray,
) -> DescribedWords:
    """The words of all features; `vocabulary`: texts, bytes and counts of the tokens; `active
    [d_sae]`: tokens on which each feature fires.

    ValueError or zlib.error where pages and features do not fit together.
    """
    numbers = Words()
    texts, raw, token_counts = vocabulary
    of_token = numbers.of_tokens(texts, raw)
    listed = columns_of(
        connection, path, "SELECT feature, unnest(tokens) AS token FROM features ORDER BY feature"
    )
    feature, token = listed["feature"], listed["token"]
    lengths = np.bincount(feature, minlength=len(active))
    counts, strongest = _gathered(connection, path, meta, lengths)
    if (strongest[active > 0] < 0).any():
        raise ValueError("a feature that fires has no strongest context")
    token_share = token_counts / max(int(meta["tokens"]), 1)
    share = np.minimum(counts / np.repeat(np.maximum(active, 1), lengths), 1.0)
    np.negative(share, out=share, where=share <= token_share[token])
    shown_feature, shown_word = _shown(connection, path, numbers)
    return DescribedWords(
        words=WordTable(list(numbers)),
        base=np.bincount(of_token, token_share, minlength=len(numbers)).astype(np.float32),
        feature=np.concatenate([feature.astype(np.int32), shown_feature.astype(np.int32)]),
        word=np.concatenate([of_token.astype(np.int32)[token], shown_word.astype(np.int32)]),
        share=np.concatenate([share.astype(np.float32), np.zeros(len(shown_word), np.float32)]),
        strongest=strongest,
    ).sorted()


def _shown(
    connection: duckdb.DuckDBPyConnection, path: Path, numbers: Words
) -> tuple[np.ndarray, np.ndarray]:
    """Features and the words of their lines."""
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
    words = np.full((len(distinct), 2), -1, np.int64)
    for row, (_, part) in zip(words, distinct, strict=True):
        of_part = [numbers(word) for word in words_in(part)]
        row[: len(of_part)] = of_part
    word = np.concatenate(words[place].T)
    feature = np.concatenate([shown["feature"], shown["feature"]]).astype(np.int64)
    return feature[word >= 0], word[word >= 0]


def _gathered(
    connection: duckdb.DuckDBPyConnection, path: Path, meta: Mapping[str, Any], lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`from_pages`, which a large index has in one piece."""
    named = "SELECT name, data FROM arrays WHERE list_contains(?, name)"
    packed = dict(rows_of(connection, path, named, [list(GATHERED)]))
    if not packed:
        return from_pages(connection, path, meta, lengths)
    sizes = (int(lengths.sum()), len(lengths))
    counts, strongest = (
        unpack(packed[name], dtype, 0, size)[0]
        for (name, dtype), size in zip(GATHERED.items(), sizes, strict=True)
    )
    if strongest.max() > meta["stored_tokens"]:
        raise ValueError("a strongest_place is beyond its stored_tokens")
    return counts, strongest.astype(np.int64) - 1


def from_pages(
    connection: duckdb.DuckDBPyConnection, path: Path, meta: Mapping[str, Any], lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How often each feature fires on each of its listed tokens, which are `lengths [d_sae]`; and
    the place of the peak of each one's strongest context, -1 for none.
    """
    # As they come: sorting them would take as much memory as they have bytes.
    by_page: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for page, data in streamed(connection, path, "SELECT page, data FROM pages"):
        shape = page_shape(meta, page)
        tokens, of_page, strongest = listed_counts_and_places(data, shape)
        start = page * FEATURES
        if (tokens != lengths[start : start + shape.features]).any():
            raise ValueError("a page has other numbers of tokens than its features")
        by_page[page] = of_page, strongest
    counts, places = zip(*(by_page[page] for page in sorted(by_page)), strict=True)
    return np.concatenate(counts).astype(np.int64), np.concatenate(places)
