"""A loss's features as lists of the active ones: `SparseFeatures`, which autograd sees through.

The encoder's product is computed in full, to find the active entries. All else - the activations,
the reconstruction, every gradient - is a matter of lists, and of three sums over them
(`training.kernels.plain_lists`): decoder rows by token, and by feature the gradients of both
matrices.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from training.kernels.entries import Lists
from training.kernels.largest import largest, lists_of
from training.losses import Parameters
from training.losses.feature_pairs import Part, Subset
from training.readback import Readback
from training.shard import Shard

_NEVER = 1e30
"""A threshold that no pre-activation exceeds; finite, because it is calculated with."""


class TooManyError(Exception):
    """There are more entries than the lists have room for."""

    def __init__(self, entries: int) -> None:
        super().__init__(f"{entries:,} entries")
        self.entries = entries


class _Values(torch.autograd.Function):
    """Pre-activations of the entries."""

    @staticmethod
    def forward(
        ctx: Any, W_enc: Tensor, bias: Tensor, lists: Lists, centred: Tensor, kernels: ModuleType
    ) -> Tensor:
        ctx.lists, ctx.centred, ctx.kernels = lists, centred, kernels
        return lists.z.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows = ctx.kernels.encoder_gradient(ctx.lists, gradient, ctx.centred)
        return rows.T, ctx.kernels.sums(ctx.lists, gradient), None, None, None


class _Each(torch.autograd.Function):
    """Every entry's number, from its feature's."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, lists: Lists, kernels: ModuleType) -> Tensor:
        ctx.lists, ctx.kernels = lists, kernels
        return vector.index_select(0, lists.owner)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.kernels.sums(ctx.lists, gradient), None, None


