"""A training step recorded as one CUDA graph: `Recorded`.

A step of a small SAE is some fifty short kernels, and starting them from Python takes longer than
they run. Recorded once and replayed, the same kernels run in the same order on the same memory, so
the results are those of the step that was recorded, bit for bit.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sae_core.config import Site
from training.optim import Controls

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
        # thread_local: the thread that tokenises may use the device's allocator meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step(self._batch, self._control)
        return graph
