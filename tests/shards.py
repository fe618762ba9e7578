"""Shards whose processes are threads of one: for tests of a step in parts, without processes."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from training.shard import Shard


class Meeting:
    """Where threads leave what they have, and get what all have left."""

    def __init__(self, world: int) -> None:
        self._barrier = threading.Barrier(world, timeout=20)
        self._left: dict[int, Any] = {}

    def all(self, rank: int, mine: Any) -> list[Any]:
        self._left[rank] = mine
        self._barrier.wait()
        result = [self._left[r] for r in range(self._barrier.parties)]
        self._barrier.wait()
        return result

    def abort(self) -> None:
        self._barrier.abort()


class _Total(torch.autograd.Function):
    """The sum, whose gradient is taken for a part's, as in `training.shard`."""

    @staticmethod
    def forward(_ctx: Any, _part: Tensor, total: Tensor) -> Tensor:
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient, None


@dataclass(frozen=True)
class ThreadShard(Shard):
    """A `Shard` that meets the others' threads."""

    meeting: Meeting = field(kw_only=True)

    def sum(self, tensor: Tensor) -> Tensor:
        total = torch.stack(self.meeting.all(self.rank, tensor.detach().clone())).sum(dim=0)
        # As all-reduced integers stay what they are.
        return _Total.apply(tensor, total.to(tensor.dtype))  # pyright: ignore[reportReturnType]

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(self.sum(tensor))

    def gather(self, tensor: Tensor, dim: int = 0) -> Tensor:
        return torch.cat(self.meeting.all(self.rank, tensor.detach().clone()), dim=dim)


def in_threads(world: int, work: Callable[[Shard], Any]) -> list[Any]:
    """What `work` returns in each of `world` threads; raises what one of them raised."""
    meeting = Meeting(world)
    results: list[Any] = [None] * world
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadShard(rank, world, meeting=meeting))
        except BaseException as error:
            errors.append(error)
            meeting.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
