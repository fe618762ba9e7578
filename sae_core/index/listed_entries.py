"""Lists of the entries (feature, token) of pre-activations that are above a cut: no more is needed
of most of them.

    entries = {(f, t): pre_acts[t, f] > cut[f]},   sorted by feature, then token

`PlainLists` computes every pre-activation in float32, a few features at a time, so that memory
stays bounded at any width. `sae_core.index.screening.ScreenedLists` makes the same lists where a
product of 16-bit numbers, by which it finds the entries that may belong to them, is much faster.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.sae import SAE, GatedSAE

_CPU_BLOCK, _GPU_BLOCK = 2**21, 2**27
"""Pre-activations computed at once: what a CPU's cache holds, what a GPU needs to be busy."""

_CPU_LINE = 16
"""float32 numbers in a line of a CPU's cache, or in several."""


@dataclass(frozen=True)
class Entries:
    """Columns of equal length n."""

    feature: Int[Tensor, " n"]
    token: Int[Tensor, " n"]
    value: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.feature)

    def __getitem__(self, chosen: Tensor) -> "Entries":
        if chosen.dtype == torch.bool:
            chosen = places_of(chosen)
        columns = (self.feature, self.token, self.value)
        return Entries(*(column.index_select(0, chosen) for column in columns))

    def of_features(self, some: slice) -> "Entries":
        """Those of a range of features, of entries sorted by feature."""
        ends = self.feature.new_tensor((some.start, some.stop))
        first, last = torch.searchsorted(self.feature, ends).tolist()
        return Entries(self.feature[first:last], self.token[first:last], self.value[first:last])

    @classmethod
    def cat(cls, parts: "list[Entries]") -> "Entries":
        """All parts, in order."""
        columns = zip(*((p.feature, p.token, p.value) for p in parts), strict=True)
        return cls(*map(torch.cat, columns))


class Lists(Protocol):
    """What lists entries above a cut."""

    def above(self, x: Float[Tensor, "tokens d_model"], cut: Float[Tensor, " d_sae"]) -> Entries:
        """The entries of float32 `x` whose pre-activation exceeds `cut`, with its float32 value."""
        ...


def block_size(device: torch.device) -> int:
    """Pre-activations that are worth computing at once on a device."""
    return _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK


def bias_of(sae: SAE) -> Float[Tensor, " d_sae"]:
    """What is added to `x @ W_enc`."""
    return (sae.b_gate if isinstance(sae, GatedSAE) else sae.b_enc).detach()


def feature_blocks(
    sae: SAE, x: Float[Tensor, "tokens d_model"]
) -> Iterator[tuple[slice, Float[Tensor, "some tokens"]]]:
    """Pre-activations `[features, tokens]` in float32, a block of features after another. A block
    may be written to, and is good until the next one is asked for; its rows may have gaps between
    them.
    """
    W_enc, bias = sae.W_enc.detach(), bias_of(sae)
    step = min(max(1, block_size(x.device) // max(len(x), 1)), sae.cfg.d_sae)
    # One piece of memory for all: a CPU takes as long to get a new one as to read it. Where rows do
    # not begin at lines of its cache, the product takes up to half as long again.
    width = len(x) if x.is_cuda else -(-len(x) // _CPU_LINE) * _CPU_LINE
    out = x.new_empty((step, width))[:, : len(x)]
    for first in range(0, sae.cfg.d_sae, step):
        some = slice(first, min(first + step, sae.cfg.d_sae))
        block = out[: some.stop - first]
        yield some, torch.addmm(bias[some, None], W_enc[:, some].T, x.T, out=block)


def places_of(mask: Bool[Tensor, "..."]) -> Int[Tensor, " n"]:
    """Where `mask`, its rows one after another, is True."""
    if mask.device.type == "cpu":
        # A third of the time that PyTorch takes where few are.
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.reshape(-1).nonzero()[:, 0]


class PlacesAbove:
    """Where a matrix, its rows one after another, exceeds a cut of each row: of one matrix after
    another, in one piece of memory on a CPU, where NumPy also compares in half of PyTorch's time.
    """

    def __init__(self) -> None:
        self._mask = np.empty(0, bool)

    def of(
        self, values: Float[Tensor, "rows columns"], cut: Float[Tensor, " rows"]
    ) -> Int[Tensor, " n"]:
        """The places, rising."""
        if values.device.type != "cpu":
            return places_of(values > cut[:, None])
        if self._mask.size < values.numel():
            self._mask = np.empty(values.numel(), bool)
        mask = self._mask[: values.numel()].reshape(values.shape)
        np.greater(values.numpy(), cut.numpy()[:, None], out=mask)
        return torch.from_numpy(np.flatnonzero(mask))


class PlainLists:
    """Lists from a float32 product, for every device."""

    def __init__(self, sae: SAE) -> None:
        self._sae, self._places = sae, PlacesAbove()

    def above(self, x: Float[Tensor, "tokens d_model"], cut: Float[Tensor, " d_sae"]) -> Entries:
        """As `Lists.above`."""
        parts = []
        for some, pre in feature_blocks(self._sae, x):
            flat = self._places.of(pre, cut[some])
            feature = flat // len(x)
            token = flat - feature * len(x)
            parts.append(Entries(feature + some.start, token, pre[feature, token]))
        return Entries.cat(parts)
