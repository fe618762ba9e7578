"""The kernels in Triton on the CPU, through Triton's interpreter.

Skipped where Triton is not installed, as it is not with PyTorch for the CPU. In float32
alone: the interpreter cuts bfloat16 off where a GPU rounds. Triton 3.6's needs numpy below 2.4.
"""

import os

import pytest

pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("set TRITON_INTERPRET=1 to run Triton's kernels here", allow_module_level=True)

import torch

from sae_core.config import Architecture
from sae_core.jumprelu import KERNELS, Kernel
from tests.steps import Shape, Toy, control, distance, raw
from training.kernels import fused, fused_lists, plain, plain_lists

# The interpreter's own, about how it uses numpy.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
]

SHAPES = [Shape(37, 101, 61), Shape(9, 24, 1100), Shape(3, 5, 1)]


def _compare(shape: Shape, kernel: Kernel, targeted: bool, steps: int, beta1: float = 0.0) -> None:
    toys = [Toy(shape, kernel=kernel, targeted=targeted, beta1=beta1) for _ in range(2)]
    for toy, kernels in zip(toys, (plain, fused), strict=True):
        step = toy.sparse(kernels)
        for i in range(steps):
            step(raw(shape, i), control(i))
    for name, expected in toys[0].state.tensors.items():
        assert distance(toys[1].state.tensors[name], expected) < 1e-5, name


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_equal_those_in_plain_pytorch(shape: Shape, beta1: float) -> None:
    _compare(shape, "rectangle", True, 2 if shape.batch < 100 else 1, beta1)


def test_too_many_entries_are_the_dense_steps_bit_for_bit() -> None:
    shape = Shape(8, 20, 33)
    toys = [Toy(shape) for _ in range(2)]
    step = toys[1].sparse(fused, most=1e-2)
    for i in range(2):
        step._fitted = True  # the rest of the step is on its way before the answer is known
        toys[0].dense(raw(shape, i), control(i))
        step(raw(shape, i), control(i))
    for name, tensor in toys[0].state.tensors.items():
        assert torch.equal(toys[1].state.tensors[name], tensor), name


def test_thresholds_of_dead_features_come_down() -> None:
    """In a batch of one token, most features fall silent for as long as that takes."""
    toys = [Toy(SHAPES[2]) for _ in range(2)]
    steps = [toy.sparse(kernels) for toy, kernels in zip(toys, (plain, fused), strict=True)]
    before, revived = toys[0].state.plain["threshold"].clone(), False
    for i in range(8):
        for step in steps:
            step(raw(SHAPES[2], i), control(i, lr=1e-2))
        silent = toys[0].state.totals["tokens_since_fired"] >= toys[0].rule.dead_tokens
        now = toys[0].state.plain["threshold"].clone()
        revived |= bool((now < before)[silent].any())
        before = now
        torch.testing.assert_close(toys[1].state.plain["threshold"], now)
    assert revived


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_window(kernel: Kernel) -> None:
    _compare(Shape(8, 20, 33), kernel, False, 1)


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2]])
@pytest.mark.parametrize("architecture", ["standard", "gated", "topk"])
def test_steps_over_lists_equal_those_in_plain_pytorch(
    architecture: Architecture, shape: Shape
) -> None:
    toys = [Toy(shape, architecture=architecture) for _ in range(2)]
    for toy, kernels in zip(toys, (plain_lists, fused_lists), strict=True):
        toy.bury(7)
        step = toy.listed(kernels, most=1.0)
        for i in range(2):
            step(raw(shape, i), control(i))
    for name, expected in toys[0].state.tensors.items():
        assert distance(toys[1].state.tensors[name], expected) < 1e-5, name


def test_lists_and_maxima_are_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    z, bias = torch.randn(61, 101, generator=generator), torch.randn(101, generator=generator)
    threshold = torch.rand(101, generator=generator)
    threshold[::10] = 1e30
    lists = [m.above(z, bias, threshold, 5000) for m in (plain_lists, fused_lists)]
    for name, expected in vars(lists[0]).items():
        if name != "order":  # whatever it is among equals
            assert torch.equal(getattr(lists[1], name), expected), name
    for size in (4, 32):
        maxima = [m.group_maxima(z, bias, size) for m in (plain_lists, fused_lists)]
        assert torch.equal(*maxima)
