"""Where a loss looks at features: at every pair of token and feature, or at a list of them.

A loss that is written over `Features` says which pairs it concerns (`above`, `largest`) and what
their pre-activations cost. Whether these are matrices (`Every`) or lists of what is active
(`training.sparse_features`) is not its business: the loss is the same, and so are its gradients.
Where a pair is not listed, the loss must have neither a part nor a gradient.
"""

from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from training.shard import Shard


class Subset(Protocol):
    """Some of the features."""

    mask: Bool[Tensor, " d_sae"]

    def surely_empty(self) -> bool:
        """Whether it is known to have no feature, on any process."""
        ...


class Part(Protocol):
    """Pairs of token and feature; their values are a matrix [batch, d_sae] or a list of any order.

    Values of pairs that were not asked for are 0 or below.
    """

    values: Tensor
    """Pre-activations, with their bias."""

    def each(self, vector: Float[Tensor, " d_sae"]) -> Tensor:
        """A number of every feature, so that it can be calculated with `values`."""
        ...

    def by_feature(self, values: Tensor) -> Float[Tensor, " d_sae"]:
        """Sums over tokens; without gradient."""
        ...

    def decode(
        self, acts: Tensor, W_dec: Float[Tensor, "d_sae d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        """Sums of decoder rows, `acts` times each, over the features of all processes."""
        ...

    def decode_and_norms(
        self, acts: Tensor, W_dec: Float[Tensor, "d_sae d_model"]
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " d_sae"]]:
        """`decode`, and the rows' norms."""
        ...


class Features(Protocol):
    """An encoder's features on a batch."""

    def subset(self, mask: Bool[Tensor, " d_sae"]) -> Subset:
        """The features where `mask` holds, for `largest`; to be asked for as early as may be."""
        ...

    def above(self, bias: Float[Tensor, " d_sae"]) -> Part:
        """The pairs whose pre-activation, `bias` included, is above 0."""
        ...

    def largest(self, bias: Float[Tensor, " d_sae"], k: int, among: Subset | None = None) -> Part:
        """The k largest pre-activations of each token, of the features of all processes (or of
        those in `among`), as far as they are above 0.
        """
        ...


class EveryPart:
    """As `Part`, as matrices."""

    def __init__(
        self, values: Float[Tensor, "batch d_sae"], products: torch.dtype, shard: Shard
    ) -> None:
        self.values = values
        self._products = products
        self._shard = shard

    def each(self, vector: Float[Tensor, " d_sae"]) -> Tensor:
        """As `Part.each`."""
        return vector

    def by_feature(self, values: Tensor) -> Float[Tensor, " d_sae"]:
        """As `Part.by_feature`."""
        return values.sum(dim=0)

    def decode(
        self, acts: Tensor, W_dec: Float[Tensor, "d_sae d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        """As `Part.decode`."""
        return self._shard.sum((acts.to(self._products) @ W_dec.to(self._products)).float())

    def decode_and_norms(
        self, acts: Tensor, W_dec: Float[Tensor, "d_sae d_model"]
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " d_sae"]]:
        """As `Part.decode_and_norms`."""
        return self.decode(acts, W_dec), W_dec.norm(dim=1)


class EverySubset:
    """As `Subset`, looked at on the device alone."""

    def __init__(self, mask: Bool[Tensor, " d_sae"]) -> None:
        self.mask = mask

    def surely_empty(self) -> bool:
        """False: nothing waits for the device."""
        return False


class Every:
    """As `Features`, every pair in matrices."""

    def __init__(
        self, projected: Float[Tensor, "batch d_sae"], products: torch.dtype, shard: Shard
    ) -> None:
        """`projected`: pre-activations without a bias; `products`: dtype of the matrix
        products.
        """
        self._projected = projected
        self._products = products
        self._shard = shard

    def subset(self, mask: Bool[Tensor, " d_sae"]) -> Subset:
        """As `Features.subset`."""
        return EverySubset(mask)

    def above(self, bias: Float[Tensor, " d_sae"]) -> Part:
        """As `Features.above`; pairs at 0 and below keep their pre-activations."""
        return self._part(self._projected + bias)

    def largest(self, bias: Float[Tensor, " d_sae"], k: int, among: Subset | None = None) -> Part:
        """As `Features.largest`; all other pairs are 0."""
        positive = (self._projected + bias).relu()
        if among is not None:
            # Fixed in size whatever the number of features: zeros change nothing.
            positive = torch.where(among.mask, positive, 0.0)
        top = positive.topk(min(k, positive.shape[1]), dim=-1, sorted=False)
        values = top.values
        if not self._shard.alone:
            # No process has more than k of the k largest.
            every = self._shard.gather(values, dim=1)
            chosen = torch.zeros_like(every).scatter(-1, every.topk(k, dim=-1).indices, 1.0)
            values = values * self._shard.mine(chosen, 1)
        return self._part(torch.zeros_like(positive).scatter(-1, top.indices, values))

    def _part(self, values: Tensor) -> Part:
        return EveryPart(values, self._products, self._shard)
