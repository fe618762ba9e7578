"""Pages from gathered statistics, for blocks of features in several processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from sae_core.index.contexts import Contexts
from sae_core.index.describing import Describer
from sae_core.index.feature_pages import FEATURES, joined, packed
from sae_core.index.in_processes import in_processes

_PAGES = 16
"""Pages that are made together."""


@dataclass(frozen=True, kw_only=True)
class Assembler:
    """All that pages are made from, as arrays on the CPU; `[d_sae, ...]` unless another shape is
    given.
    """

    of: Describer
    """What signatures were made from."""
    decoder: list[dict[str, bytes]]
    """Of each page what it says of the decoder rows, packed."""
    threshold: np.ndarray
    max_act: np.ndarray
    activation_counts: np.ndarray
    pre_activation_counts: np.ndarray
    contexts: Contexts
    bounds: tuple[np.ndarray, np.ndarray]
    """The contexts'."""
    place: np.ndarray
    """Where each context's peak is in the stored tokens."""
    groups: int
    """Groups of contexts, near misses last."""
    listed: int
    """How many of a feature's tokens pages list."""

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return len(self.threshold)

    @contextmanager
    def begun(self) -> Iterator[Iterator[list[bytes]]]:
        """The pages of all blocks, in order, which are being made from now on, while other work is
        done.
        """
        assert self.of.bounds  # made once, before the work is shared out
        with in_processes(self._block, -(-len(self.decoder) // _PAGES)) as blocks:
            yield blocks

    def _block(self, number: int) -> list[bytes]:
        """Pages of neighbours: what they hold is worked out together, and then cut up."""
        decoder = self.decoder[number * _PAGES : (number + 1) * _PAGES]
        starts = (number * _PAGES + np.arange(len(decoder) + 1)) * FEATURES
        columns = self._columns(np.minimum(starts, self.d_sae))
        pages = []
        for n, known in enumerate(decoder):
            own = {
                name: array[cuts[n] : cuts[n + 1]]
                for cuts, arrays in columns
                for name, array in arrays.items()
            }
            pages.append(joined(known | packed(own)))
        return pages

    def _columns(self, starts: np.ndarray) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """The arrays of neighbouring pages, which begin at the features `starts` (and end at the
        last of these), in one; with those of equal length, where in them pages begin and end.
        """
        first, last = starts[[0, -1]].tolist()
        of, contexts, some = self.of, self.contexts, slice(first, last)
        c, o = (slice(*begin[[first, last]]) for begin in self.bounds)
        in_contexts, in_others = (begin[starts] - begin[first] for begin in self.bounds)
        feature, value = contexts.feature[c] - first, contexts.value[c]
        scale = np.maximum(self.max_act[some], np.float32(1e-30))
        share = contexts.other_value[o] / scale[np.repeat(feature, contexts.others[c])]
        key = feature * self.groups + contexts.group[c]
        near = contexts.group[c] == self.groups - 1
        peak = np.rint(value[~near] / scale[feature[~near]] * 65535).astype(np.int64)
        in_near = np.append(0, np.cumsum(near))[in_contexts]
        listed, token_count = self._first_tokens(first, last)
        in_tokens = np.append(0, np.cumsum(listed))[starts - first]
        sources = of.bounds["sources"][first : last + 1]
        s = slice(sources[0], sources[-1])
        by_feature = {
            "activation_counts": self.activation_counts[some],
            "pre_activation_counts": self.pre_activation_counts[some],
            "tokens": listed,
            "sources": np.diff(sources),
        }
        by_group = np.bincount(key, minlength=(last - first) * self.groups)
        near_gap = (self.threshold[some][feature[near]] - value[near]).astype(np.float16)
        activation = np.clip(np.rint(share * 255), 1, 255).astype(np.uint8)
        return [
            ((starts - first) * self.groups, {"contexts": by_group}),
            (in_contexts, {"place": self.place[c], "others": contexts.others[c]}),
            (in_contexts - in_near, {"value": _drops(peak, key[~near])}),
            (in_near, {"gap": near_gap}),
            (in_others, {"position": contexts.other_position[o], "activation": activation}),
            (starts - first, by_feature),
            (in_tokens, {"token_count": token_count}),
            (
                sources[starts - first] - sources[0],
                {"source": of.sources.value[s], "source_count": of.sources.count[s]},
            ),
        ]

    def _first_tokens(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens pages list of each feature, and how often that fires on each."""
        starts = self.of.bounds["tokens"][first : last + 1]
        length = np.diff(starts)
        place = np.arange(starts[0], starts[-1]) - np.repeat(starts[:-1], length)
        counts = self.of.tokens.count[starts[0] : starts[-1]]
        return np.minimum(length, self.listed), counts[place < self.listed]


def _drops(value: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Falling 16-bit numbers by what the one before in its group exceeds each by; the differences
    of neighbours are small.
    """
    drop = np.empty_like(value)
    drop[:1] = 65535 - value[:1]
    drop[1:] = np.where(key[1:] == key[:-1], value[:-1], 65535) - value[1:]
    return drop
