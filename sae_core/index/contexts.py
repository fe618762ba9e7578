"""The contexts that an index shows, chosen from the candidates that the stream left."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_core.index.corpus_spool import Spool
from sae_core.index.selection import (
    Candidates,
    falling,
    first_of_each,
    lexsort,
    on_host,
    rank_in_group,
)
from sae_core.index.statistics import FeatureStatistics

_TOGETHER = 2**18
"""Contexts whose peaks are looked up together: few enough for a CPU's cache."""


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """Contexts sorted by feature, group, and falling value.

    Groups: 0 the strongest, 1 to n the intervals from the highest, n + 1 the near misses.
    """

    feature: np.ndarray
    group: np.ndarray
    row: np.ndarray
    """Row of the stream."""
    position: np.ndarray
    """Token of the row at which the peak is, BOS not counted."""
    value: np.ndarray
    """float32: activation at the peak; pre-activation for near misses."""
    others: np.ndarray
    """Active tokens in each context's window besides the peak."""
    other_position: np.ndarray
    """Place of each of these in its window, the peak's being `before`."""
    other_value: np.ndarray
    """float32: its activation."""

    def strongest(self, place: np.ndarray, begin: np.ndarray) -> np.ndarray:
        """Of each feature's strongest context what `place` has of each, -1 for none; `begin` as
        `bounds` has it.
        """
        first, last = begin[:-1], begin[1:]
        some = np.flatnonzero(first < last)
        some = some[self.group[first[some]] == 0]
        of_feature = np.full(len(first), -1, np.int64)
        of_feature[some] = place[first[some]]
        return of_feature

    def bounds(self, d_sae: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each feature's contexts begin, and where what else is active in them does, both
        `[d_sae + 1]`.
        """
        # Of another type, all that is looked through would be copied.
        begin = np.searchsorted(self.feature, np.arange(d_sae + 1, dtype=self.feature.dtype))
        some = np.flatnonzero(np.diff(begin))
        others = np.zeros(d_sae + 1, np.int64)
        others[some + 1] = np.add.reduceat(self.others, begin[some], dtype=np.int64)
        return begin, np.cumsum(others)


def choose(statistics: FeatureStatistics, intervals: int, per_interval: int) -> Contexts:
    """The strongest contexts, the sampled ones of each interval, and the near misses.

    Everywhere distinct documents come first, then further rows of documents already taken.
    """
    statistics.merge()
    parts = [(0, _best(statistics, "top"))]
    if per_interval:
        parts += _sampled(statistics, intervals, per_interval)
    if ("near_miss", "row") in statistics.best:
        parts.append((intervals + 1, _best(statistics, "near_miss")))
    chosen = Candidates.cat([part for _, part in parts])
    group = torch.cat([torch.full_like(part.feature, g) for g, part in parts])
    order = lexsort(chosen.feature, group, falling(chosen.value), chosen.row, chosen.position)
    chosen, group = chosen[order], group[order]
    windows = chosen.windows
    return Contexts(
        feature=on_host(chosen.feature),
        group=on_host(group),
        row=on_host(chosen.row),
        position=on_host(chosen.position),
        value=on_host(chosen.value),
        others=on_host(windows.count),
        other_position=on_host(windows.position),
        other_value=on_host(windows.value),
    )


def _best(statistics: FeatureStatistics, name: str) -> Candidates:
    """The best of distinct documents, filled up with the best of further rows."""
    by_document, by_row = statistics.best[name, "document"], statistics.best[name, "row"]
    both = Candidates.cat([by_document.kept, by_row.kept])
    late = torch.ones_like(both.feature)
    late[: len(by_document.kept)] = 0
    order = lexsort(both.feature, both.row, late)
    order = order[first_of_each(both.feature[order], both.row[order])]
    keys = (both.feature[order], late[order], falling(both.value[order]), both.row[order])
    order = order[lexsort(*keys)]
    return both[order[rank_in_group(both.feature[order]) < by_document.k]]


def interval_edges(threshold: Tensor, max_act: Tensor, intervals: int) -> Tensor:
    """Edges `[d_sae, intervals + 1]` (float64) of equal parts of [threshold, max_act]."""
    low, high = threshold.double()[:, None], max_act.double()[:, None]
    share = torch.arange(intervals + 1, dtype=torch.float64, device=low.device) / intervals
    return low + (high - low) * share


def _sampled(
    statistics: FeatureStatistics, intervals: int, per_interval: int
) -> list[tuple[int, Candidates]]:
    """A random choice from each interval, the highest first."""
    kept = statistics.sample.kept
    edges = interval_edges(statistics.threshold, statistics.max_act, intervals)
    # An activation on an edge belongs to the interval below it, as the threshold itself to none.
    interval = torch.zeros(len(kept), dtype=torch.int64, device=edges.device)
    for edge in edges[:, 1:-1].T:
        interval += kept.value.double() > edge[kept.feature]
    group = kept.feature.long() * intervals + interval
    # 0 for the first of a document, 1 for the first of a further row of it; others are left out.
    late = torch.ones_like(group)
    order = lexsort(group, kept.document, kept.priority)
    late[order[first_of_each(group[order], kept.document[order])]] = 0
    order = lexsort(group, kept.row, kept.priority)
    order = order[first_of_each(group[order], kept.row[order])]
    order = order[lexsort(group[order], late[order], kept.priority[order])]
    order = order[rank_in_group(group[order]) < per_interval]
    taken, interval = kept[order], interval[order]
    return [(intervals - int(i), taken[interval == i]) for i in range(intervals)]


@dataclass(frozen=True, kw_only=True)
class StoredTokens:
    """The tokens that some context needs, and where they come from.

    A segment is a run of stored tokens that were neighbours in one row.
    """

    tokens: np.ndarray
    """Ids, segment after segment."""
    documents: np.ndarray
    """Which of the spool's documents they are from."""
    segment_length: np.ndarray
    segment_document: np.ndarray
    """Index into `documents`."""
    segment_skip: np.ndarray
    """Tokens left out between the segment before it in its document (or the start) and this."""
    place: np.ndarray
    """Place of each context's peak in `tokens`, uint32."""


def store_tokens(spool: Spool, contexts: Contexts, before: int, after: int) -> StoredTokens:
    """Cut the windows of all contexts out of the stream, each token once."""
    row_start = np.asarray(spool.row_start, np.int64)
    row_end = np.append(row_start[1:], spool.length)

    def peaks_of(some: slice) -> np.ndarray:
        return row_start[contexts.row[some]] + contexts.position[some]

    # Many contexts have the same peak: each is looked at once.
    is_peak = np.zeros(spool.length, bool)

    def mark(some: slice) -> None:
        is_peak[peaks_of(some)] = True

    _in_threads(mark, len(contexts.row))
    peaks = np.flatnonzero(is_peak)
    row = np.searchsorted(row_start, peaks, side="right") - 1
    first = np.maximum(peaks - before, row_start[row])
    last = np.minimum(peaks + after + 1, row_end[row])
    ends = spool.length + 1
    depth = np.bincount(first, minlength=ends) - np.bincount(last, minlength=ends)
    needed = np.cumsum(depth[:-1]) > 0
    place = np.cumsum(needed) - 1
    starts = needed.copy()
    starts[1:] &= ~needed[:-1]
    starts[row_start[row_start < spool.length]] |= needed[row_start[row_start < spool.length]]
    begin = np.flatnonzero(starts)
    length = np.diff(np.append(place[begin], int(needed.sum())))
    row = np.searchsorted(row_start, begin, side="right") - 1
    in_document = np.asarray(spool.row_offset, np.int64)[row] + begin - row_start[row]
    documents, document = np.unique(
        np.asarray(spool.row_document, np.int64)[row], return_inverse=True
    )
    same = document[1:] == document[:-1]
    skip = in_document.copy()
    skip[1:] -= np.where(same, in_document[:-1] + length[:-1], 0)
    of_context = np.empty(len(contexts.row), np.uint32)

    def find(some: slice) -> None:
        of_context[some] = place[peaks_of(some)]

    _in_threads(find, len(of_context))
    return StoredTokens(
        tokens=np.asarray(spool.tokens())[needed].astype(np.int64),
        documents=documents,
        segment_length=length,
        segment_document=document,
        segment_skip=skip,
        place=of_context,
    )


def _in_threads(work: Callable[[slice], None], count: int) -> None:
    """`work` for parts of so many elements; what NumPy looks up holds no lock of Python's."""
    parts = [slice(first, first + _TOGETHER) for first in range(0, count, _TOGETHER)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in threads.map(work, parts):
            pass
