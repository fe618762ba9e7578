"""Pages from gathered statistics, for blocks of features in several processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from sae_core.index.contexts import Contexts
from sae_core.index.describing import Describer
from sae_core.index.feature_pages import FEATURES, Page
from sae_core.index.in_processes import in_processes

_BLOCK = 16 * FEATURES
"""Features whose pages are made together."""


@dataclass(frozen=True, kw_only=True)
class Assembler:
    """All that pages are made from, as arrays on the CPU; `[d_sae, ...]` unless another shape is
    given.
    """

    of: Describer
    """What signatures were made from."""
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
        with in_processes(self._block, -(-self.d_sae // _BLOCK)) as blocks:
            yield blocks

    def _block(self, number: int) -> list[bytes]:
        first = number * _BLOCK
        last = min(first + _BLOCK, self.d_sae)
        pages = range(first, last, FEATURES)
        return [self.page(page, min(page + FEATURES, last)) for page in pages]

    def page(self, first: int, last: int) -> bytes:
        """The page of the features from `first` to before `last`."""
        of, contexts, some = self.of, self.contexts, slice(first, last)
        c, o = (slice(*begin[[first, last]]) for begin in self.bounds)
        feature, value = contexts.feature[c] - first, contexts.value[c]
        scale = np.maximum(self.max_act[some], np.float32(1e-30))
        share = contexts.other_value[o] / scale[np.repeat(feature, contexts.others[c])]
        key = feature * self.groups + contexts.group[c]
        is_near = contexts.group[c] == self.groups - 1
        gap = (self.threshold[some][feature] - value).astype(np.float16)
        peak = np.where(is_near, 0, value)
        drop = _drops(np.rint(peak / scale[feature] * 65535).astype(np.int64), key)
        tokens, token_count = self._first_tokens(first, last)
        a, b = of.bounds["sources"][[first, last]]
        page = Page(
            contexts=np.bincount(key, minlength=(last - first) * self.groups),
            place=self.place[c],
            value=drop[~is_near],
            gap=gap[is_near],
            others=contexts.others[c],
            position=contexts.other_position[o],
            activation=np.clip(np.rint(share * 255), 1, 255).astype(np.uint8),
            activation_counts=self.activation_counts[some],
            pre_activation_counts=self.pre_activation_counts[some],
            raises=of.logits.raises[some].numpy(),
            raises_logit=of.logits.raises_logit[some].numpy(),
            lowers=of.logits.lowers[some].numpy(),
            lowers_logit=of.logits.lowers_logit[some].numpy(),
            tokens=tokens,
            token_count=token_count,
            sources=np.diff(of.bounds["sources"][first : last + 1]),
            source=of.sources.value[a:b],
            source_count=of.sources.count[a:b],
            neighbour=of.near[some],
            cosine=np.rint(of.cosine[some] * 32767),
        )
        return page.pack()

    def _first_tokens(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens a page lists of each feature, and how often that fires on each."""
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
