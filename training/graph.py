"""Training steps recorded as CUDA graphs: `Recorded` as one, `RecordedHalves` as two.

A step of a small SAE is some fifty short kernels, and starting them from Python takes longer than
they run. Recorded once and replayed, the same kernels run in the same order on the same memory, so
the results are those of the step that was recorded, bit for bit.
"""

from collections.abc import Callable
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.config import Site
from training.optim import Control, Controls

WARM_UP = 3
"""Steps taken as they are before one is recorded: by then everything is compiled."""

Step = Callable[[dict[Site, Tensor], Controls], None]


class Recorded:
    """A step (batches by site, controls) working in place on tensors that stay where they are."""

    def __init__(self, step: Step) -> None:
        """`step` must wait for nothing on the device, and take batches of one shape."""
        self._step = step
        self._taken = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: dict[Site, Tensor] = {}
        self._control = torch.empty(0)

    def __call__(self, batch: dict[Site, Tensor], control: Controls) -> None:
        """Take one step."""
        if self._taken < WARM_UP:
            self._taken += 1
            self._step(batch, control)
            return
        if self._graph is None:
            self._batch = {site: x.clone() for site, x in batch.items()}
            self._control = control.clone()
            self._graph = self._recorded()
        for site, x in batch.items():
            self._batch[site].copy_(x)
        self._control.copy_(control)
        self._graph.replay()

    def _recorded(self) -> torch.cuda.CUDAGraph:
        """The graph of a step; recording takes none."""
        graph = torch.cuda.CUDAGraph()
        with _recording(graph):
            self._step(self._batch, self._control)
        return graph


class RecordedHalves:
    """A step of one SAE in two halves, so that the device can be asked for a number between them.

    Their graphs share one memory with those of the other SAEs of a run, which take their steps one
    after another: what a step leaves there is gone with the next one.
    """

    _all: ClassVar[WeakSet["RecordedHalves"]] = WeakSet()

    def __init__(
        self,
        first: Callable[[Tensor], tuple[Tensor, Any]],
        second: Callable[[Tensor, Control, Any], None],
        raw: Float[Tensor, "batch d_model"],
        control: Control,
    ) -> None:
        """Record both without taking them. `first` gives the number and what `second` takes. Both
        must have run before, and wait for nothing; batches will be of the shape of `raw`.
        """
        self._raw, self._control = raw.clone(), control.clone()
        # A memory lives as long as some graph does: the last one's end is its end.
        other = next(iter(self._all), None)
        pool = torch.cuda.graph_pool_handle() if other is None else other._first.pool()
        self._first, self._second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with _recording(self._first, pool):
            self._number, selection = first(self._raw)
        with _recording(self._second, pool):
            second(self._raw, self._control, selection)
        self._all.add(self)

    @classmethod
    def forget_all(cls) -> None:
        """Give up every recording: none can be replayed any more. Processes must do so before they
        part, because NCCL waits for the graphs that hold its kernels.
        """
        for each in cls._all:
            each._first.reset()
            each._second.reset()
        cls._all.clear()

    def takes(self, raw: Float[Tensor, "batch d_model"]) -> bool:
        """Whether a batch is of the shape and format that was recorded."""
        return raw.shape == self._raw.shape and raw.dtype == self._raw.dtype

    def first(self, raw: Float[Tensor, "batch d_model"]) -> Tensor:
        """The first half of a step; returns the number."""
        self._raw.copy_(raw)
        self._first.replay()
        return self._number

    def second(self, control: Control) -> None:
        """The second half."""
        self._control.copy_(control)
        self._second.replay()


def _recording(graph: torch.cuda.CUDAGraph, pool: Any = None) -> torch.cuda.graph:
    # thread_local: the thread that tokenises may use the device's allocator meanwhile.
    return torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local")
