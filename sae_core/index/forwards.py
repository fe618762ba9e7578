"""The model's forwards of a run: on a GPU of many rows, and beside the counting of those before.

A forward of a few short rows leaves a GPU waiting for the host, which starts its kernels. So
batches are joined up to 16,384 places there, and run on a stream of their own: while the host
counts what fires in one joined batch, for which it has to wait again and again, the GPU has the
next one to work on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from sae_core.corpus import TokenBatch
from sae_core.sae import SAE
from sae_core.sites import activations

_PLACES = 2**14
"""Places of a joined batch, padding included, at most."""


@dataclass(frozen=True)
class Joined:
    """Neighbouring batches of one process as one, on the CPU, and where they stand."""

    input_ids: Int[Tensor, "rows pos"]
    mask: Bool[Tensor, "rows pos"]
    numbers: list[int]
    """Number of each row in the stream."""

    @classmethod
    def of(cls, parts: "Sequence[tuple[TokenBatch, int]]") -> "Joined":
        """Batches, each with the number of its first row."""
        longest = max(batch.mask.shape[1] for batch, _ in parts)

        def widened(each: Tensor) -> Tensor:
            return functional.pad(each, (0, longest - each.shape[1]))

        return cls(
            input_ids=torch.cat([widened(batch.input_ids) for batch, _ in parts]),
            mask=torch.cat([widened(batch.mask) for batch, _ in parts]),
            numbers=[first + i for batch, first in parts for i in range(len(batch.rows))],
        )


@dataclass(frozen=True)
class Run:
    """A joined batch that is in the model, or has been."""

    batch: Joined
    pairs: list[tuple[Float[Tensor, "rows pos d_in"], Float[Tensor, "rows pos d_out"]]]
    """For each SAE what it reads and what it reconstructs: the same, but for transcoders."""
    done: torch.cuda.Event | None
    """What has to be waited for, where the GPU may still be at work."""

    def wait(self) -> None:
        """Let the current stream go on only once the activations are there."""
        if self.done is None:
            return
        stream = torch.cuda.current_stream()
        stream.wait_event(self.done)
        for pair in self.pairs:
            for each in pair:
                each.record_stream(stream)


class Forwards:
    """Runs batches through one model, up to the last site that an SAE needs."""

    def __init__(self, model: Any, saes: Sequence[SAE]) -> None:
        self._model = model
        self._sites = [(site, sae.cfg.site_out or site) for sae in saes if (site := sae.cfg.site)]
        devices = {parameter.device for parameter in model.parameters()}
        self._device = next(model.parameters()).device
        # Of a model on several GPUs, whoever put it there decides about their streams.
        on_one_gpu = len(devices) == 1 and self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if on_one_gpu else None
        self._waiting: list[tuple[TokenBatch, int]] = []

    def pairs(self, input_ids: Tensor) -> list[tuple[Tensor, Tensor]]:
        """`Run.pairs` of token ids `[rows, pos]`."""
        sites = list(dict.fromkeys(site for pair in self._sites for site in pair))
        ids = input_ids.to(self._device, non_blocking=True)
        captured = activations(self._model, ids, sites)
        return [(captured[read], captured[write]) for read, write in self._sites]

    def add(self, batch: TokenBatch, first: int) -> Run | None:
        """Take a batch whose first row has this number, which begins a forward if enough wait."""
        begun = None
        if self._stream is None:
            self._waiting.append((batch, first))
            return self.rest()
        rows = sum(len(each.rows) for each, _ in self._waiting) + len(batch.rows)
        longest = max(each.mask.shape[1] for each, _ in [*self._waiting, (batch, first)])
        if rows * longest > _PLACES:
            begun = self.rest()
        self._waiting.append((batch, first))
        return begun

    def rest(self) -> Run | None:
        """Begin a forward of all that wait; None if nothing does."""
        if not self._waiting:
            return None
        joined = Joined.of(self._waiting)
        self._waiting = []
        if self._stream is None:
            return Run(joined, self.pairs(joined.input_ids), None)
        # From pinned memory: any other copy has the host wait for the forward before.
        ids = joined.input_ids.pin_memory()
        done = torch.cuda.Event()
        with torch.cuda.stream(self._stream):
            run = Run(joined, self.pairs(ids), done)
            done.record()
        return run
