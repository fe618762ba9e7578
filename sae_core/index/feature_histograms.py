"""Histograms of every feature that depend neither on the order of the values nor on who counts."""

from functools import cache
from typing import Any

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
    """Per feature, counts of heights above a floor in up to 128 bins whose width is a power of two.

    The width is the smallest power of two with which the bins reach the largest height, so 64 to
    128 bins are in use. While it grows, neighbouring bins are added in pairs: counts stay exact,
    the result does not depend on the order of the values, and histograms of parts of them can be
    added.
    """

    BINS = 2 * DOUBLING_BINS

    def __init__(self, floor: Tensor) -> None:
        self._floor = floor
        self.largest = torch.zeros_like(floor)
        """Largest height above the floor so far."""
        self._counts = torch.zeros((len(floor), self.BINS), dtype=torch.int64, device=floor.device)
        self._exponent = bin_exponent(self.largest, self.BINS)
        # A bin of feature f is 2**_exponent[f] wide.

    def widen(self, largest: Tensor) -> None:
        """Make room for heights up to `largest [d_sae]`."""
        self.largest = torch.maximum(self.largest, largest)
        exponent = bin_exponent(self.largest, self.BINS)
        changed = (exponent != self._exponent).nonzero()[:, 0]
        if len(changed):
            shift = (exponent - self._exponent)[changed]
            self._counts[changed] = _paired(self._counts[changed], shift, self.BINS)
            self._exponent = exponent

    def add(self, feature: Tensor, value: Tensor) -> None:
        """Count active values, none above what `widen` was told."""
        height = value - self._floor[feature]
        place = (height * exact_power_of_two(-self._exponent)[feature]).long()
        key = feature * self.BINS + place.clamp_(0, self.BINS - 1)
        self._counts.view(-1).scatter_add_(0, key, torch.ones_like(key))

    @property
    def exponent(self) -> Tensor:
        """Exponent `[d_sae]` of the smallest bins of which `DOUBLING_BINS` hold all heights."""
        return bin_exponent(self.largest, DOUBLING_BINS)

    @property
    def counts(self) -> Tensor:
        """Counts in these bins, `[d_sae, 64]`."""
        return _paired(self._counts, self.exponent - self._exponent, DOUBLING_BINS)

    @property
    def finest(self) -> Tensor:
        """Exponent `[d_sae]` of the narrowest bins that `wider` has counts in."""
        return self._exponent

    def wider(self, exponent: Tensor, bins: int) -> Tensor:
        """Counts in bins of width 2**exponent, none below `finest`: `[d_sae, bins + 1]`, the last
        being of what is above them.
        """
        return _paired(self._counts, exponent - self._exponent, bins + 1)

    def clear(self) -> None:
        """Forget the counts; the bins stay."""
        self._counts.zero_()

    def absorb(self, state: dict[str, Tensor]) -> None:
        """Add what another histogram of the same floor has counted."""
        largest = state["largest"].to(self._floor.device)
        self.widen(largest)
        shift = self._exponent - bin_exponent(largest, self.BINS)
        self._counts += _paired(state["counts"].to(shift.device), shift, self.BINS)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        return {"largest": self.largest, "counts": self._counts}

    def load(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.largest = state["largest"].to(self._floor.device)
        self._counts = state["counts"].to(self._floor.device)
        self._exponent = bin_exponent(self.largest, self.BINS)


def _paired(counts: Tensor, shift: Tensor, bins: int) -> Tensor:
    """`counts [n, many]` with 2**shift neighbours in one bin, `[n, bins]`; what is beyond the last
    bin counts in it.
    """
    place = torch.arange(counts.shape[1], device=counts.device) >> shift.clamp(max=62)[:, None]
    paired = torch.zeros((len(counts), bins), dtype=counts.dtype, device=counts.device)
    return paired.scatter_add_(1, place.clamp_(max=bins - 1), counts)


_AT_ONCE = 2048
"""Tokens of a feature that a program of the kernel counts together."""
HALF_WINDOW = WINDOW_BINS // 2
"""Bins on either side of the centre in a histogram of pre-activations."""


def deviations(pre_acts: Tensor) -> Tensor:
    """Standard deviation of each feature's `pre_acts [features, tokens]`, 0 of no tokens."""
    if not pre_acts.shape[1]:
        return pre_acts.new_zeros(len(pre_acts))
    if pre_acts.is_cuda:
        return pre_acts.std(1, correction=0)
    # On a CPU a thirtieth of the time, and near enough for the power of two that is made of it.
    square = torch.linalg.vecdot(pre_acts, pre_acts) / pre_acts.shape[1]
    variance = square - pre_acts.mean(1).square()
    # But not of values that are far larger than they differ: rounding is what is left of them.
    alike = (variance < 1e-4 * square).nonzero()[:, 0]
    if len(alike):
        variance[alike] = pre_acts[alike].var(1, correction=0)
    return variance.sqrt()


def window_counts(pre_acts: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    """Histograms `[features, 58]` of `pre_acts [features, tokens]`: below, 56 bins, above.

    Bin edges are `centre + i * width` for i in -28..28. The middle edge is the comparison
    `pre_acts > centre` itself, so that what is right of a threshold is what fires, to the token; a
    value on another edge is right of it. Widths are powers of two.
    """
    kernel = _kernel() if pre_acts.is_cuda else None
    if kernel is not None:
        return _by_kernel(kernel, pre_acts, centre, width)
    place = (pre_acts - centre[:, None]).div_(width[:, None]).floor_()
    # Rounding may take what is no larger than the centre to it, but nothing larger below it.
    place = torch.where(pre_acts > centre[:, None], place, place.clamp(max=-1))
    columns = WINDOW_BINS + 2
    base = torch.arange(len(pre_acts), device=place.device, dtype=torch.int32)
    base = base[:, None] * columns + (HALF_WINDOW + 1)
    place = place.clamp_(-HALF_WINDOW - 1, HALF_WINDOW).to(torch.int32).add_(base)
    counts = torch.bincount(place.reshape(-1), minlength=len(pre_acts) * columns)
    return counts.view(len(pre_acts), columns)


def _by_kernel(kernel: Any, pre_acts: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    """The same, reading each pre-activation once."""
    columns = WINDOW_BINS + 2
    out = torch.empty(len(pre_acts), columns, dtype=torch.int32, device=pre_acts.device)
    kernel[(len(pre_acts),)](
        pre_acts.contiguous(), centre, 1 / width, out, pre_acts.shape[1],
        HALF=HALF_WINDOW, COLUMNS=columns, PLACES=64, AT_ONCE=_AT_ONCE,
    )  # fmt: skip
    return out.long()


@cache
def _kernel() -> Any:
    """The kernel, None where there is no Triton."""
    try:
        from sae_core.index.window_counts_kernel import counts
    except ImportError:
        return None
    return counts


def of_all_tokens(sampled: Tensor, tokens: int, right: Tensor | None) -> Tensor:
    """Histograms of `tokens` tokens from those of a sample, both `[features, 58]`; with `right [
    features, 29]`, what is right of the centre is that.

    The sample's counts are scaled so that their sum is what it must be: their cumulated shares,
    rounded to whole tokens. Where no sampled token was left of the centre, those that were are
    put next to it.
    """
    if right is None:
        return _scaled_to(sampled, torch.full_like(sampled[:, 0], tokens))
    left = _scaled_to(sampled[:, : HALF_WINDOW + 1], tokens - right.sum(1))
    return torch.cat([left, right], dim=1)


def _scaled_to(counts: Tensor, total: Tensor) -> Tensor:
    """`counts [n, bins]` scaled to sums of `total [n]`, in whole numbers."""
    cumulated = counts.cumsum(1)
    sampled = cumulated[:, -1:].clone()
    # All counts in the last bin where there are none.
    cumulated[:, -1:] = sampled.clamp(min=1)
    shares = cumulated.double() * total[:, None] / sampled.clamp(min=1)
    edges = torch.minimum((shares + 0.5).floor().long(), total[:, None])
    return edges.diff(dim=1, prepend=torch.zeros_like(edges[:, :1]))
