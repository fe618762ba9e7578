"""The tokens and sources that each feature fires on most, as ragged arrays."""

from dataclasses import dataclass

import numpy as np

from sae_core.index.pairs import top_pairs
from sae_core.index.selection import on_host
from sae_core.index.statistics import FeatureStatistics

AT_LEAST = 3
"""A token or source is listed from this many active tokens on: below, its lift says nothing."""


@dataclass(frozen=True)
class TopTokens:
    """Tokens and how often a feature fired on each: sorted by feature, then most first.

    `top_sources` has the sources of the text in the tokens' place.
    """

    feature: np.ndarray
    value: np.ndarray
    """Token id, or number of a source."""
    count: np.ndarray

    def bounds(self, d_sae: int) -> np.ndarray:
        """Where each feature's entries begin, `[d_sae + 1]`."""
        return np.searchsorted(self.feature, np.arange(d_sae + 1))

    def part(self, first: int, last: int) -> "TopTokens":
        """The entries from `first` to before `last`."""
        return TopTokens(*(each[first:last] for each in (self.feature, self.value, self.count)))

    def first(self, k: int) -> "TopTokens":
        """The first `k` of each feature."""
        starts = np.flatnonzero(np.diff(self.feature, prepend=-1))
        ends = np.append(starts[1:], len(self.feature))
        keep = ranges(starts, np.minimum(starts + k, ends))
        return TopTokens(self.feature[keep], self.value[keep], self.count[keep])


def ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """All whole numbers from each of `first` to before each of `last`, one range after another."""
    length = last - first
    return np.arange(length.sum()) + np.repeat(first - (np.cumsum(length) - length), length)


def top_tokens(statistics: FeatureStatistics, vocab_size: int, k: int) -> TopTokens:
    """The `k` tokens that each feature fires on most."""
    keys, counts = statistics.pairs.result()
    rows = top_pairs(keys, counts, vocab_size, k, AT_LEAST)
    return TopTokens(*map(on_host, rows))


def top_sources(statistics: FeatureStatistics, k: int) -> TopTokens:
    """The `k` sources that each feature fires in most."""
    by_source = statistics.by_source.T
    n_sources = max(by_source.shape[1], 1)
    feature, source = by_source.nonzero(as_tuple=True)
    keys, counts = feature * n_sources + source, by_source[feature, source]
    return TopTokens(*map(on_host, top_pairs(keys, counts, n_sources, k, AT_LEAST)))
