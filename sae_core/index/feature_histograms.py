"""Histograms whose bins are settled while the values stream by, exactly and in any order."""

import torch
from torch import Tensor

from sae_core.index.feature_pages import DOUBLING_BINS, WINDOW_BINS


def exact_power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent as float32, exact, for int64 exponents; those beyond the range are clamped."""
    bits = (exponent.clamp(-126, 127) + 127) << 23
    return bits.to(torch.int32).view(torch.float32)


def bin_exponent(largest: Tensor, bins: int) -> Tensor:
    """Smallest e (int64) with `largest < bins * 2**e`; -126 where nothing was seen.

    `bins` is a power of two.
    """
    exponent = torch.frexp(largest / bins).exponent.long()
    return torch.where(largest > 0, exponent, -126).clamp(min=-126)


class DoublingHistogram:
    """Per feature, counts of heights above a floor in up to 64 bins whose width is a power of two.

    The width is the smallest power of two with which the bins reach the largest height, so 32 to 64
    bins are in use. While it grows, neighbouring bins are added in pairs: counts stay exact, and
    the result does not depend on the order of the values.
    """

    BINS = DOUBLING_BINS

    def __init__(self, floor: Tensor) -> None:
        self._floor = floor
        self.largest = torch.zeros_like(floor)
        """Largest height above the floor so far."""
        self.counts = torch.zeros((len(floor), self.BINS), dtype=torch.int64, device=floor.device)
        self.exponent = bin_exponent(self.largest, self.BINS)
        """A bin of feature f is 2**exponent[f] wide."""

    def widen(self, largest_value: Tensor) -> None:
        """Make room for values up to `largest_value [d_sae]`."""
        self.largest = torch.maximum(self.largest, largest_value - self._floor)
        exponent = bin_exponent(self.largest, self.BINS)
        changed = (exponent != self.exponent).nonzero()[:, 0]
        if len(changed):
            shift = (exponent - self.exponent)[changed].clamp(max=63)
            place = torch.arange(self.BINS, device=shift.device) >> shift[:, None]
            old = self.counts[changed]
            self.counts[changed] = torch.zeros_like(old).scatter_add_(1, place, old)
            self.exponent = exponent

    def add(self, feature: Tensor, value: Tensor) -> None:
        """Count active values, none above what `widen` was told."""
        height = value - self._floor[feature]
        place = (height * exact_power_of_two(-self.exponent)[feature]).long()
        key = feature * self.BINS + place.clamp_(0, self.BINS - 1)
        self.counts.view(-1).scatter_add_(0, key, torch.ones_like(key))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        return {"largest": self.largest.cpu(), "counts": self.counts.cpu()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.largest = state["largest"].to(self._floor.device)
        self.counts = state["counts"].to(self._floor.device)
        self.exponent = bin_exponent(self.largest, self.BINS)


class WindowHistogram:
    """Per feature, counts of all pre-activations in 56 bins around a centre, and beyond them.

    Bin edges are `centre + i * width` for i in -28..28; column 0 counts what is below, column 57
    what is above. The middle edge is the comparison `pre_acts > centre` itself, so that what is
    right of a threshold is what fires, to the token; a value on another edge is right of it.
    """

    BINS = WINDOW_BINS
    HALF = BINS // 2

    def __init__(self, centre: Tensor, width: Tensor) -> None:
        """`centre`, `width`: float32 `[d_sae]`."""
        self._centre, self.width = centre, width
        columns = self.BINS + 2
        self.counts = torch.zeros((len(centre), columns), dtype=torch.int64, device=centre.device)
        self._base = torch.arange(len(centre), device=centre.device, dtype=torch.int32) * columns

    def add(self, pre_acts: Tensor) -> None:
        """Count `pre_acts [tokens, d_sae]`."""
        place = (pre_acts - self._centre).div_(self.width).floor_()
        # Rounding may take what is no larger than the centre to it, but nothing larger below it.
        place = torch.where(pre_acts > self._centre, place, place.clamp(max=-1))
        place = place.add_(self.HALF).clamp_(-1, self.BINS).to(torch.int32).add_(self._base + 1)
        size = self.counts.numel()
        self.counts += torch.bincount(place.view(-1), minlength=size).view_as(self.counts)
