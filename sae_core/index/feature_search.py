"""Lists of an index's features: what a query matches, between bounds, in an order, page by page.

`#12` and a plain number are a feature's own number; a plain number is a text as well, and the
feature it names comes first. Where a query falls into several tokens, the features that rank
highest are read: those with the whole of it in their strongest contexts, where they fire, come
before all others that match by tokens alone.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_core.index.feature_columns import SORTS, FeatureColumns
from sae_core.index.match_ranking import Matches, MatchRanking, Tier
from sae_core.index.schema import SCORES
from sae_core.index.text_folding import folded
from sae_core.index.word_search import as_written

BEST = "match"
"""The order of best match, which needs a query."""
_DIGITS = 20
"""Longer numbers are text: no feature has one."""
_WORDS = 3
"""Words that matched, of each feature."""
_READ = 12
"""Features whose contexts are read for a text of several tokens."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One page of a list."""

    total: int
    ids: list[int]
    sort: str
    marks: tuple[str, ...]
    """Folded texts that stand in what matched."""
    phrases: tuple[str, ...]
    """Terms that were looked for as several tokens."""
    nowhere: tuple[str, ...]
    """Terms that no feature of the index has, as they were written."""
    matches: list[list[dict[str, Any]]]
    """Of each feature the words of its tokens that the query stands in: `word`, folded, and the
    `share` of the firing on it; the largest few."""


class FeatureSearch:
    """Searches among features; `ranking` gives what texts are looked for in, `contexts` a feature's
    strongest contexts as (text before, at and after the peak).
    """

    def __init__(
        self,
        columns: FeatureColumns,
        has_scores: bool,
        ranking: Callable[[], MatchRanking],
        contexts: Callable[[int], list[tuple[str, str, str]]],
    ) -> None:
        self._columns, self._has_scores = columns, has_scores
        self._ranking, self._contexts = ranking, contexts

    def page(
        self,
        query: str,
        sort: str,
        descending: bool,
        bounds: tuple[float, float, float, float],
        page: slice,
        notes: Mapping[int, tuple[str, str]] | None,
        among: Collection[int] | None = None,
    ) -> Found:
        """As `Index.search`; `bounds` as `FeatureColumns.between` takes them."""
        query = query.strip()
        sort = sort or (BEST if query else "frequency")
        if sort not in (BEST, *SORTS):
            choices = ", ".join((BEST, *SORTS))
            raise ValueError(f"unknown sort order {sort!r}: use one of {choices}.")
        by_score = bounds[2] > 0 or bounds[3] < np.inf
        if (sort in SCORES or by_score) and not self._has_scores:
            raise ValueError(
                "this index has no output scores: jumpscope index --add-output-scores adds them."
            )
        mask = self._columns.between(*bounds)
        if among is not None:
            mask &= np.isin(np.arange(len(mask)), list(among))
        sort = "frequency" if sort == BEST and not query else sort
        named = self._named(query)
        ranking, matches = None, None
        if query and not (query.startswith("#") and named is not None):
            ranking = self._ranking()
            matches = ranking.matching(query, notes)
            both = mask & (matches.tiers > 0)
            if named is not None:
                both[named] = mask[named]
            mask = both
        elif named is not None:
            only = np.zeros_like(mask)
            only[named] = mask[named]
            mask = only
        if matches is not None and ranking is not None and sort == BEST:
            ids = self._best(ranking, matches, mask, named, page.stop)[page]
        else:
            order = self._columns.order("id" if sort == BEST else sort, descending)
            ids = order[mask[order]][page].tolist()
        return Found(
            total=int(mask.sum()),
            ids=ids,
            sort=sort,
            marks=matches.marks if matches else (),
            phrases=matches.phrases if matches else (),
            nowhere=_as_written(query, matches.nowhere) if matches else (),
            matches=[_shown(ranking.words(matches, i)) if ranking and matches else [] for i in ids],
        )

    def _named(self, query: str) -> int | None:
        """The feature whose number a query is."""
        number = query.removeprefix("#")
        is_number = number.isascii() and number.isdigit() and len(number) < _DIGITS
        return int(number) if is_number and int(number) < len(self._columns) else None

    def _best(
        self,
        ranking: MatchRanking,
        matches: Matches,
        mask: np.ndarray,
        named: int | None,
        count: int,
    ) -> list[int]:
        """Up to `count` features of a mask, best match first."""
        ids = ranking.best(matches, mask, max(count, _READ)).tolist()
        if matches.phrases:
            ids = self._by_contexts(ids, matches)
        if named is not None and mask[named]:
            ids = [named, *(i for i in ids if i != named)]
        return ids[:count]

    def _by_contexts(self, ids: Sequence[int], matches: Matches) -> list[int]:
        """The first few again, by the share of their strongest contexts that have the phrases where
        the feature fires; what a label or note says stays before them.
        """
        tier = matches.tiers
        read = [i for i in ids if tier[i] < Tier.NOTE][:_READ]
        shares = {i: _share_with(self._contexts(i), matches.phrases) for i in read}
        return sorted(ids, key=lambda i: (tier[i] < Tier.NOTE, -shares.get(i, 0.0)))


def _as_written(query: str, nowhere: Sequence[str]) -> tuple[str, ...]:
    written = as_written(query)
    return tuple(written[term] for term in nowhere)


def _shown(words: Sequence[tuple[bytes, float]]) -> list[dict[str, Any]]:
    return [
        {"word": word.decode(errors="replace"), "share": share} for word, share in words[:_WORDS]
    ]


def _share_with(contexts: Sequence[tuple[str, str, str]], phrases: Sequence[str]) -> float:
    """Share of contexts in which a feature fires on a phrase, for the phrase that has least."""
    if not contexts:
        return 0.0
    return min(sum(_stands_at(phrase, *each) for each in contexts) for phrase in phrases) / len(
        contexts
    )


def _stands_at(phrase: str, before: str, peak: str, after: str) -> bool:
    """Whether a folded phrase stands where the peak is part of it."""
    text = folded(before + peak + after)
    if phrase not in text:
        return False
    start = len(folded(before))
    end = start + max(len(folded(peak)), 1)
    at = text.find(phrase, max(0, start - len(phrase) + 1))
    return 0 <= at < end
