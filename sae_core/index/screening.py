"""Lists of entries above a cut, found by a float16 product and computed in float32.

A float32 product of all features takes a GPU longer than the language model does, and nearly all of
its results are far below every cut. With c a centre, s a scale, n the norm of a feature's encoder
column w, and hats for what float16 makes of x' = (x - c) / s and w' = w / n,

    |x'.w' - x^.w^| <= |x' - x^| + |x^| |w' - w^|            (Cauchy-Schwarz, |w'| = 1)

Both differences are computed, not estimated, so that overflow and underflow are in the bound. The
sum of K products in float32 adds at most K 2^-22 times the sum of their sizes. An entry with
x.w + b > cut therefore has

    x^.w^ - (cut - b - c.w) / (n s) + margin >= 0,    margin = |x' - x^| + |x^| (d + K 2^-22)

d being the largest |w' - w^|. Cut and margin are further columns of the two matrices, the cut as
the sum of two float16 numbers rounded down, so that one product makes the whole comparison, and
rounding its result to float16 does not change the sign. What passes is computed in float32 and
compared again: the lists are those of `PlainLists`, up to the order of a float32 sum.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.index.half_product import half_product
from sae_core.index.listed_dots import listed_dots
from sae_core.index.listed_entries import Entries, bias_of
from sae_core.sae import SAE

_BLOCK = 2**29
"""Entries of a product held at once."""
_SUM = 2.0**-22
"""Relative error of an addition in a product with float32 sums, with room for truncation."""
_EXTRA = 3
"""Columns besides d_model: the cut's two parts and the margin."""
_LARGEST = 6e4
"""Near the largest float16."""
_ALIGNED = 128
"""Tokens are filled up to a multiple of this: where the rows of a product's result do not begin at
multiples of 16 bytes, it takes eight times as long."""


class ScreenedLists:
    """`Lists` for SAEs whose features depend on their own pre-activation alone.

    Keeps a copy of W_enc, scaled in float16. W_enc itself has one row per feature in memory
    meanwhile, so that no second copy is needed; its shape and numbers stay.
    """

    def __init__(self, sae: SAE, sample: Float[Tensor, "tokens d_model"]) -> None:
        """`sample`: activations from which centre and scale are taken; any are right, and those of
        the site's text make the margin small.
        """
        d_model, d_sae = sae.cfg.d_model, sae.cfg.d_sae
        self._bias = bias_of(sae).float()
        self._sae = sae
        self._rows = sae.W_enc.detach().float().T.contiguous()
        if sae.W_enc.dtype == self._rows.dtype:
            sae.W_enc.data = self._rows.T
        self._centre = sample.mean(0)
        spread = (sample - self._centre).norm(dim=1).mean()
        self._scale = max(float(spread), 1e-3 * float(self._centre.norm()), 1e-20) / 16
        width = -(-(d_model + _EXTRA) // 8) * 8
        self._sums = width * _SUM
        self._half = torch.zeros(d_sae, width, dtype=torch.float16, device=sample.device)
        self._norm = torch.empty_like(self._bias)
        self._shift = torch.empty_like(self._bias, dtype=torch.float64)
        self._rounding = 0.0
        self._d_model = d_model
        for first in range(0, d_sae, 2**14):
            some = slice(first, first + 2**14)
            rows = self._rows[some]
            norm = rows.norm(dim=1).clamp(min=1e-30)
            unit = rows / norm[:, None]
            half = unit.half()
            self._half[some, :d_model] = half
            self._norm[some] = norm
            self._shift[some] = self._bias[some] + rows.double() @ self._centre.double()
            self._rounding = max(self._rounding, float((unit - half.float()).norm(dim=1).max()))
        self._half[:, d_model + 2] = 1
        # The norm of 1 and the differences are themselves results in float32.
        self._rounding = 1.001 * self._rounding + 1e-6
        self._cut: Tensor | None = None

    def above(self, x: Float[Tensor, "tokens d_model"], cut: Float[Tensor, " d_sae"]) -> Entries:
        """As `listed_entries.Lists.above`."""
        parts = []
        exact = _fewest_bytes(x)
        for entries in self._candidates(x, cut):
            value = listed_dots(exact, self._rows, self._bias, entries.feature, entries.token)
            keep = value > cut[entries.feature]
            parts.append(Entries(entries.feature[keep], entries.token[keep], value[keep]))
        return Entries.cat(parts)

    def release(self) -> None:
        """Put W_enc in memory as it was; the lists are of no use any more."""
        self._half = self._half[:0].clone()  # its memory first
        self._sae.W_enc.data = self._sae.W_enc.data.contiguous()

    def _candidates(self, x: Tensor, cut: Tensor) -> "list[Entries]":
        """Entries that may be above the cut, without values, a block of features at a time."""
        self._set(cut)
        tokens = self._scaled(x)
        step = max(1, _BLOCK // max(len(x), 1))
        found = []
        for first in range(0, len(self._half), step):
            product = half_product(self._half[first : first + step], tokens)
            feature, token = (product >= 0).nonzero().unbind(1)
            found.append(Entries(feature + first, token, token))
        return found

    def _scaled(self, x: Tensor) -> Tensor:
        """`x` in float16, with the columns that meet the cut's and the margin's, and rows that fill
        it up.
        """
        d = self._d_model
        scaled = (x - self._centre) / self._scale
        half = scaled.clamp(-_LARGEST, _LARGEST).half()
        lost = (scaled - half.float()).norm(dim=1)
        size = half.float().norm(dim=1)
        margin = 1.001 * lost + size * (self._rounding + self._sums) + 1e-6 * (1 + size)
        n = len(x)
        shape = (-(-n // _ALIGNED) * _ALIGNED, self._half.shape[1])
        tokens = torch.zeros(shape, dtype=torch.float16, device=x.device)
        tokens[:n, :d] = half
        tokens[:n, d : d + 2] = 1
        # Up to the next float16; beyond the largest, every entry of the token passes.
        tokens[:n, d + 2] = (margin * (1 + 2**-9)).half()
        # Nothing of what fills up the last rows passes.
        tokens[n:, d + 2] = -1
        return tokens

    def _set(self, cut: Tensor) -> None:
        """Write the cut into its two columns."""
        if self._cut is not None and torch.equal(self._cut, cut):
            return
        self._cut = cut.clone()
        low = (cut.double() - self._shift) / self._norm / self._scale
        low = low - low.abs() * (self._sums + 2**-18) - 1e-6
        # A lower cut lets more pass, so what float16 does not reach becomes its largest number, and
        # what is below all of it passes always.
        low = low.clamp(max=_LARGEST)
        high = low.half()
        rest = torch.where(high.isinf(), 0, low - high.double())
        self._half[:, self._d_model] = -high
        self._half[:, self._d_model + 1] = -(rest - rest.abs() * 2**-10 - 2**-24).half()


def _fewest_bytes(x: Tensor) -> Tensor:
    """`x` in bfloat16 where that is exact, as it is of what a model gives in bfloat16."""
    narrow = x.bfloat16()
    return narrow if torch.equal(narrow.float(), x) else x
