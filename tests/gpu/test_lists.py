"""ReLU, Gated and TopK on CUDA: the kernels over lists equal plain PyTorch, the step the dense one.

Tolerances are on the norm of a difference over a norm. float32: products and sums in another order
differ by some 1e-6. bfloat16 products: both steps round pre-activations in the same product, but
the dense one also rounds the reconstruction, activations' gradients and the matrices' gradients to
8 bits (1/256 each, averaged over a row).
"""

from collections.abc import Callable

import pytest
import torch

from sae_core.config import Architecture
from tests.steps import ODD, Shape, Toy, apart, control, distance, raw
from training.kernels import plain_lists
from training.kernels.entries import Lists, room
from training.kernels.largest import largest
from training.listed_step import ListedStep
from training.sae_trainer import compiler

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

ARCHITECTURES: tuple[Architecture, ...] = ("standard", "gated", "topk")
SHAPES = [ODD, Shape(384, 4096, 512), Shape(2304, 2048, 300), Shape(3584, 640, 70), Shape(1, 1, 1)]
LONG = Shape(96, 1000, 512)
COMPILED = Shape(256, 4096, 4096)
"""Triton 3.6 fails on what PyTorch 2.11 makes of the dense step of `LONG` (PassManager)."""
DTYPES = [torch.float32, torch.bfloat16]
GRADIENTS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def _normal(*size: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(sum(size))
    return torch.randn(*size, device="cuda", generator=generator)


def _above(shape: Shape, dtype: torch.dtype, most: float = 1.0) -> tuple[Lists, Lists]:
    from training.kernels import fused_lists

    threshold = 1 + _normal(shape.d_sae).abs()
    threshold[::7] = 0  # active on half of the tokens
    threshold[3::50] = 1e30  # never active
    space = room(shape.batch, shape.d_sae, most)
    z, bias = _normal(shape.batch, shape.d_sae).to(dtype), 0.1 * _normal(shape.d_sae)
    return tuple(m.above(z, bias, threshold, space) for m in (plain_lists, fused_lists))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, Shape(33, 70, 2500)])
def test_sums_over_lists_are_those_of_plain_pytorch(
    cuda: torch.device, shape: Shape, dtype: torch.dtype
) -> None:
    from training.kernels import fused_lists

    expected, lists = _above(shape, dtype)
    n = int(expected.row_start[-1])
    assert torch.equal(lists.row_start, expected.row_start)
    assert torch.equal(lists.feature[:n], expected.feature[:n])
    # The list by feature may have a few entries more, just below the threshold.
    assert int(lists.column_start[-1]) <= n * 1.001 + 1
    by_token = [result.entries(result.z).act[:n] for result in (lists, expected)]
    assert torch.equal(*by_token)
    place = lists.place[:n].long()
    assert torch.equal(lists.owner[place], lists.feature[:n])
    row = torch.arange(shape.batch, device=cuda).repeat_interleave(lists.row_start.diff())
    assert torch.equal(lists.token[place], row.int())
    counts = lists.column_start.diff()[lists.order].clamp(max=255)
    assert bool((counts.diff() <= 0).all())

    rows, W = _normal(shape.batch, shape.d_model).to(dtype), _normal(shape.d_sae, shape.d_model)
    act = lists.z.to(dtype)
    along = 0.1 * lists.column_start.diff().float()
    for more in (None, along):
        pairs = zip(
            fused_lists.decoder_gradients(lists, act, rows, W, more),
            plain_lists.decoder_gradients(lists, act, rows, W, more),
            strict=True,
        )
        for result, wanted in pairs:
            assert result is not None
            assert wanted is not None
            assert distance(result, wanted) < 1e-5
    alone, none = fused_lists.decoder_gradients(lists, None, rows, W)
    assert none is None
    assert distance(alone, plain_lists.decoder_gradients(lists, None, rows, W)[0]) < 1e-5
    result = fused_lists.encoder_gradient(lists, lists.z, rows)
    assert distance(result, plain_lists.encoder_gradient(lists, lists.z, rows)) < 1e-5
    assert distance(fused_lists.sums(lists, lists.z), plain_lists.sums(lists, lists.z)) < 1e-5


def test_entries_beyond_the_room_are_counted(cuda: torch.device) -> None:
    expected, result = _above(Shape(1, 1000, 700), torch.bfloat16, most=0.01)
    assert int(result.column_start[-1]) > len(result.token)
    assert torch.equal(result.column_start, expected.column_start)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d_sae", "k"), [(1009, 5), (64, 1), (16_384, 64), (20, 20), (70_000, 33)])
