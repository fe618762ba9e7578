"""Lists of entries above a cut, found by a 16-bit product and computed in float32.

A float32 product of all features takes a GPU longer than the language model does, and nearly all of
its results are far below every cut. The same product of 16-bit numbers takes much less: float16 on
a GPU, bfloat16 on CPUs that multiply it. With c a centre, s a scale, n the norm of a feature's
encoder column w, and hats for what 16 bits make of x' = (x - c) / s and w' = w / n,

    |x'.w' - x^.w^| <= |x' - x^| + |x^| |w' - w^|            (Cauchy-Schwarz, |w'| = 1)

Both differences are computed, not estimated, so that overflow and underflow are in the bound. The
sum of K products in float32 adds at most K 2^-22 times the sum of their sizes. An entry with
x.w + b > cut therefore has

    x^.w^ - (cut - b - c.w) / (n s) + margin >= 0,    margin = |x' - x^| + |x^| (d + K 2^-22)

d being the largest |w' - w^|. Cut and margin are further columns of the two matrices, the cut as
the sum of two 16-bit numbers rounded down, so that one product makes the whole comparison, and
rounding its result to 16 bits does not change the sign. What passes is computed in float32 and
compared again: the lists are those of `PlainLists`, up to the order of a float32 sum.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.index.half_product import half_product
from sae_core.index.listed_dots import listed_dots, sampled_dots
from sae_core.index.listed_entries import Entries, PlacesAbove, bias_of, block_size
from sae_core.sae import SAE

_BLOCK = 2**29
"""Entries of a product held at once on a GPU."""
_SUM = 2.0**-22
"""Relative error of an addition in a product with float32 sums, with room for truncation."""
_EXTRA = 3
"""Columns besides d_model: the cut's two parts and the margin."""
_LARGEST = {torch.float16: 6e4, torch.bfloat16: 1e30}
"""The largest numbers that are multiplied: near the largest float16, and for bfloat16 what leaves
room for sums."""
_ALIGNED = {"cuda": 128, "cpu": 32}
"""Tokens are filled up to a multiple of this: where the rows of a product's result do not begin at
multiples of 16 bytes, a GPU takes eight times as long. A CPU likes lines of its cache."""


