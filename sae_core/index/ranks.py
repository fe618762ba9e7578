"""The processes of a run that builds indexes together: each runs some batches through the model.

Every process reads the whole corpus, so that all agree on what has been read and when a checkpoint
is due. Of every `world` batches each runs its own one through the model and counts what fires; what
is said of the decoder is shared out by features. At checkpoints and at the end the first process
takes over what the others have, and writes.
What they tell each other goes through torch.distributed as bytes: of tensors on GPUs from one to
the other, without the host's memory, of all else on the CPU.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
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

    def share(self, count: int, together: int) -> range:
        """Which of `count` things are this process's; `together` of them are never parted."""
        lots = -(-count // together)
        first, last = (lots * rank // self.world * together for rank in (self.rank, self.rank + 1))
        return range(first, max(first, min(last, count)))

    def send_to_first(self, states: Iterable[dict[str, Any]]) -> None:
        """Give the first process, which is in `from_others`, some states; it has them all when
        this returns.
        """
        # NCCL gives up on who does not answer long before gloo does, and the first may be writing.
        dist.recv(torch.empty(1), 0)
        for state in states:
            tensors = flat(state)
            facts = {n: (str(t.dtype), list(t.shape), t.is_cuda) for n, t in tensors.items()}
            _send_text(json.dumps(facts))
            for tensor in tensors.values():
                for part in _parts(tensor.reshape(-1).view(torch.uint8)):
                    dist.send(part, 0)
        _send_text("")
        # A process may end after this, which must not take with it what NCCL is still reading.
        dist.recv(torch.empty(1), 0)

    def from_others(self) -> Iterator[dict[str, Any]]:
        """On the first process: the states of the others, one after another. Tensors come on the
        kind of device that they were on.
        """
        for rank in range(1, self.world):
            dist.send(torch.empty(1), rank)
            while facts := json.loads(_receive_text(rank) or "{}"):
                tensors = {}
                for name, (dtype, shape, on_gpu) in facts.items():
                    device = "cuda" if on_gpu else "cpu"
                    kind = getattr(torch, dtype.removeprefix("torch."))
                    tensors[name] = torch.empty(shape, dtype=kind, device=device)
                    for part in _parts(tensors[name].view(-1).view(torch.uint8)):
                        dist.recv(part, rank)
                yield nested(tensors)
            if torch.cuda.is_initialized():
                torch.cuda.current_stream().synchronize()
            dist.send(torch.empty(1), rank)


def _send_text(text: str) -> None:
    """Send the first process a text, which may be empty."""
    data = _tensor(text.encode()) if text else torch.empty(0, dtype=torch.uint8)
    dist.send(torch.tensor([len(data)]), 0)
    for part in _parts(data):
        dist.send(part, 0)


def _receive_text(rank: int) -> str:
    """Receive what `_send_text` sends."""
    length = torch.empty(1, dtype=torch.int64)
    dist.recv(length, rank)
    data = torch.empty(int(length), dtype=torch.uint8)
    for part in _parts(data):
        dist.recv(part, rank)
    return data.numpy().tobytes().decode()


def _parts(data: Tensor) -> Sequence[Tensor]:
    """What is sent at once of some bytes; nothing of nothing."""
    return data.split(_PART) if len(data) else ()


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


ALONE = Ranks()
"""Of a run in one process."""
