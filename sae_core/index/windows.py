"""What else is active around the peak of a context: as ragged lists, since mostly little is."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

_AT_ONCE = 2**18
"""Windows looked at together."""
_ROW, _FEATURE = 16, 36
"""Bits of a place in a row, with room for a window beyond its end, and of a place among a million
rows, which leaves room for 134 million features."""


@dataclass(frozen=True)
class Windows:
    """Active tokens besides the peak in each of n windows, window after window."""

    count: Int[Tensor, " n"]
    """How many each window has, uint8."""
    position: Int[Tensor, " others"]
    """Place in the window, uint8; the peak itself is at `before`."""
    value: Float[Tensor, " others"]
    """float32: activations."""

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, chosen: Tensor) -> "Windows":
        """Those at the indices `chosen`."""
        count = self.count.index_select(0, chosen)
        length = count.long()
        start = self.count.long().cumsum(0) - self.count
        # Each taken number's place: its window's start, and one more than the number before it.
        shift = start.index_select(0, chosen) - (length.cumsum(0) - length)
        place = shift.repeat_interleave(length)
        place += torch.arange(len(place), device=place.device)
        taken = (self.position.index_select(0, place), self.value.index_select(0, place))
        return Windows(count, *taken)

    @classmethod
    def empty(cls, device: torch.device) -> "Windows":
        """No windows."""
        byte = torch.empty(0, dtype=torch.uint8, device=device)
        return cls(byte, byte, byte.float())

    @classmethod
    def cat(cls, parts: "list[Windows]") -> "Windows":
        """All parts, in order."""
        columns = zip(*((p.count, p.position, p.value) for p in parts), strict=True)
        return cls(*map(torch.cat, columns))


@dataclass(frozen=True)
class Active:
    """The active entries of some rows, sorted by feature, then token; where the tokens stand."""

    feature: Int[Tensor, " n"]
    token: Int[Tensor, " n"]
    value: Float[Tensor, " n"]
    row: Int[Tensor, " tokens"]
    """Row of each token; tokens of a row are neighbours and in order."""
    position: Int[Tensor, " tokens"]
    """Place of each token in its row; those of a row that do not count are missing."""

    def windows(
        self,
        feature: Int[Tensor, " m"],
        token: Int[Tensor, " m"],
        before: int,
        after: int,
    ) -> Windows:
        """The windows around each (feature, token), `before` tokens to the left, `after` to the
        right.
        """
        parts = [Windows.empty(feature.device)]
        for some in zip(feature.split(_AT_ONCE), token.split(_AT_ONCE), strict=True):
            parts.append(self._windows(*some, before, after))
        return Windows.cat(parts)

    def _windows(self, feature: Tensor, token: Tensor, before: int, after: int) -> Windows:
        peak = feature << _FEATURE | self._spot.index_select(0, token)
        first = torch.searchsorted(self._line, peak - before)
        count = torch.searchsorted(self._line, peak + after, right=True) - first
        place = (first - (count.cumsum(0) - count)).repeat_interleave(count)
        place += torch.arange(len(place), device=place.device)
        distance = self._line.index_select(0, place) - peak.repeat_interleave(count)
        # The peak itself is among them if it is active; of a near miss it is not.
        other = distance.nonzero()[:, 0]
        if len(other) < len(place):
            own = torch.searchsorted(self._line, peak).clamp_(max=len(self._line) - 1)
            count = count - (self._line.index_select(0, own) == peak).long()
            place, distance = place.index_select(0, other), distance.index_select(0, other)
        position = (distance + before).to(torch.uint8)
        return Windows(count.to(torch.uint8), position, self.value.index_select(0, place))

    @cached_property
    def _spot(self) -> Int[Tensor, " tokens"]:
        """Each token's place on a line on which rows are far apart."""
        starts = self.row.diff(prepend=self.row[:1]) != 0
        return starts.cumsum(0) << _ROW | self.position

    @cached_property
    def _line(self) -> Int[Tensor, " n"]:
        """The entries on a line on which features are further apart than rows, rising."""
        return self.feature << _FEATURE | self._spot.index_select(0, self.token)
