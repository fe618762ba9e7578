"""The kernels in Triton equal plain PyTorch, and the sparse step on CUDA the dense one.

Tolerances are on the norm of a difference over a norm. float32: products and sums in another order
differ by some 1e-6. bfloat16 products: both steps round pre-activations, but the dense one also
rounds d_z, recon and the matrices' gradients to 8 bits (1/256 each, averaged over a row), and the
two layouts of the encoder product round differently, so that entries at the threshold may differ.
"""

import pytest
import torch

from sae_core.jumprelu import KERNELS, Kernel
from tests.steps import ODD, Shape, Toy, apart, control, distance, raw, settled
from training.kernels import plain
from training.kernels.entries import Entries, Objective, room
from training.losses import JumpReLULoss
from training.sparse_step import SparseStep

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

SHAPES = [ODD, Shape(384, 4096, 512), Shape(2304, 2048, 300), Shape(1, 1, 1), Shape(33, 70, 2500)]
DTYPES = [torch.float32, torch.bfloat16]
GRADIENTS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
BETAS = [0.0, 0.9]
"""Without a first moment, and with one."""


def _select(shape: Shape, dtype: torch.dtype, most: float = 1.0) -> tuple[Entries, Entries]:
    from training.kernels import fused

    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, device="cuda", generator=generator)

    z = normal(shape.batch, shape.d_sae).to(dtype)
    b_enc = 0.1 * normal(shape.d_sae)
    threshold = 1 + normal(shape.d_sae).abs()
    threshold[::7] = 1e-6  # active on half of the tokens
    threshold[3::50] = 100.0  # never active
    objective = Objective(0.3, "rectangle", True, JumpReLULoss.limits)
    space = room(shape.batch, shape.d_sae, most)
    args = (z, b_enc, threshold, objective, space)
    return plain.select(*args), fused.select(*args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_entries_are_the_same_bit_for_bit(
    cuda: torch.device, shape: Shape, dtype: torch.dtype
) -> None:
    expected, result = _select(shape, dtype)
    assert torch.equal(result.row_start, expected.row_start)
    active = int(expected.row_start[-1])
    assert torch.equal(result.feature[:active], expected.feature[:active])
    assert torch.equal(result.act[:active], expected.act[:active])
    # The columns' lists may differ by entries at the window's very edge: those are listed early.
    columns = []
    for entries in (expected, result):
        n = int(entries.column_start[-1])
        owner = torch.arange(shape.d_sae, device=cuda).repeat_interleave(
            entries.column_start.diff()
        )
        columns.append(list(zip(owner.tolist(), entries.token[:n].tolist(), strict=True)))
        assert columns[-1] == sorted(columns[-1])
    assert len(set(columns[0]) ^ set(columns[1])) <= 1e-4 * len(columns[0])


def test_entries_beyond_the_room_are_counted(cuda: torch.device) -> None:
    shape = Shape(1, 1000, 700)
    expected, result = _select(shape, torch.bfloat16, most=0.01)
    assert int(result.column_start[-1]) > len(result.token)
    assert torch.equal(result.column_start, expected.column_start)


@pytest.mark.parametrize("beta1", BETAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_every_gradient_is_the_dense_ones(
    cuda: torch.device, shape: Shape, dtype: torch.dtype, beta1: float
) -> None:
    dense, sparse = (Toy(shape, products=dtype, beta1=beta1, device="cuda") for _ in range(2))
    dense.dense(raw(shape, 0, "cuda"), control(0, "cuda"))
    sparse.sparse()(raw(shape, 0, "cuda"), control(0, "cuda"))
    for name, v in dense.state.second.items():
        assert float(v.max()) > 0, name
        # A first step's second moments are (1 - beta2) g^2.
        assert distance(sparse.state.second[name].sqrt(), v.sqrt()) < GRADIENTS[dtype], name
    for name, m in dense.state.first.items():
        assert distance(sparse.state.first[name], m) < GRADIENTS[dtype], name
    for name, total in dense.state.totals.items():
        assert distance(sparse.state.totals[name], total) < 1e-2, name
    norms = sparse.state.plain["W_dec"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-5, rtol=0)


@pytest.mark.parametrize("beta1", BETAS)
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_window_and_penalty(
    cuda: torch.device, kernel: Kernel, targeted: bool, beta1: float
) -> None:
    from training.kernels import fused

    toys = [
        Toy(ODD, kernel=kernel, targeted=targeted, beta1=beta1, device="cuda") for _ in range(2)
    ]
    for toy, kernels in zip(toys, (plain, fused), strict=True):
        step = toy.sparse(kernels)
        for i in range(3):
            step(raw(ODD, i, "cuda"), control(i, "cuda"))
    for name, expected in toys[0].state.tensors.items():
        assert distance(toys[1].state.tensors[name], expected) < 1e-4, name


def _hundred_steps(dtype: torch.dtype, beta1: float, *, sparse: bool) -> Toy:
    shape = Shape(96, 1000, 512)
    toy = Toy(shape, products=dtype, beta1=beta1, device="cuda")
    step = toy.sparse() if sparse else toy.dense
    for i in range(100):
        step(raw(shape, i, "cuda"), control(i, "cuda"))
    if isinstance(step, SparseStep):
        settled(toy, step, 100)
    return toy


@pytest.mark.parametrize("beta1", BETAS)
def test_a_hundred_steps_in_float32(cuda: torch.device, beta1: float) -> None:
    dense, sparse = (
        _hundred_steps(torch.float32, beta1, sparse=sparse) for sparse in (False, True)
    )
    for name, error in apart(sparse, dense).items():
        assert error < (1e-3 if name in ("scalars", "active") else 1e-2), name


@pytest.mark.parametrize("beta1", BETAS)
def test_a_hundred_steps_in_bfloat16_are_as_good_as_the_dense_ones(
    cuda: torch.device, beta1: float
) -> None:
    """Rounding decides the signs of gradients near 0, and with them Adam's steps: two runs in
    bfloat16 come apart, dense ones as well. What both must be near is the run in float32: the
    sparse one, which rounds less, as near as the dense one. Half as much again is for chance; the
    distances are sums over some 100,000 weights and 30,000 active entries a step.
    """
    exact = _hundred_steps(torch.float32, beta1, sparse=False)
    dense, sparse = (
        apart(_hundred_steps(torch.bfloat16, beta1, sparse=sparse), exact)
        for sparse in (False, True)
    )
    for name, error in sparse.items():
        assert error < 1.5 * dense[name] + 1e-3, (name, error, dense[name])
    assert dense["active"] < 0.1, "the runs have nothing in common: the test says nothing"


@pytest.mark.parametrize("beta1", BETAS)
def test_too_many_entries_are_the_dense_steps_bit_for_bit(cuda: torch.device, beta1: float) -> None:
    shape = Shape(96, 1000, 512)
    toys = [Toy(shape, products=torch.bfloat16, beta1=beta1, device="cuda") for _ in range(2)]
    step = toys[1].sparse(most=1e-3)
    for i in range(3):
        step._fitted = True  # the rest of the step is on its way before the answer is known
        toys[0].dense(raw(shape, i, "cuda"), control(i, "cuda"))
        step(raw(shape, i, "cuda"), control(i, "cuda"))
    for name, tensor in toys[0].state.tensors.items():
        assert torch.equal(toys[1].state.tensors[name], tensor), name


@pytest.mark.parametrize("beta1", BETAS)
def test_the_same_bits_every_time(cuda: torch.device, beta1: float) -> None:
    shape = Shape(384, 2048, 2048)
    toys = [Toy(shape, products=torch.bfloat16, beta1=beta1, device="cuda") for _ in range(2)]
    for toy in toys:
        step = toy.sparse()
        for i in range(10):
            step(raw(shape, i, "cuda"), control(i, "cuda"))
    for name, expected in toys[0].state.tensors.items():
        assert torch.equal(toys[1].state.tensors[name], expected), name


def test_switching_to_the_dense_step_and_back(cuda: torch.device) -> None:
    shape = Shape(96, 1000, 512)
    toys = [Toy(shape, products=torch.bfloat16, device="cuda") for _ in range(2)]
    expected = toys[0].sparse()
    result = toys[1].sparse()
    for i in range(12):
        result._most = 1e-4 if i % 3 == 0 else 0.5
        for step in (expected, result):
            step(raw(shape, i, "cuda"), control(i, "cuda"))
    for toy, step in zip(toys, (expected, result), strict=True):
        settled(toy, step, 12)
    for name, tensor in toys[0].state.plain.items():
        moved = tensor - toys[0].start[name]
        assert distance(toys[1].state.plain[name], tensor, moved) < 0.1, name
