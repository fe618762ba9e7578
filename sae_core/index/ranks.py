"""The processes of a run that builds indexes together: each runs some batches through the model.

Every process reads the whole corpus, so that all agree on what has been read and when a checkpoint
is due. Of every `world` batches each runs its own one through the model and counts what fires.
At checkpoints and at the end the first process takes over what the others have counted, and writes.
What they tell each other goes through torch.distributed as bytes: of tensors on GPUs from one to
the other, without the host's memory, of all else on the CPU.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sae_core.index.state_file import flat, from_bytes, nested, to_bytes

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
        tensors = flat(state)
        shapes = {name: (str(t.dtype), list(t.shape), t.is_cuda) for name, t in tensors.items()}
        _send(_tensor(json.dumps(shapes).encode()))
        for tensor in tensors.values():
            _send(tensor.reshape(-1).view(torch.uint8))

    def from_others(self) -> Iterator[dict[str, Any]]:
        """On the first process: the states of the others, one after another."""
        for rank in range(1, self.world):
            shapes = json.loads(_receive(rank).numpy().tobytes())
            tensors = {}
            for name, (dtype, shape, on_gpu) in shapes.items():
                kind = getattr(torch, dtype.removeprefix("torch."))
                data = _receive(rank, "cuda" if on_gpu else "cpu")
                tensors[name] = data.view(kind).reshape(shape)
            yield nested(tensors)


def _send(data: Tensor) -> None:
    """Send bytes to the first process."""
    dist.send(torch.tensor([len(data)]), 0)
    for part in _parts(data):
        dist.send(part, 0)


def _receive(rank: int, device: str = "cpu") -> Tensor:
    """Receive what `_send` sends, on the device of that kind which is this process's."""
    length = torch.empty(1, dtype=torch.int64)
    dist.recv(length, rank)
    data = torch.empty(int(length), dtype=torch.uint8, device=device)
    for part in _parts(data):
        dist.recv(part, rank)
    return data


def _parts(data: Tensor) -> Sequence[Tensor]:
    """What is sent at once; nothing of nothing."""
    return data.split(_PART) if len(data) else ()


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


ALONE = Ranks()
"""Of a run in one process."""
