"""Signatures from gathered statistics, for blocks of features in several processes."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sae_core.index.highlights import Ranking, rank_highlights, ranking
from sae_core.index.in_processes import in_processes
from sae_core.index.logits import TopLogits
from sae_core.index.prepared import LISTED
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

_BLOCK = 1024
"""Features described together."""


@dataclass(frozen=True)
class Described:
    """What is said of some neighbouring features."""

    signatures: list[str]
    concentration: np.ndarray
    """Share of the firing on the words that the signature lists."""
    ranking: Ranking


@dataclass(frozen=True, kw_only=True)
class Describer:
    """All that signatures are made from, as arrays on the CPU; `[d_sae, ...]` unless another shape
    is given. None of it waits for the contexts.
    """

    tokens_read: int
    active: np.ndarray
    early: np.ndarray
    words: WordForms
    """The forms of the vocabulary's tokens."""
    tokens: TopTokens
    """More than pages list, since forms of one word count together."""
    sources: TopTokens
    source_names: list[str]
    token_counts: np.ndarray
    """`[vocabulary]`: how often the text has each token."""
    source_tokens: np.ndarray
    """`[sources]`: tokens of each."""
    logits: TopLogits
    near: np.ndarray
    cosine: np.ndarray

    @cached_property
    def bounds(self) -> dict[str, np.ndarray]:
        """Where each feature's entries begin in `tokens` and `sources`, `[d_sae + 1]`."""
        d_sae = len(self.active)
        return {"tokens": self.tokens.bounds(d_sae), "sources": self.sources.bounds(d_sae)}

    def listed(self, first: int, last: int) -> TopTokens:
        """The tokens that pages list of the features from `first` to before `last`."""
        begin = self.bounds["tokens"]
        return self.tokens.part(begin[first], begin[last]).first(LISTED)

    @contextmanager
    def begun(self) -> Iterator[Iterator[Described]]:
        """All blocks, in order, which are being made from now on, while other work is done."""
        assert self.bounds  # made once, before the work is shared out
        with in_processes(self._block, -(-len(self.active) // _BLOCK)) as blocks:
            yield blocks

    def highlights(self, blocks: Sequence[Ranking]) -> list[list[int | str]]:
        """What to open first, from the ranking of each block."""
        return rank_highlights(Ranking.cat(blocks), self.signatures, self.near, self.cosine)

    def _block(self, number: int) -> Described:
        first = number * _BLOCK
        last = min(first + _BLOCK, len(self.active))
        signatures = self.signatures(range(first, last))
        frequency = self.active[first:last] / max(self.tokens_read, 1)
        return Described(
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
        first, last = (self.bounds[name][features + n] for n in (0, 1))
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


def _raised(
    token: np.ndarray, deviations: np.ndarray, words: list[str]
) -> list[list[tuple[str, float]]]:
    """Of each feature the raised tokens that can stand in its signature: word, deviations."""
    enough = deviations >= LOGIT_SD
    pairs = zip(token[enough].tolist(), deviations[enough].tolist(), strict=True)
    rows = [(words[t], value) for t, value in pairs]
    bounds = np.append(0, np.cumsum(enough.sum(1))).tolist()
    return [rows[a:b] for a, b in itertools.pairwise(bounds)]
