"""Which contexts of each feature are kept, decided while the corpus streams by.

A candidate is a feature at a position of a row of tokens, with a value and the feature's
activations in the window around it. Two kinds of choice, both exact whatever the batch size and
however often the buffers are merged:

`Best` keeps, per feature, the k largest values of distinct documents (or of distinct rows).

Either can absorb what another one has kept of other rows, in any order.

`IntervalSample` keeps a uniform sample of the active tokens of every activation interval although
the intervals, equal parts of [threshold, maximum], are settled only at the end. Each token of the
corpus has a random priority that depends on the seed, its document and its place in it alone. Per
feature and bin of activation (`DoublingHistogram` has narrower ones) the candidates of lowest
priority are kept; when the maximum grows and bins merge in pairs, the lowest of two bins are the
lowest of their union. The lowest priorities of an interval's bins are then a uniform sample of the
interval, from which `sae_core.index.contexts` takes one token of each document first: what is shown
is not uniform over the tokens.
An interval's edge falls within a bin, whose kept candidates may lie on its other side; that could
cost exactness only if fewer than `SLOTS` candidates of the whole interval were below the priority
of the last kept candidate of that bin.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_core.index.feature_histograms import bin_exponent, exact_power_of_two
from sae_core.index.listed_entries import places_of
from sae_core.index.windows import Windows

BINS = 32
"""Bins of activation per feature in which a sample is kept; 16 to 32 of them are in use."""
SLOTS = 6
"""Candidates kept per bin."""
MERGE_AT = 250_000
"""Candidates buffered, at least, before they are merged into what is kept."""


_AT_ONCE = 2**23
"""Candidates sorted together."""


@dataclass(frozen=True)
class Candidates:
    """Columns of equal length n."""

    feature: Tensor
    """int32."""
    document: Tensor
    """int32: number of the document in the stream."""
    row: Tensor
    """int32: number of the row in the stream."""
    position: Tensor
    """int16: token of the row, BOS not counted."""
    priority: Tensor
    """int64, 0 to 2^62: random per token of the corpus."""
    value: Tensor
    """float32: activation, or pre-activation for near misses."""
    windows: Windows
    """Activations around the position."""

    def __len__(self) -> int:
        return len(self.feature)

    def __getitem__(self, chosen: Tensor) -> "Candidates":
        """Those at the indices `chosen`, or where a mask is True."""
        if chosen.dtype == torch.bool:
            chosen = places_of(chosen)
        columns = {name: getattr(self, name).index_select(0, chosen) for name in _COLUMNS}
        return Candidates(**columns, windows=self.windows[chosen])

    @classmethod
    def empty(cls, device: torch.device) -> "Candidates":
        """No candidates."""
        none = torch.empty(0, dtype=torch.int32, device=device)
        value, windows = none.float(), Windows.empty(device)
        return cls(none, none, none, none.short(), none.long(), value, windows)

    @classmethod
    def cat(cls, parts: "list[Candidates]") -> "Candidates":
        """All parts, in order."""
        columns = [torch.cat([getattr(p, name) for p in parts]) for name in _COLUMNS]
        windows = Windows.cat([p.windows for p in parts])
        return cls(**dict(zip(_COLUMNS, columns, strict=True)), windows=windows)

    @classmethod
    def joined(cls, parts: "list[Candidates]") -> "Candidates":
        """`cat` of a list that is emptied: of each column the parts are gone before the next is
        joined, which takes little more memory than the parts do.
        """
        columns = {name: [getattr(part, name) for part in parts] for name in _COLUMNS}
        windows = [part.windows for part in parts]
        parts.clear()
        joined = {name: torch.cat(columns.pop(name)) for name in _COLUMNS}
        return cls(**joined, windows=Windows.cat(windows))

    def further(self, rows: int, documents: int) -> "Candidates":
        """The same, `rows` rows and `documents` documents further in the stream."""
        return replace(self, row=self.row + rows, document=self.document + documents)

    def tensors(self) -> dict[str, Tensor]:
        """The columns by name; those of `windows` among them."""
        own = {name: getattr(self, name) for name in _COLUMNS}
        return own | {f"windows/{f.name}": getattr(self.windows, f.name) for f in fields(Windows)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device) -> "Candidates":
        """Inverse of `tensors`."""
        windows = Windows(*(tensors[f"windows/{f.name}"].to(device) for f in fields(Windows)))
        return cls(**{name: tensors[name].to(device) for name in _COLUMNS}, windows=windows)


_COLUMNS = [f.name for f in fields(Candidates) if f.name != "windows"]


def on_host(column: Tensor) -> np.ndarray:
    """A column as an array. What comes from a GPU goes into NumPy's memory, which Linux may keep in
    large pages: of those a process that is forked later has few to take over.
    """
    if not column.is_cuda:
        return column.numpy()
    array = torch.from_numpy(np.empty(column.shape, str(column.dtype).removeprefix("torch.")))
    return array.copy_(column).numpy()


def lexsort(*keys: Tensor) -> Tensor:
    """Indices that sort by the first key, ties by the second, and so on."""
    order = keys[-1].argsort(stable=True)
    for key in reversed(keys[:-1]):
        order = order.index_select(0, key.index_select(0, order).argsort(stable=True))
    return order


def falling(value: Tensor) -> Tensor:
    """int64 from 0 to 2^32 that rises where float32 `value` falls: integers are sorted faster."""
    bits = (value + 0.0).view(torch.int32)  # of two zeros one
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).long().neg_() + 2**31


def rank_in_group(group: Tensor) -> Tensor:
    """For sorted `group`: 0, 1, 2, ... from the start of each run of equal entries."""
    place = torch.arange(len(group), device=group.device)
    start = first_of_each(group)
    # Each run's start by its number; a running maximum of the starts takes a GPU far longer.
    return place - start.nonzero()[:, 0][start.cumsum(0) - 1]


def first_of_each(*keys: Tensor) -> Tensor:
    """For keys sorted together: True at the first of each run of equal key tuples."""
    first = torch.zeros(len(keys[0]), dtype=torch.bool, device=keys[0].device)
    first[:1] = True
    for key in keys:
        first[1:] |= key[1:] != key[:-1]
    return first


def largest_of_run(value: Tensor, *keys: Tensor) -> Tensor:
    """bool: which values are the largest of their run of neighbours with equal keys."""
    run = first_of_each(*keys).cumsum(0) - 1
    largest = torch.full_like(value, -torch.inf).scatter_reduce_(0, run, value, "amax")
    return value == largest.index_select(0, run)


def merged_by_features(
    kept: Candidates, new: Candidates, d_sae: int, choose: Callable[[Candidates], Candidates]
) -> Candidates:
    """What `choose` keeps of both, sorted by feature, which it decides for each feature apart.

    Of very many candidates it is given a part of the features after another: sorting takes several
    times the memory of what is sorted.
    """
    parts = -(-(len(kept) + len(new)) // _AT_ONCE)
    if parts <= 1:
        return choose(Candidates.cat([kept, new]))
    chosen = []
    for part in range(parts):
        low, high = part * d_sae // parts, (part + 1) * d_sae // parts
        some = [each[(each.feature >= low) & (each.feature < high)] for each in (kept, new)]
        chosen.append(choose(Candidates.cat(some)))
    return Candidates.joined(chosen)


class Best:
    """Per feature, the `k` candidates of largest value of distinct documents or distinct rows."""

    def __init__(self, d_sae: int, k: int, unit: str, device: torch.device) -> None:
        assert unit in ("document", "row")
        self.k, self._unit = k, unit
        self.kept = Candidates.empty(device)
        self.bar = torch.full((d_sae,), -torch.inf, device=device)
        """A candidate must exceed this to matter: the k-th value kept so far."""

    def merge(self, new: Candidates, *, in_order: bool = True) -> None:
        """Take in candidates of later rows, of each feature in the order of the stream; or of any
        rows in any order.
        """
        # One that only reaches the bar matters if it comes before what set it.
        new = new[new.value >= self.bar.index_select(0, new.feature)]

        def best(both: Candidates) -> Candidates:
            feature = both.feature.long()
            # Of equal values the first in the corpus is kept.
            key = feature << 32 | falling(both.value)
            if in_order:
                order = key.argsort(stable=True)
            else:
                order = lexsort(key, both.row.long() << 16 | both.position)
            unit = (feature << 32 | getattr(both, self._unit)).index_select(0, order)
            by_unit = unit.argsort(stable=True)
            first = first_of_each(unit.index_select(0, by_unit))
            order = order[torch.zeros_like(first).scatter_(0, by_unit, first)]
            return both[order[rank_in_group(feature.index_select(0, order)) < self.k]]

        self.kept = merged_by_features(self.kept, new, len(self.bar), best)
        self._raise_bar()

    def _raise_bar(self) -> None:
        last = (rank_in_group(self.kept.feature) == self.k - 1).nonzero()[:, 0]
        self.bar[self.kept.feature[last]] = self.kept.value[last]

    def absorb(self, state: dict[str, Tensor], rows: int, documents: int) -> None:
        """Take in what another one has kept, of rows so much further in the stream than it says."""
        theirs = Candidates.from_tensors(state, self.bar.device)
        self.merge(theirs.further(rows, documents), in_order=False)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return self.kept.tensors()

    def load(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.kept = Candidates.from_tensors(state, self.bar.device)
        self._raise_bar()


class IntervalSample:
    """Per feature and bin of activation above the floor, the candidates of lowest priority."""

    def __init__(self, floor: Tensor) -> None:
        """`floor [d_sae]`: the activation below which a feature cannot be active."""
        self._floor = floor
        self.kept = Candidates.empty(floor.device)
        self._bar = torch.full((len(floor), BINS), 2**62, dtype=torch.int64, device=floor.device)
        self._exponent = torch.zeros(len(floor), dtype=torch.int64, device=floor.device)

    def matters(self, feature: Tensor, value: Tensor, priority: Tensor, exponent: Tensor) -> Tensor:
        """Which of these active tokens could still be kept; `exponent [d_sae]` of the bins."""
        # Bars hold for the bins of the last merge only.
        stale = (exponent != self._exponent).index_select(0, feature)
        group = feature * BINS + self._bin(feature, value, exponent)
        return stale | (priority < self._bar.view(-1).index_select(0, group))

    def merge(self, new: Candidates, exponent: Tensor) -> None:
        """Take in candidates of later rows, with the exponent of each feature's bins now."""
        self._bar.fill_(2**62)

        def lowest(both: Candidates) -> Candidates:
            group = both.feature.long() * BINS + self._bin(both.feature, both.value, exponent)
            order = self._by_priority(group, both.priority)
            group = group.index_select(0, order)
            rank = rank_in_group(group)
            last = rank == SLOTS - 1
            self._bar.view(-1)[group[last]] = both.priority[order[last]]
            return both[order[rank < SLOTS]]

        self.kept = merged_by_features(self.kept, new, len(self._floor), lowest)
        self._exponent = exponent.clone()

    def absorb(self, state: dict[str, Tensor], exponent: Tensor, rows: int, documents: int) -> None:
        """Take in what another one has kept, of rows so much further in the stream than it says;
        a candidate that both have kept counts once.
        """
        theirs = Candidates.from_tensors(state, self._floor.device).further(rows, documents)
        both = Candidates.cat([self.kept, theirs])
        # Of equal priorities (the same document twice) the first in the stream is kept.
        order = lexsort(both.row, both.position, both.feature)
        columns = (both.row[order], both.position[order], both.feature[order])
        self.kept = Candidates.empty(self._floor.device)
        self.merge(both[order[first_of_each(*columns)]], exponent)

    def _by_priority(self, group: Tensor, priority: Tensor) -> Tensor:
        """Indices that sort by group, then priority."""
        # One sort by what there is room for of the priority decides it, mostly.
        room = 63 - (self._bar.numel() - 1).bit_length()
        key = group << room | priority >> (62 - room)
        key, order = key.sort(stable=True)
        return lexsort(group, priority) if bool((key[1:] == key[:-1]).any()) else order

    def _bin(self, feature: Tensor, value: Tensor, exponent: Tensor) -> Tensor:
        scale = exact_power_of_two(-exponent).index_select(0, feature)
        return ((value - self._floor.index_select(0, feature)) * scale).long().clamp_(0, BINS - 1)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return self.kept.tensors()

    def load(self, state: dict[str, Tensor], exponent: Tensor) -> None:
        """Inverse of `state`."""
        self.kept = Candidates.empty(self._floor.device)
        self.merge(Candidates.from_tensors(state, self._floor.device), exponent)


def sample_exponent(largest: Tensor) -> Tensor:
    """Exponents of the sample's bins from the largest height above the floor."""
    return bin_exponent(largest, BINS)


_MASK = 2**63 - 1


def _signed(number: int) -> int:
    """The int64 of the same 64 bits."""
    return (number + 2**63) % 2**64 - 2**63


def priorities(key: Tensor, seed: int) -> Tensor:
    """Random int64 in [0, 2^62) for each int64 key of a token: SplitMix64 of it and the seed."""
    # int64 arithmetic wraps; shifts are made logical by masking the sign's copies.
    x = key + _signed((seed + 1) * 0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & (_MASK >> (shift - 1)))) * _signed(factor)
    x = x ^ ((x >> 31) & (_MASK >> 30))
    return x & (2**62 - 1)