class ScreenedLists:
    """`Lists` for SAEs whose features depend on their own pre-activation alone.

    Keeps a copy of W_enc, scaled in 16 bits. W_enc itself has one row per feature in memory
    meanwhile, so that no second copy is needed; its shape and numbers stay.
    """

    def __init__(
        self,
        sae: SAE,
        sample: Float[Tensor, "tokens d_model"],
        dtype: torch.dtype = torch.float16,
    ) -> None:
        """`sample`: activations from which centre and scale are taken; any are right, and those of
        the site's text make the margin small. `dtype`: what screens, float16 or bfloat16.
        """
        self._eps, self._largest = torch.finfo(dtype).eps, _LARGEST[dtype]
        d_model, d_sae = sae.cfg.d_model, sae.cfg.d_sae
        self._bias = bias_of(sae).float()
        self._sae = sae
        self._rows = sae.W_enc.detach().float().T.contiguous()
        if sae.W_enc.dtype == self._rows.dtype:
            sae.W_enc.data = self._rows.T
        # Of numbers whose squares have a sum.
        usual = sample[sample.abs().amax(dim=1) < 1e15]
        sample = usual if len(usual) else sample.new_zeros((1, d_model))
        self._centre = sample.mean(0)
        spread = (sample - self._centre).norm(dim=1).mean()
        self._scale = max(float(spread), 1e-3 * float(self._centre.norm()), 1e-20) / 16
        width = -(-(d_model + _EXTRA) // 8) * 8
        self._sums = width * _SUM
        self._half = torch.zeros(d_sae, width, dtype=dtype, device=sample.device)
        self._norm = torch.empty_like(self._bias)
        self._shift = torch.empty_like(self._bias, dtype=torch.float64)
        self._rounding = 0.0
        self._d_model = d_model
        for first in range(0, d_sae, 2**14):
            some = slice(first, first + 2**14)
            rows = self._rows[some]
            norm = rows.norm(dim=1).clamp(min=1e-30)
            unit = rows / norm[:, None]
            half = unit.to(dtype)
            self._half[some, :d_model] = half
            self._norm[some] = norm
            self._shift[some] = self._bias[some] + rows.double() @ self._centre.double()
            self._rounding = max(self._rounding, float((unit - half.float()).norm(dim=1).max()))
        self._half[:, d_model + 2] = 1
        # The norm of 1 and the differences are themselves results in float32.
        self._rounding = 1.001 * self._rounding + 1e-6
        self._cut: Tensor | None = None
        self._places = PlacesAbove()
        self._out = self._half.new_empty(0)

    def above(self, x: Float[Tensor, "tokens d_model"], cut: Float[Tensor, " d_sae"]) -> Entries:
        """As `listed_entries.Lists.above`."""
        parts = []
        exact = _fewest_bytes(x) if x.is_cuda else x
        for entries in self._candidates(x, cut):
            value = self.values(exact, entries.feature, entries.token)
            found = Entries(entries.feature, entries.token, value)
            parts.append(found[value > cut.index_select(0, entries.feature)])
        return Entries.cat(parts)

    def values(
        self,
        x: Float[Tensor, "tokens d_model"],
        feature: Int[Tensor, " n"],
        token: Int[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """float32 pre-activations of these entries, sorted by feature, then token: those that
        `above` has, which do not depend on what else is in a batch.
        """
        dots = listed_dots if x.is_cuda else sampled_dots
        return dots(x, self._rows, self._bias, feature, token)

    def release(self) -> None:
        """Put W_enc in memory as it was; the lists are of no use any more."""
        self._half = self._half[:0].clone()  # its memory first
        self._sae.W_enc.data = self._sae.W_enc.data.contiguous()

    def _candidates(self, x: Tensor, cut: Tensor) -> "list[Entries]":
        """Entries that may be above the cut, without values, a block of features at a time."""
        self._set(cut)
        tokens = self._scaled(x)
        most = _BLOCK if x.is_cuda else block_size(x.device)
        step = max(1, most // max(len(x), 1))
        found = []
        for first in range(0, len(self._half), step):
            some = self._half[first : first + step]
            if x.is_cuda:
                feature, token = (half_product(some, tokens) >= 0).nonzero().unbind(1)
            else:
                feature, token = self._not_negative(some, tokens, len(x))
            found.append(Entries(feature + first, token, token))
        # A CPU computes all of them at once in less time, a GPU in less memory a block at a time.
        return found if x.is_cuda else [Entries.cat(found)]

    def _not_negative(self, some: Tensor, tokens: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Where the product is not negative, of the first `n` tokens, on a CPU: as integers of the
        same bits, of half the bytes that float32 has.
        """
        size = len(some) * len(tokens)
        if len(self._out) < size:
            self._out = self._half.new_empty(size)
        out = self._out[:size].view(len(some), len(tokens))
        bits = half_product(some, tokens, out).view(torch.int16)[:, :n]
        place = self._places.of(bits, bits.new_full((len(some),), -1))
        feature = place // n
        return feature, place - feature * n

    def _scaled(self, x: Tensor) -> Tensor:
        """`x` in 16 bits, with the columns that meet the cut's and the margin's, and rows that fill
        it up.
        """
        d = self._d_model
        scaled = (x - self._centre) / self._scale
        half = scaled.clamp(-self._largest, self._largest).to(self._half.dtype)
        lost = (scaled - half.float()).norm(dim=1)
        size = half.float().norm(dim=1)
        margin = 1.001 * lost + size * (self._rounding + self._sums) + 1e-6 * (1 + size)
        n = len(x)
        aligned = _ALIGNED[x.device.type]
        tokens = self._half.new_zeros((-(-n // aligned) * aligned, self._half.shape[1]))
        tokens[:n, :d] = half
        tokens[:n, d : d + 2] = 1
        # Up to the next number; beyond the largest, every entry of the token passes.
        tokens[:n, d + 2] = (margin * (1 + 2 * self._eps)).to(half.dtype)
        # Nothing of what fills up the last rows passes.
        tokens[n:, d + 2] = -1
        return tokens

    def _set(self, cut: Tensor) -> None:
        """Write the cut into its two columns."""
        if self._cut is not None and torch.equal(self._cut, cut):
            return
        self._cut = cut.clone()
        # A lower cut lets more pass, so what 16 bits do not reach becomes their largest number, and
        # what is below all of them passes always.
        low = ((cut.double() - self._shift) / self._norm / self._scale).clamp(max=self._largest)
        low = low - low.abs() * (self._sums + 2**-18) - 1e-6
        high = low.to(self._half.dtype)
        rest = torch.where(high.isinf(), 0, low - high.double())
        self._half[:, self._d_model] = -high
        self._half[:, self._d_model + 1] = -(rest - rest.abs() * self._eps - 2**-24)


def _fewest_bytes(x: Tensor) -> Tensor:
    """`x` in bfloat16 where that is exact, as it is of what a model gives in bfloat16."""
    narrow = x.bfloat16()
    return narrow if torch.equal(narrow.float(), x) else x
