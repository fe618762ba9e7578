"""The features of an SAE, shared out between processes: `Shard`.

Each process holds d_sae / world neighbouring features of every SAE: those columns of W_enc, rows of
W_dec, entries of biases and thresholds, with their moments and statistics. b_dec and all scalars
are held by every process, equal to the bit. Every process sees the same tokens, so that a sum over
features is what the processes have to tell each other: the reconstruction (in float32, whatever the
dtype of the products), L0, penalties, and the encoder's part of b_dec's gradient.

A shard of a process that is alone leaves everything as it is.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import _functional_collectives as collectives

WHOLE = ("b_dec", "multiplier", "scalars", "paused")
"""Tensors of an SAE in training that every process holds whole."""


def features_dim(name: str) -> int | None:
    """The dimension of a tensor along which it has a feature each, by the last part of its name,
    after a dot; None for those that every process holds whole (`mean.SITE` in a checkpoint too).
    """
    first, last = name.split(".")[0], name.split(".")[-1]
    if first == "mean" or last in WHOLE:
        return None
    return 1 if last == "W_enc" else 0


class _Sum(torch.autograd.Function):
    """The sum over processes. Backward, a process takes the gradient of the sum for that of its own
    part: each computes the whole loss, and is asked about its own features alone.
    """

    @staticmethod
    def forward(_ctx: Any, tensor: Tensor) -> Tensor:
        # Not `dist.all_reduce`: torch.compile can see through this one, and sums are new tensors.
        group = dist.group.WORLD
        assert group is not None
        return collectives.wait_tensor(collectives.all_reduce(tensor, "sum", group))

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient


@dataclass(frozen=True)
class Shard:
    """One process's share of the features; its methods must be called by all processes together."""

    rank: int = 0
    world: int = 1
    """Number of processes."""

    @property
    def alone(self) -> bool:
        """Whether there is one process only."""
        return self.world == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and writes for all."""
        return self.rank == 0

    def features(self, d_sae: int) -> slice:
        """Which of `d_sae` features are this process's."""
        size = d_sae // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, equal to the bit on all of them; see `_Sum` for its gradient."""
        return tensor if self.alone else _Sum.apply(tensor)  # pyright: ignore[reportReturnType]

    def sum_(self, tensor: Tensor) -> Tensor:
        """As `sum`, in place and without gradient."""
        if not self.alone:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """The processes' tensors of one shape, one after another along `dim`; without gradient."""
        if self.alone:
            return tensor
        part = tensor.detach().contiguous()
        parts = [torch.empty_like(part) for _ in range(self.world)]
        dist.all_gather(parts, part)
        return torch.cat(parts, dim=dim)

    def collect(self, tensor: Tensor, dim: int) -> Tensor:
        """As `gather`, for the first process alone; the others get their own part back."""
        if self.alone:
            return tensor
        part = tensor.detach().contiguous()
        parts = [torch.empty_like(part) for _ in range(self.world)] if self.first else None
        dist.gather(part, parts)
        return part if parts is None else torch.cat(parts, dim=dim)

    def mine(self, tensor: Tensor, dim: int | None) -> Tensor:
        """This process's part of a whole tensor along `dim`; of none, the tensor itself."""
        if self.alone or dim is None:
            return tensor
        mine = self.features(tensor.shape[dim])
        part = tensor.narrow(dim, mine.start, mine.stop - mine.start)
        return part.clone(memory_format=torch.contiguous_format)

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds on some process."""
        if self.alone:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def check_same(self, name: str, tensor: Tensor) -> None:
        """ValueError unless the float32 `tensor` has the same bits on all processes."""
        if self.alone:
            return
        # As integers: a number that is none equals nothing.
        low = tensor.detach().clone().view(torch.int32)
        high = low.clone()
        dist.all_reduce(low, dist.ReduceOp.MIN)
        dist.all_reduce(high, dist.ReduceOp.MAX)
        if not torch.equal(low, high):
            raise ValueError(
                f"{name} is no longer the same on all {self.world} processes, so that what they "
                "learn does not fit together: run them on devices of one kind."
            )

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.any(False)


ALONE = Shard()
"""Of a run in one process."""
