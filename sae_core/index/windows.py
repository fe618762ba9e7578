"""What else is active around the peak of a context: as ragged lists, since mostly little is."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_AT_ONCE = 2**18
"""Windows looked at together."""


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
        count = self.count[chosen]
        length = count.long()
        start = self.count.long().cumsum(0) - self.count
        # Each taken number's place: its window's start, and one more than the number before it.
        shift = start[chosen] - (length.cumsum(0) - length)
        place = shift.repeat_interleave(length)
        place += torch.arange(len(place), device=place.device)
        return Windows(count, self.position[place], self.value[place])

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
        for some in torch.arange(len(feature), device=feature.device).split(_AT_ONCE):
            parts.append(self._windows(feature[some], token[some], before, after))
        return Windows.cat(parts)

    def _windows(self, feature: Tensor, token: Tensor, before: int, after: int) -> Windows:
        if not len(self.feature):
            none = Windows.empty(feature.device)
            return Windows(torch.zeros_like(feature, dtype=torch.uint8), none.position, none.value)
        # Most have no neighbour in their window, which their neighbours in the list tell.
        inside, _, _ = self._near(feature, token, before, after, 1, 1)
        some = inside.any(1).nonzero()[:, 0]
        inside, position, value = self._near(
            feature[some], token[some], before, after, before, after
        )
        count = torch.zeros_like(feature, dtype=torch.uint8)
        count[some] = inside.sum(1).to(torch.uint8)
        return Windows(count, position[inside].to(torch.uint8), value[inside])

    def _near(
        self,
        feature: Tensor,
        token: Tensor,
        before: int,
        after: int,
        left: int,
        right: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the `left` entries before each in the list and the `right` ones after it: which are in
        its window besides the peak, where there, and their activations.
        """
        n = len(self.row)
        key = self.feature * n + self.token
        offsets = torch.arange(-left, right + 1, device=feature.device)
        # A window has no more active tokens than tokens, so they are no further away in the list.
        near = torch.searchsorted(key, feature * n + token)[:, None] + offsets
        inside = (near >= 0) & (near < len(key))
        near = near.clamp_(0, len(key) - 1)
        other = self.token[near]
        inside &= self.feature[near] == feature[:, None]
        inside &= self.row[other] == self.row[token, None]
        distance = self.position[other] - self.position[token, None]
        inside &= (distance >= -before) & (distance <= after) & (distance != 0)
        return inside, distance + before, self.value[near]
