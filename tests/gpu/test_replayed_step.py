"""Sparse steps replayed as CUDA graphs are those that Python starts, bit for bit."""

import pytest
import torch

from tests.steps import Shape, Toy, control, raw
from training.graph import WARM_UP
from training.sparse_step import SparseStep

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

SHAPE = Shape(96, 1000, 512)


def _pair(
    products: torch.dtype = torch.bfloat16, beta1: float = 0.9
) -> tuple[list[Toy], list[SparseStep]]:
    """Two SAEs at the same start, and their steps: as they are, and replayed."""
    toys = [Toy(SHAPE, products=products, beta1=beta1, device="cuda") for _ in range(2)]
    return toys, [
        toy.sparse(replay=replay) for toy, replay in zip(toys, (False, True), strict=True)
    ]


def _take(steps: list[SparseStep], i: int, shape: Shape = SHAPE) -> None:
    for step in steps:
        step(raw(shape, i, "cuda"), control(i, "cuda"))


def _assert_equal(toys: list[Toy]) -> None:
    for name, expected in toys[0].state.tensors.items():
        assert torch.equal(toys[1].state.tensors[name], expected), name


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_replayed_steps(cuda: torch.device, products: torch.dtype, beta1: float) -> None:
    toys, steps = _pair(products, beta1)
    for i in range(WARM_UP + 20):
        _take(steps, i)
    assert steps[1]._recorded is not None
    assert steps[0]._recorded is None
    _assert_equal(toys)


def test_several_saes_share_a_memory(cuda: torch.device) -> None:
    """What one leaves there, the next one overwrites: neither may see that of the other."""
    first, second = _pair(), _pair()
    for i in range(WARM_UP + 10):
        _take(first[1], i)
        _take(second[1], 100 + i)
    _assert_equal(first[0])
    _assert_equal(second[0])
    name = "W_dec"
    assert not torch.equal(first[0][0].state.plain[name], second[0][0].state.plain[name])


def test_a_batch_that_is_too_dense_ends_a_recording(cuda: torch.device) -> None:
    toys, steps = _pair()
    for i in range(3 * WARM_UP + 8):
        for step in steps:
            step._most = 1e-4 if i == WARM_UP + 3 else 0.5
        if i == WARM_UP + 3:
            # The room is part of what was recorded.
            steps[1]._recorded = None
        _take(steps, i)
        if i == WARM_UP + 3:
            assert steps[1]._taken == 0
    assert steps[1]._recorded is not None
    _assert_equal(toys)


def test_another_number_of_tokens_is_taken_as_it_is(cuda: torch.device) -> None:
    toys, steps = _pair()
    for i in range(WARM_UP + 2):
        _take(steps, i)
    _take(steps, 50, Shape(SHAPE.d_model, SHAPE.d_sae, 300))
    _take(steps, 51)
    _assert_equal(toys)
