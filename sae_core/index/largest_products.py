"""The largest products of some vectors with many rows: nearest decoder rows, raised tokens.

Everywhere but on a GPU the products are float32. On a GPU those would take most of the time that an
index is written in, so products in float16 find 64 candidates for each vector, whose products are
then computed in float32. With hats for what float16 makes of vector and row, scaled to sizes of at
most 1,

    |a.b - a^.b^| <= |a - a^| |b| + |a^| |b - b^| + K 2^-22 |a^| |b^| + 2^-11 |a^.b^|

(the sum of K products, and the result's own rounding). Where the k-th largest of the candidates
does not exceed what any other row may have by this bound, the vector's products are all computed in
float32: what is returned is always the k largest of those.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.index.half_product import half_product
from sae_core.index.listed_dots import listed_dots

_CANDIDATES = 64
_AT_ONCE = 2**15
"""Rows taken to float32 together."""


class ProductRows:
    """Rows whose largest products with vectors are wanted."""

    def __init__(
        self,
        rows: Float[Tensor, "n width"],
        left_out: Int[Tensor, " m"] | None = None,
        *,
        normed: bool = False,
        screened: bool | None = None,
    ) -> None:
        """`left_out`: rows that are never among the largest; `normed`: the rows are scaled to
        length 1 (zeros stay zeros); `screened` is whether float16 is tried first, None where it is
        faster.
        """
        self._rows, self._left_out = rows, left_out
        norms = torch.cat([some.float().norm(dim=1) for some in rows.split(_AT_ONCE)])
        self._factor = 1 / norms.clamp(min=1e-12) if normed else torch.ones_like(norms)
        self._half: Tensor | None = None
        if rows.is_cuda if screened is None else screened:
            self._screen(float((norms * self._factor).max()))

    def _screen(self, largest: float) -> None:
        self._scale = max(largest, 1e-30)
        self._half = torch.empty_like(self._rows, dtype=torch.float16)
        self._lost = 0.0
        for first in range(0, len(self._rows), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            exact = self._rows[some].float() * (self._factor[some, None] / self._scale)
            self._half[some] = exact.half()
            lost = (exact - self._half[some].float()).norm(dim=1).max()
            self._lost = max(self._lost, float(lost))
        self._lost = 1.001 * self._lost + 1e-6

    def largest(
        self,
        vectors: Float[Tensor, "some width"],
        k: int,
        besides: Int[Tensor, " some"] | None = None,
    ) -> tuple[Int[Tensor, "some k"], Float[Tensor, "some k"]]:
        """Numbers and products of the `k` rows of largest product with each vector of length about
        1, largest first; `besides` is a row of each vector that is not asked for.
        """
        if self._half is None or k + 1 > _CANDIDATES or len(self._rows) <= 2 * _CANDIDATES:
            return self._plain(vectors, k, besides)
        size = vectors.norm(dim=1, keepdim=True).clamp(min=1e-30)
        exact = vectors / size
        half = exact.half()
        product = self._without(half_product(half, self._half), besides)
        rough, place = product.topk(_CANDIDATES, dim=1)
        owner = torch.arange(len(vectors), device=place.device).repeat_interleave(_CANDIDATES)
        flat = place.view(-1)
        none = torch.zeros_like(self._factor)
        value = listed_dots(vectors.contiguous(), self._rows, none, flat, owner)
        value = (value * self._factor[flat]).view_as(place)
        value = value.masked_fill(rough == -torch.inf, -torch.inf)
        top = value.topk(k, dim=1)
        lost = (exact - half.float()).norm(dim=1) + 1e-6
        sums = vectors.shape[1] * 2.0**-22
        bound = lost + 1.001 * (self._lost + sums)
        last = rough[:, -1].float()
        others = last + bound + 2.0**-10 * (last.abs() + bound)
        proven = top.values[:, -1] > others * self._scale * size[:, 0]
        index, values = place.gather(1, top.indices), top.values
        open_ = (~proven).nonzero()[:, 0]
        if len(open_):
            own = None if besides is None else besides[open_]
            index[open_], values[open_] = self._plain(vectors[open_], k, own)
        return index, values

    def _plain(self, vectors: Tensor, k: int, besides: Tensor | None) -> tuple[Tensor, Tensor]:
        product = vectors.new_empty(len(vectors), len(self._rows))
        for first in range(0, len(self._rows), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            # Scaled here, what is multiplied once more is still in the cache.
            product[:, some] = (vectors @ self._rows[some].float().T).mul_(self._factor[some])
        product = self._without(product, besides)
        top = product.topk(k, dim=1)
        return top.indices, top.values

    def _without(self, product: Tensor, besides: Tensor | None) -> Tensor:
        if self._left_out is not None:
            product[:, self._left_out] = -torch.inf
        if besides is not None:
            product[torch.arange(len(product), device=product.device), besides] = -torch.inf
        return product
