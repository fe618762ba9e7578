"""The processes of a run that builds indexes together: each runs some batches through the model.

Every process reads the whole corpus, so that all agree on what has been read and when a checkpoint
is due. Of every `world` batches each runs its own one through the model and counts what fires.
At checkpoints and at the end the first process takes over what the others have counted, and writes.
What they tell each other goes through torch.distributed as bytes of a safetensors file, on the CPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sae_core.index.state_file import from_bytes, to_bytes

_PART = 2**28
"""Bytes sent at once."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run, which have joined a process group."""

    rank: int = 0
    world: int = 1
    """Number of processes."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def is_mine(self, batch: int) -> bool:
        """Whether this process runs the batch of this number through the model."""
        return batch % self.world == self.rank

    def from_first(self, state: dict[str, Any] | None) -> dict[str, Any]:
        """The state that the first process gives, on all."""
        if self.world == 1:
            assert state is not None
            return state
        data = _tensor(to_bytes(state or {})) if self.first else torch.empty(0, dtype=torch.uint8)
        length = torch.tensor([len(data)])
        dist.broadcast(length, 0)
        if not self.first:
            data = torch.empty(int(length), dtype=torch.uint8)
        for part in data.split(_PART):
            dist.broadcast(part, 0)
        return from_bytes(data.numpy().tobytes())

    def send_to_first(self, state: dict[str, Any]) -> None:
        """Give the first process, which is in `from_others`, a state."""
        data = _tensor(to_bytes(state))
        dist.send(torch.tensor([len(data)]), 0)
        for part in data.split(_PART):
            dist.send(part, 0)

    def from_others(self) -> Iterator[dict[str, Any]]:
        """On the first process: the states of the others, one after another."""
        for rank in range(1, self.world):
            length = torch.empty(1, dtype=torch.int64)
            dist.recv(length, rank)
            data = torch.empty(int(length), dtype=torch.uint8)
            for part in data.split(_PART):
                dist.recv(part, rank)
            yield from_bytes(data.numpy().tobytes())


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


ALONE = Ranks()
"""Of a run in one process."""
