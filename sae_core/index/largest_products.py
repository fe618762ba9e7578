"""The largest products of some vectors with many rows: nearest decoder rows, raised tokens.

Everywhere but on a GPU the products are float32. On a GPU those would take most of the time that an
index is written in, so products in float16 find 64 candidates for each vector, whose products are
then computed in float32. With hats for what float16 makes of vector and row, scaled to sizes of at
most 1,

    |a.b - a^.b^| <= |a - a^| |b| + |a^| |b - b^| + K 2^-22 |a^| |b^| + 2^-11 |a^.b^|

(the sum of K products, and the result's own rounding). Where the k-th largest of the candidates
does not exceed what any other row may have by this bound, the vector's products are all computed in
float32: what is returned is always the k largest of those.

Looking for the candidates in all products takes several passes over them, longer than the products
themselves take. So the maxima of groups of 32 are looked at first, in one pass: what is among the
largest is in one of as many groups with the largest maxima.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.index.half_product import half_product
from sae_core.index.listed_dots import listed_dots

_CANDIDATES = 64
_GROUP = 32
"""Products of which the largest one is looked at first."""
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
        if not self._is_screened(k):
            return self._best(self._plain(vectors), k, besides)
        return self._proven(vectors, self._rough(vectors), k, besides)

    def extremes(
        self, vectors: Float[Tensor, "some width"], k: int
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """`largest` of the vectors, and of what they are with the other sign, by one product."""
        screened = self._is_screened(k)
        product = self._rough(vectors) if screened else self._plain(vectors)
        if screened:
            largest = self._proven(vectors, product, k, None)
            return largest, self._proven(-vectors, product.neg_(), k, None)
        return self._best(product, k, None), self._best(product.neg_(), k, None)

    def _is_screened(self, k: int) -> bool:
        return self._half is not None and k < _CANDIDATES and len(self._rows) > 2 * _CANDIDATES

    def _rough(self, vectors: Tensor) -> Tensor:
        """Products in float16 of the vectors scaled to length 1."""
        assert self._half is not None
        return half_product(_unit(vectors)[0].half(), self._half)

    def _proven(
        self, vectors: Tensor, product: Tensor, k: int, besides: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The largest by float32 products, where those in float16 prove which may be."""
        exact, size = _unit(vectors)
        rough, place = _candidates(self._without(product, besides))
        owner = torch.arange(len(vectors), device=place.device).repeat_interleave(_CANDIDATES)
        flat = place.reshape(-1)
        none = torch.zeros_like(self._factor)
        value = listed_dots(vectors.contiguous(), self._rows, none, flat, owner)
        value = (value * self._factor[flat]).view_as(place)
        value = value.masked_fill(rough == -torch.inf, -torch.inf)
        top = value.topk(k, dim=1)
        lost = (exact - exact.half().float()).norm(dim=1) + 1e-6
        sums = vectors.shape[1] * 2.0**-22
        bound = lost + 1.001 * (self._lost + sums)
        last = rough[:, -1].float()
        others = last + bound + 2.0**-10 * (last.abs() + bound)
        proven = top.values[:, -1] > others * self._scale * size[:, 0]
        index, values = place.gather(1, top.indices), top.values
        open_ = (~proven).nonzero()[:, 0]
        if len(open_):
            own = None if besides is None else besides[open_]
            index[open_], values[open_] = self._best(self._plain(vectors[open_]), k, own)
        return index, values

    def _plain(self, vectors: Tensor) -> Tensor:
        """Products in float32."""
        product = vectors.new_empty(len(vectors), len(self._rows))
        for first in range(0, len(self._rows), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            # Scaled here, what is multiplied once more is still in the cache.
            product[:, some] = (vectors @ self._rows[some].float().T).mul_(self._factor[some])
        return product

    def _best(self, product: Tensor, k: int, besides: Tensor | None) -> tuple[Tensor, Tensor]:
        top = self._without(product, besides).topk(k, dim=1)
        return top.indices, top.values

    def _without(self, product: Tensor, besides: Tensor | None) -> Tensor:
        if self._left_out is not None:
            product[:, self._left_out] = -torch.inf
        if besides is not None:
            product[torch.arange(len(product), device=product.device), besides] = -torch.inf
        return product


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors at length 1, and their lengths."""
    size = vectors.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return vectors / size, size


def _candidates(product: Tensor) -> tuple[Tensor, Tensor]:
    """The `_CANDIDATES` largest of each row, largest first, and where they stand."""
    groups = product.shape[1] // _GROUP
    if groups <= 2 * _CANDIDATES:
        return product.topk(_CANDIDATES, dim=1)
    whole = groups * _GROUP
    maxima = product[:, :whole].unflatten(1, (_GROUP, groups)).amax(1)
    chosen = maxima.topk(_CANDIDATES, dim=1, sorted=False).indices
    member = torch.arange(0, whole, groups, device=product.device)
    place = (member[:, None] + chosen[:, None]).flatten(1)
    rest = torch.arange(whole, product.shape[1], device=product.device)
    place = torch.cat([place, rest.expand(len(place), -1)], dim=1)
    top = product.gather(1, place).topk(_CANDIDATES, dim=1)
    return top.values, place.gather(1, top.indices)