class _Decoded(torch.autograd.Function):
    """Sums of decoder rows, and the rows' norms if they are asked for (else there are none)."""

    @staticmethod
    def forward(
        ctx: Any,
        act: Tensor,
        W_dec: Tensor,
        lists: Lists,
        copy: Tensor,
        kernels: ModuleType,
        with_norms: bool,
    ) -> tuple[Tensor, Tensor]:
        act = act.to(copy.dtype)
        norms = W_dec.norm(dim=1) if with_norms else W_dec.new_empty(0)
        ctx.save_for_backward(act, W_dec, norms)
        ctx.lists, ctx.kernels, ctx.products = lists, kernels, copy.dtype
        return kernels.partial_recon(lists.entries(act), copy), norms

    @staticmethod
    def backward(ctx: Any, d_recon: Tensor, d_norms: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        act, W_dec, norms = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            act = None
        along = torch.where(norms > 0, d_norms / norms, 0.0) if len(norms) else None
        rows = d_recon.to(ctx.products).contiguous()
        d_act, d_W = ctx.kernels.decoder_gradients(ctx.lists, act, rows, W_dec, along)
        return d_act, d_W, None, None, None, None


class SparseSubset:
    """As `Subset`; whether there is any is asked for at once, and waited for when it matters."""

    def __init__(self, mask: Bool[Tensor, " d_sae"], shard: Shard) -> None:
        self.mask = mask
        self._size = Readback(mask.device)
        self._size.ask(shard.sum(mask.sum(dtype=torch.int32))[None])

    def surely_empty(self) -> bool:
        """Whether no feature is in it."""
        return self._size.answer() == 0


class SparseFeatures:
    """As `Features`, in lists with room for a fixed number of entries."""

    def __init__(
        self,
        parameters: Parameters,
        centred: Float[Tensor, "batch d_model"],
        kernels: ModuleType,
        room: int,
        shard: Shard,
        at_once: bool = False,
    ) -> None:
        """`parameters`: W_enc held in `feature_rows`; `centred`: activations less b_dec, in the
        dtype of the products; `at_once`: whether to wait for the number of entries before
        anything is done with them, so that little is lost if they are too many.
        """
        self._parameters = parameters
        self._centred = centred
        self._kernels = kernels
        self._room = room
        self._shard = shard
        self._at_once = at_once
        self._counts: list[Readback] = []
        self._entries = 0
        self._projected: Tensor | None = None
        W_dec = parameters["W_dec"].detach()
        self._copy = W_dec.to(centred.dtype)

    def subset(self, mask: Bool[Tensor, " d_sae"]) -> Subset:
        """As `Features.subset`."""
        return SparseSubset(mask, self._shard)

    def above(self, bias: Float[Tensor, " d_sae"]) -> Part:
        """As `Features.above`."""
        with torch.no_grad():
            lists = self._kernels.above(self._product(), bias, torch.zeros_like(bias), self._room)
            self._count(lists.column_start[-1:])
        return self._part(bias, lists)

    def largest(self, bias: Float[Tensor, " d_sae"], k: int, among: Subset | None = None) -> Part:
        """As `Features.largest`. Of a subset, all that is above 0 is listed: where that is more
        than k for some token, there are too many.
        """
        with torch.no_grad():
            lists = self._top(bias, k) if among is None else self._among(bias, k, among.mask)
        return self._part(bias, lists)

    def _top(self, bias: Tensor, k: int) -> Lists:
        mine = min(k, len(bias))
        number = mine * len(self._centred)
        if number > self._room:
            raise TooManyError(number)
        self._entries += number
        features, values = largest(self._product(), bias, mine, self._kernels.group_maxima)
        if not self._shard.alone:
            # No process has more than k of the k largest; what is none of them is as if at 0.
            every = self._shard.gather(values, dim=1)
            chosen = torch.zeros_like(every).scatter(1, every.topk(k, dim=1).indices, 1.0)
            values = torch.where(self._shard.mine(chosen, 1) > 0, values, 0.0)
        return lists_of(features, values, len(bias))

    def _among(self, bias: Tensor, k: int, mask: Tensor) -> Lists:
        threshold = torch.where(mask, 0.0, _NEVER)
        lists = self._kernels.above(self._product(), bias, threshold, self._room)
        number = lists.column_start[-1:]
        more = (self._shard.sum(lists.row_start.diff()) > k).any()
        self._count(torch.where(more, number.clamp(min=self._room + 1), number))
        return lists

    def check(self) -> int:
        """The number of entries; raises TooManyError if there is no room for them."""
        for count in self._counts:
            number = count.answer()
            if number > self._room:
                raise TooManyError(number)
            self._entries += number
        self._counts.clear()
        return self._entries

    def forget(self) -> None:
        """Let go of the encoder's product: no further part will be asked for."""
        self._projected = None

    def _product(self) -> Float[Tensor, "batch d_sae"]:
        if self._projected is None:
            W_enc = self._parameters["W_enc"].detach()
            self._projected = self._centred @ W_enc.to(self._centred.dtype)
        return self._projected

    def _count(self, number: Tensor) -> None:
        self._counts.append(Readback(number.device))
        self._counts[-1].ask(self._shard.gather(number).amax(dim=0, keepdim=True))
        if self._at_once:
            self.check()

    def _part(self, bias: Tensor, lists: Lists) -> Part:
        values = _Values.apply(self._parameters["W_enc"], bias, lists, self._centred, self._kernels)
        return SparsePart(values, lists, self._copy, self._kernels, self._shard)  # pyright: ignore[reportArgumentType]


class SparsePart:
    """As `Part`, numbers in the order of the list by feature."""

    def __init__(
        self, values: Tensor, lists: Lists, copy: Tensor, kernels: ModuleType, shard: Shard
    ) -> None:
        """`copy`: of W_dec, in the dtype of the products."""
        self.values = values
        self._lists = lists
        self._copy = copy
        self._kernels = kernels
        self._shard = shard

    def each(self, vector: Float[Tensor, " d_sae"]) -> Tensor:
        """As `Part.each`."""
        return _Each.apply(vector, self._lists, self._kernels)  # pyright: ignore[reportReturnType]

    def by_feature(self, values: Tensor) -> Float[Tensor, " d_sae"]:
        """As `Part.by_feature`."""
        return self._kernels.sums(self._lists, values)

    def decode(
        self, acts: Tensor, W_dec: Float[Tensor, "d_sae d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        """As `Part.decode`."""
        return self._decoded(acts, W_dec, with_norms=False)[0]

    def decode_and_norms(
        self, acts: Tensor, W_dec: Float[Tensor, "d_sae d_model"]
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " d_sae"]]:
        """As `Part.decode_and_norms`."""
        return self._decoded(acts, W_dec, with_norms=True)

    def _decoded(self, acts: Tensor, W_dec: Tensor, *, with_norms: bool) -> tuple[Tensor, Tensor]:
        decoded: Callable[..., Any] = _Decoded.apply
        recon, norms = decoded(acts, W_dec, self._lists, self._copy, self._kernels, with_norms)
        return self._shard.sum(recon), norms
