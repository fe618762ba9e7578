"""Pages and signatures from gathered statistics, for blocks of features in several processes."""

import gc
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sae_core.index.contexts import Contexts
from sae_core.index.feature_pages import FEATURES, Page
from sae_core.index.highlights import Ranking, rank_highlights, ranking
from sae_core.index.in_processes import in_processes
from sae_core.index.logits import TopLogits
from sae_core.index.signature import (
    LOGIT_SD,
    SOURCE_SHARE,
    Facts,
    RankedWords,
    Signature,
    WordForms,
    describe,
)
from sae_core.index.top_tokens import TopTokens, ranges

_BLOCK = 16 * FEATURES
"""Features assembled together."""


@contextmanager
def _no_collection() -> Iterator[None]:
    """While millions of small objects are made that all are kept, Python looks for garbage among
    them again and again, and for longer than it takes to make them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class Block:
    """What is made of some neighbouring features."""

    pages: list[bytes]
    signatures: list[str]
    concentration: np.ndarray
    """Share of the firing on the words that the signature lists."""
    ranking: Ranking


@dataclass(frozen=True, kw_only=True)
class Assembler:
    """All that pages and signatures are made from, as arrays on the CPU; `[d_sae, ...]` unless
    another shape is given.
    """

    tokens_read: int
    active: np.ndarray
    early: np.ndarray
    threshold: np.ndarray
    max_act: np.ndarray
    activation_counts: np.ndarray
    pre_activation_counts: np.ndarray
    contexts: Contexts
    place: np.ndarray
    """Where each context's peak is in the stored tokens."""
    groups: int
    """Groups of contexts, near misses last."""
    words: WordForms
    """The forms of the vocabulary's tokens."""
    tokens: TopTokens
    """For signatures, in which forms of one word count together; pages list the first of them."""
    listed: int
    """How many of them pages list."""
    sources: TopTokens
    source_names: list[str]
    token_counts: np.ndarray
    """`[vocabulary]`: how often the text has each token."""
    source_tokens: np.ndarray
    """`[sources]`: tokens of each."""
    logits: TopLogits
    near: np.ndarray
    cosine: np.ndarray

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return len(self.active)

    @cached_property
    def _bounds(self) -> dict[str, np.ndarray]:
        """Where each feature's entries begin in the ragged arrays, `[d_sae + 1]`."""
        feature, others = self.contexts.feature, self.contexts.others
        # Of another type, all that is looked through would be copied.
        contexts = np.searchsorted(feature, np.arange(self.d_sae + 1, dtype=feature.dtype))
        some = np.flatnonzero(np.diff(contexts))
        of_each = np.zeros(self.d_sae + 1, np.int64)
        of_each[some + 1] = np.add.reduceat(others, contexts[some], dtype=np.int64)
        return {
            "contexts": contexts,
            "others": np.cumsum(of_each),
            "tokens": self.tokens.bounds(self.d_sae),
            "sources": self.sources.bounds(self.d_sae),
        }

    @contextmanager
    def begun(self) -> Iterator[Iterator[Block]]:
        """All blocks, in order, which are being made from now on, while other work is done."""
        assert self._bounds  # made once, before the work is shared out
        with _no_collection(), in_processes(self._block, -(-self.d_sae // _BLOCK)) as blocks:
            yield blocks

    def highlights(self, blocks: Sequence[Ranking]) -> list[list[int | str]]:
        """What to open first, from the ranking of each block."""
        return rank_highlights(Ranking.cat(blocks), self.signatures, self.near, self.cosine)

    def _block(self, number: int) -> Block:
        first = number * _BLOCK
        last = min(first + _BLOCK, self.d_sae)
        signatures = self.signatures(range(first, last))
        frequency = self.active[first:last] / max(self.tokens_read, 1)
        pages = range(first, last, FEATURES)
        return Block(
            pages=[self.page(page, min(page + FEATURES, last)) for page in pages],
            signatures=[signature.text for signature in signatures],
            concentration=np.array([signature.share for signature in signatures]),
            ranking=ranking(signatures, frequency),
        )

    def signatures(self, features: Sequence[int]) -> list[Signature]:
        """Of each of these."""
        some, count = np.asarray(features), len(features)
        active, total = self.active[some], max(self.tokens_read, 1)
        often = np.maximum(active, 1)
        feature, place = self._entries("tokens", some)
        token = self.tokens.value[place]
        ranked = RankedWords(
            feature,
            token,
            self.tokens.count[place] / active[feature],
            self.token_counts[token] / total,
            self.words,
        )
        raised = self.logits.raises_logit.numpy()[some]
        raised = raised / np.maximum(self.logits.deviation.numpy()[some], 1e-12)[:, None]
        facts = zip(
            active.tolist(),
            ranked.leading(count),
            ranked.telling(count),
            self._shares(some),
            (self.early[some] / often).tolist(),
            _raised(self.logits.raises.numpy()[some], raised, self.words.forms),
            strict=True,
        )
        return [
            describe(
                Facts(
                    tokens_read=self.tokens_read,
                    active_tokens=count,
                    leading=leading,
                    telling=telling,
                    sources=in_source,
                    early_share=early,
                    raises=raises,
                )
            )
            for count, leading, telling, in_source, early, raises in facts
        ]

    def _entries(self, name: str, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of all entries of these features in a ragged array, which of them each is of, and where
        it is.
        """
        first, last = (self._bounds[name][features + n] for n in (0, 1))
        return np.repeat(np.arange(len(features)), last - first), ranges(first, last)

    def _shares(self, features: np.ndarray) -> list[list[tuple[str, float, float]]]:
        """Of each feature the sources that can stand in its signature: name, share, base share."""
        feature, place = self._entries("sources", features)
        share = self.sources.count[place] / self.active[features][feature]
        some = share >= SOURCE_SHARE
        source = self.sources.value[place[some]]
        bases = (self.source_tokens[source] / max(self.tokens_read, 1)).tolist()
        names = [self.source_names[number] for number in source.tolist()]
        rows = list(zip(names, share[some].tolist(), bases, strict=True))
        bounds = np.searchsorted(feature[some], np.arange(len(features) + 1)).tolist()
        return [rows[a:b] for a, b in itertools.pairwise(bounds)]

    def page(self, first: int, last: int) -> bytes:
        """The page of the features from `first` to before `last`."""
        contexts, bounds, some = self.contexts, self._bounds, slice(first, last)
        c = slice(*bounds["contexts"][[first, last]])
        o = slice(*bounds["others"][[first, last]])
        feature, value = contexts.feature[c] - first, contexts.value[c]
        scale = np.maximum(self.max_act[some], np.float32(1e-30))
        share = contexts.other_value[o] / scale[np.repeat(feature, contexts.others[c])]
        key = feature * self.groups + contexts.group[c]
        is_near = contexts.group[c] == self.groups - 1
        gap = (self.threshold[some][feature] - value).astype(np.float16)
        peak = np.where(is_near, 0, value)
        drop = _drops(np.rint(peak / scale[feature] * 65535).astype(np.int64), key)
        tokens, token_count = self._first_tokens(first, last)
        a, b = bounds["sources"][[first, last]]
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
            raises=self.logits.raises[some].numpy(),
            raises_logit=self.logits.raises_logit[some].numpy(),
            lowers=self.logits.lowers[some].numpy(),
            lowers_logit=self.logits.lowers_logit[some].numpy(),
            tokens=tokens,
            token_count=token_count,
            sources=np.diff(bounds["sources"][first : last + 1]),
            source=self.sources.value[a:b],
            source_count=self.sources.count[a:b],
            neighbour=self.near[some],
            cosine=np.rint(self.cosine[some] * 32767),
        )
        return page.pack()

    def _first_tokens(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens a page lists of each feature, and how often that fires on each."""
        starts = self._bounds["tokens"][first : last + 1]
        length = np.diff(starts)
        place = np.arange(starts[0], starts[-1]) - np.repeat(starts[:-1], length)
        counts = self.tokens.count[starts[0] : starts[-1]]
        return np.minimum(length, self.listed), counts[place < self.listed]


def _drops(value: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Falling 16-bit numbers by what the one before in its group exceeds each by; the differences
    of neighbours are small.
    """
    drop = np.empty_like(value)
    drop[:1] = 65535 - value[:1]
    drop[1:] = np.where(key[1:] == key[:-1], value[:-1], 65535) - value[1:]
    return drop


def _raised(
    token: np.ndarray, deviations: np.ndarray, words: list[str]
) -> list[list[tuple[str, float]]]:
    """Of each feature the raised tokens that can stand in its signature: word, deviations."""
    enough = deviations >= LOGIT_SD
    pairs = zip(token[enough].tolist(), deviations[enough].tolist(), strict=True)
    rows = [(words[t], value) for t, value in pairs]
    bounds = np.append(0, np.cumsum(enough.sum(1))).tolist()
    return [rows[a:b] for a, b in itertools.pairwise(bounds)]