def test_the_largest_are_the_largest(
    cuda: torch.device, d_sae: int, k: int, dtype: torch.dtype
) -> None:
    from training.kernels import fused_lists

    z, bias = _normal(50, d_sae).to(dtype), _normal(d_sae)
    for size in (4, 32, 64):
        maxima = fused_lists.group_maxima(z, bias, size)
        assert torch.equal(maxima, plain_lists.group_maxima(z, bias, size))
    features, values = largest(z, bias, k, fused_lists.group_maxima)
    everything = z.float() + bias
    assert torch.equal(values.sort(descending=True).values, everything.topk(k).values)
    assert torch.equal(everything.gather(1, features), values)
    assert bool((features.sort().values.diff() > 0).all())


def _pair(shape: Shape, architecture: Architecture, dtype: torch.dtype) -> tuple[Toy, Toy]:
    toys = tuple(
        Toy(shape, architecture=architecture, products=dtype, device="cuda") for _ in range(2)
    )
    for toy in toys:
        toy.bury(7)
    return toys  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_gradient_is_the_dense_ones(
    cuda: torch.device, architecture: Architecture, shape: Shape, dtype: torch.dtype
) -> None:
    dense, sparse = _pair(shape, architecture, dtype)
    dense.dense(raw(shape, 0, "cuda"), control(0, "cuda"))
    step = sparse.listed(most=1.0)
    step(raw(shape, 0, "cuda"), control(0, "cuda"))
    assert step._fitted
    for name, v in dense.state.second.items():
        assert float(v.max()) > 0, name
        # A first step's second moments are (1 - beta2) g^2.
        assert distance(sparse.state.second[name].sqrt(), v.sqrt()) < GRADIENTS[dtype], name
    for name, total in dense.state.totals.items():
        assert distance(sparse.state.totals[name], total) < 1e-2, name


def _hundred_steps(architecture: Architecture, dtype: torch.dtype, *, sparse: bool) -> Toy:
    toy = Toy(LONG, architecture=architecture, products=dtype, device="cuda")
    toy.bury(20)
    step = toy.listed() if sparse else toy.dense
    for i in range(100):
        step(raw(LONG, i, "cuda"), control(i, "cuda"))
    assert not isinstance(step, ListedStep) or step._fitted
    return toy


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_hundred_steps_in_float32(cuda: torch.device, architecture: Architecture) -> None:
    dense, sparse = (
        _hundred_steps(architecture, torch.float32, sparse=sparse) for sparse in (False, True)
    )
    for name, error in apart(sparse, dense).items():
        # Of parameters: of how far they moved. Gated SAEs end 0.011 apart.
        assert error < (1e-3 if name in ("scalars", "active") else 2e-2), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_hundred_steps_in_bfloat16_are_as_good_as_the_dense_ones(
    cuda: torch.device, architecture: Architecture
) -> None:
    """As in test_kernels: both are to be as near to the run in float32."""
    exact = _hundred_steps(architecture, torch.float32, sparse=False)
    dense, sparse = (
        apart(_hundred_steps(architecture, torch.bfloat16, sparse=sparse), exact)
        for sparse in (False, True)
    )
    for name, error in sparse.items():
        assert error < 1.5 * dense[name] + 1e-3, (name, error, dense[name])
    assert dense["active"] < 0.1, "the runs have nothing in common: the test says nothing"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_too_many_entries_are_the_dense_steps_bit_for_bit(
    cuda: torch.device, architecture: Architecture
) -> None:
    toys = _pair(LONG, architecture, torch.bfloat16)
    step = toys[1].listed(most=1e-3)
    for i in range(3):
        step._fitted = True  # the gradients are on their way before the answer is known
        toys[0].dense(raw(LONG, i, "cuda"), control(i, "cuda"))
        step(raw(LONG, i, "cuda"), control(i, "cuda"))
        assert not step._fitted
    for name, tensor in toys[0].state.tensors.items():
        assert torch.equal(toys[1].state.tensors[name], tensor), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_bits_every_time(cuda: torch.device, architecture: Architecture) -> None:
    shape = Shape(384, 2048, 2048)
    toys = _pair(shape, architecture, torch.bfloat16)
    for toy in toys:
        step = toy.listed()
        for i in range(10):
            step(raw(shape, i, "cuda"), control(i, "cuda"))
    for name, expected in toys[0].state.tensors.items():
        assert torch.equal(toys[1].state.tensors[name], expected), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_steps_switch_to_the_dense_step_and_back(
    cuda: torch.device, architecture: Architecture
) -> None:
    compile_: Callable[..., object] = compiler("default", cuda)
    toys = [
        Toy(COMPILED, architecture=architecture, device="cuda", compiler=compile_) for _ in range(2)
    ]
    steps = [toy.listed() for toy in toys]
    for i in range(12):
        steps[1]._most = 1e-4 if i % 3 == 0 else 0.5
        for step in steps:
            step(raw(COMPILED, i, "cuda"), control(i, "cuda"))
        assert steps[0]._fitted
        assert steps[1]._fitted == (i % 3 != 0)
    for name, tensor in toys[0].state.plain.items():
        moved = tensor - toys[0].start[name]
        assert distance(toys[1].state.plain[name], tensor, moved) < 1e-2, name
