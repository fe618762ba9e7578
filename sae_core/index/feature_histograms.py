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
    """Per feature, counts of pre-activations in 56 bins around a centre, and beyond them.

    Bin edges are `centre + i * width` for i in -28..28; column 0 counts what is below, column 57
    what is above. The middle edge is the comparison `pre_acts > centre` itself, so that what is
    right of a threshold is what fires, to the token; a value on another edge is right of it.

    `add` counts a sample of the tokens, weighted; `add_active` what is right of the centre on all;
    `scaled` makes one histogram of all tokens from the two.
    """

    BINS = WINDOW_BINS
    HALF = BINS // 2

    def __init__(self, centre: Tensor, width: Tensor) -> None:
        """`centre`, `width`: float32 `[d_sae]`."""
        self._centre, self.width = centre, width
        columns = self.BINS + 2
        self.counts = torch.zeros((len(centre), columns), dtype=torch.int64, device=centre.device)
        self._right = torch.zeros(
            (len(centre), self.HALF + 1), dtype=torch.int64, device=centre.device
        )

    def add(self, pre_acts: Tensor, features: slice = slice(None), weight: int = 1) -> None:
        """Count `pre_acts [features, tokens]`, each token `weight` times."""
        counts, centre = self.counts[features], self._centre[features, None]
        place = (pre_acts - centre).div_(self.width[features, None]).floor_()
        # Rounding may take what is no larger than the centre to it, but nothing larger below it.
        place = torch.where(pre_acts > centre, place, place.clamp(max=-1))
        base = torch.arange(len(counts), device=place.device, dtype=torch.int32)
        base = base[:, None] * counts.shape[1] + (self.HALF + 1)
        place = place.clamp_(-self.HALF - 1, self.HALF).to(torch.int32).add_(base)
        new = torch.bincount(place.reshape(-1), minlength=counts.numel())
        counts += weight * new.view_as(counts)

    def add_active(self, feature: Tensor, pre_act: Tensor) -> None:
        """Count entries that are right of the centre."""
        place = (pre_act - self._centre[feature]).div_(self.width[feature]).floor_()
        key = feature * (self.HALF + 1) + place.clamp_(0, self.HALF).long()
        self._right.view(-1).scatter_add_(0, key, torch.ones_like(key))

    def scaled(self, tokens: int, exact: bool) -> Tensor:
        """Counts of `tokens` tokens `[d_sae, 58]`; with `exact`, those right of the centre are what
        `add_active` counted, else they are from the sample like the rest.

        The sample's counts are scaled so that their sum is what it must be: their cumulated shares,
        rounded to whole tokens. Where no sampled token was left of the centre, those that were are
        put next to it.
        """
        if not exact:
            return _scaled_to(self.counts, torch.full_like(self.counts[:, 0], tokens))
        left = self.counts[:, : self.HALF + 1]
        missing = tokens - self._right.sum(1)
        return torch.cat([_scaled_to(left, missing), self._right], dim=1)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        return {"counts": self.counts.cpu(), "right": self._right.cpu()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.counts = state["counts"].to(self._centre.device)
        self._right = state["right"].to(self._centre.device)


def _scaled_to(counts: Tensor, total: Tensor) -> Tensor:
    """`counts [n, bins]` scaled to sums of `total [n]`, in whole numbers."""
    cumulated = counts.cumsum(1)
    sampled = cumulated[:, -1:].clone()
    # All counts in the last bin where there are none.
    cumulated[:, -1:] = sampled.clamp(min=1)
    shares = cumulated.double() * total[:, None] / sampled.clamp(min=1)
    edges = torch.minimum((shares + 0.5).floor().long(), total[:, None])
    return edges.diff(dim=1, prepend=torch.zeros_like(edges[:, :1]))
