"""torch.compile traces the whole step as one graph and changes nothing; no compiler is needed here.

`aot_eager` runs what was traced with PyTorch's own operations: graphs, gradients and in-place
updates are those of a GPU run, its generated kernels are not (tests/gpu has those).
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from training.losses import BatchStats, JumpReLULoss, Parameters, Penalty
from training.optim import BETA2
from training.parameters import initial_parameters
from training.trainee import compiler, update_and_count

D_MODEL, D_SAE, BATCH = 12, 40, 32


def _traced(function: Callable[..., Any]) -> Any:
    return torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)


# The compiler warns about what it does itself.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_traced_step_equals_the_plain_one() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(BATCH, D_MODEL, generator=generator).bfloat16() for _ in range(3)]
    penalty = Penalty(torch.tensor(1.0), torch.tensor(4.0))
    found: list[Parameters] = []
    for compile_ in (lambda function: function, _traced):
        loss = JumpReLULoss(bandwidth=0.2, products=torch.bfloat16, compiler=compile_)
        parameters = initial_parameters(D_MODEL, D_SAE, 0.1, seed=0)
        plain = {name: p.detach() for name, p in parameters.items()}
        second = {name: torch.zeros_like(p) for name, p in plain.items()}
        totals = {name: torch.zeros(D_SAE) for name in ("active", "in_window", "silent")}
        totals["scalars"] = torch.zeros(3)
        update = compile_(update_and_count)
        for step, raw in enumerate(batches):
            gradients, stats = loss.gradients(
                parameters, raw, torch.tensor(2.0), torch.zeros(D_MODEL), penalty
            )
            assert isinstance(stats, BatchStats)
            control = torch.tensor([0.01, 1.0, 1 - BETA2 ** (step + 1), 0.0])
            with torch.no_grad():
                update(plain, gradients, second, control, stats, totals, BATCH)
        found.append({**plain, **totals, **{f"second.{n}": v for n, v in second.items()}})
    expected, traced = found
    assert float(expected["active"].sum()) > 0
    for name, tensor in expected.items():
        torch.testing.assert_close(traced[name], tensor, atol=1e-6, rtol=1e-5, msg=name)


def test_compiler_follows_the_options() -> None:
    def function() -> None: ...

    processor, gpu = torch.device("cpu"), torch.device("cuda")
    assert compiler("off", gpu)(function) is function
    assert compiler("auto", processor)(function) is function
    for mode, device in (("auto", gpu), ("default", processor), ("cuda-graph", gpu)):
        assert compiler(mode, device)(function) is not function  # pyright: ignore[reportArgumentType]
