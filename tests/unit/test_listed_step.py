"""The step over lists of active features equals the dense one: ReLU, Gated and TopK.

Tolerances: float32 sums in another order differ by about 1e-6 of what is summed; gradients are cut
at the same norm, and Adam's first steps are as good as signs, so that a gradient which is 0 but for
rounding moves a weight by up to lr.
"""

import logging
from types import ModuleType

import pytest
import torch

from sae_core.config import Architecture
from tests.steps import ODD, TOP, Shape, Toy, assert_dense_from_here_on, control, distance, raw
from training.kernels import plain_lists
from training.kernels.entries import Lists
from training.kernels.largest import largest, lists_of

ARCHITECTURES: tuple[Architecture, ...] = ("standard", "gated", "topk")
STEERED: tuple[Architecture, ...] = ("standard", "gated")
SMALL = Shape(16, 64, 70)
SHAPES = [ODD, SMALL, Shape(3, 5, 1)]


def _pair(shape: Shape, architecture: Architecture, **settings: object) -> tuple[Toy, Toy]:
    dense, sparse = (Toy(shape, architecture=architecture, **settings) for _ in range(2))  # pyright: ignore[reportArgumentType]
    for toy in (dense, sparse):
        toy.bury(7)
    return dense, sparse


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_step_has_every_gradient_of_the_dense_one(
    architecture: Architecture, shape: Shape, targeted: bool
) -> None:
    dense, sparse = _pair(shape, architecture, targeted=targeted)
    dense.dense(raw(shape, 0), control(0))
    sparse.listed(plain_lists, most=1.0)(raw(shape, 0), control(0))
    for name, v in dense.state.second.items():
        assert float(v.max()) > 0 or shape.batch == 1, name
        # A first step's second moments are (1 - beta2) g^2.
        assert distance(sparse.state.second[name].sqrt(), v.sqrt()) < 1e-5, name
    for name, total in dense.state.totals.items():
        torch.testing.assert_close(sparse.state.totals[name], total, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(sparse.state.multiplier, dense.state.multiplier)


def test_the_toys_test_what_they_should() -> None:
    for architecture in ARCHITECTURES:
        _, toy = _pair(ODD, architecture)
        toy.listed(plain_lists)(raw(ODD, 0), control(0))
        active = toy.state.totals["active"]
        assert 3 < float(active.sum()) / ODD.batch < 0.2 * ODD.d_sae, architecture
        assert 0.1 < float((active == 0).float().mean()) < 0.95, architecture


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_long_runs_stay_together(architecture: Architecture) -> None:
    dense, sparse = _pair(SMALL, architecture)
    step = sparse.listed(plain_lists, most=1.0)
    for i in range(100):
        dense.dense(raw(SMALL, i), control(i))
        step(raw(SMALL, i), control(i))
    for name, p in dense.state.plain.items():
        moved = p - dense.start[name]
        assert distance(sparse.state.plain[name], p, moved) < 1e-3, name
        assert distance(sparse.state.second[name], dense.state.second[name]) < 1e-3, name
    for name, total in dense.state.totals.items():
        torch.testing.assert_close(sparse.state.totals[name], total, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_products(architecture: Architecture) -> None:
    """The dense step rounds more: the reconstruction, and the matrices' gradients, to 8 bits."""
    dense, sparse = _pair(ODD, architecture, products=torch.bfloat16)
    dense.dense(raw(ODD, 0), control(0))
    sparse.listed(plain_lists)(raw(ODD, 0), control(0))
    for name, v in dense.state.second.items():
        assert distance(sparse.state.second[name].sqrt(), v.sqrt()) < 1e-2, name
    assert torch.equal(sparse.state.totals["active"], dense.state.totals["active"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_too_many_entries_are_the_dense_steps_bit_for_bit(
    architecture: Architecture, caplog: pytest.LogCaptureFixture
) -> None:
    dense, sparse = _pair(SMALL, architecture)
    step = sparse.listed(plain_lists, most=1e-3)
    assert_dense_from_here_on(dense, sparse, step, SMALL, caplog)


@pytest.mark.parametrize("architecture", STEERED)
def test_switching_back_and_forth_changes_nothing(
    architecture: Architecture, caplog: pytest.LogCaptureFixture
) -> None:
    dense, sparse = _pair(SMALL, architecture)
    step = sparse.listed(plain_lists, most=400 / (SMALL.batch * SMALL.d_sae))
    with caplog.at_level(logging.INFO, "training.sparse_step"):
        for i in range(12):
            x = raw(SMALL, i) * (0.7 if i % 3 else 1.4)
            dense.dense(x, control(i))
            step(x, control(i))
    said = [record.message.split()[1] for record in caplog.records]
    assert said == ["dense", "sparse"] * 4
    for record in caplog.records:
        entries = int(record.message.split(": ")[2].split(" entries")[0].replace(",", ""))
        assert (entries > 400) == ("dense" in record.message)
        assert entries > 100
    for name, tensor in dense.state.tensors.items():
        assert distance(sparse.state.tensors[name], tensor) < 1e-4, name


def test_after_too_many_entries_some_steps_are_dense_unasked() -> None:
    asked = []

    def above(*args: object) -> Lists:
        asked.append(len(kinds))
        return plain_lists.above(*args)  # pyright: ignore[reportArgumentType]

    kernels = ModuleType("counted")
    vars(kernels).update({**vars(plain_lists), "above": above})
    toy = Toy(SMALL, architecture="standard")
    step = toy.listed(kernels, most=1e-3, pause=3)
    kinds: list[bool] = []
    for i in range(6):
        step(raw(SMALL, i), control(i))
        kinds.append(step._fitted)
    assert asked == [0, 4]
    assert int(step.paused) == 2
    step._most = 1.0
    again = Toy(SMALL, architecture="standard").listed(kernels, most=1.0)
    again.restored(step.paused)
    for i in range(6, 10):
        for one in (step, again):
            one(raw(SMALL, i), control(i))
        kinds.append(step._fitted)
    assert kinds == [False] * 8 + [True] * 2
    assert asked == [0, 4, 8, 8, 9, 9]


def test_more_dead_features_than_auxk_takes_are_a_dense_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dense, sparse = _pair(SMALL, "topk")
    step = sparse.listed(plain_lists, most=1.0)
    with caplog.at_level(logging.INFO, "training.sparse_step"):
        for i, dead in enumerate((60, 0, 3)):
            for toy, take in ((dense, dense.dense), (sparse, step)):
                toy.state.totals["tokens_since_fired"].zero_()
                toy.bury(dead)
                take(raw(SMALL, i), control(i))
    assert [record.message.split()[1] for record in caplog.records] == ["dense", "sparse"]
    for name, tensor in dense.state.tensors.items():
        assert distance(sparse.state.tensors[name], tensor) < 1e-4, name


def test_auxk_has_a_part_in_the_lists() -> None:
    result = []
    for dead in (0, 7):
        toy = Toy(SMALL, architecture="topk")
        toy.bury(dead)
        toy.listed(plain_lists)(raw(SMALL, 0), control(0))
        result.append(toy.state)
    assert float(result[0].totals["scalars"][0]) < float(result[1].totals["scalars"][0])
    assert distance(result[0].second["W_dec"][:7], result[1].second["W_dec"][:7]) > 1e-2


@pytest.mark.parametrize(("d_sae", "k"), [(1009, 5), (64, 1), (4096, 3), (20, 20), (7, 2)])
def test_the_largest_are_the_largest(d_sae: int, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, d_sae, generator=generator)
    bias = torch.randn(d_sae, generator=generator)
    features, values = largest(z, bias, k, plain_lists.group_maxima)
    expected = (z + bias).topk(k)
    assert torch.equal(values.sort(descending=True).values, expected.values)
    assert torch.equal(features.sort().values, expected.indices.sort().values)


def test_lists_of_the_largest_hold_them_in_both_orders() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, 99, generator=generator)
    top = z.topk(TOP)
    lists = lists_of(top.indices, top.values, 99)
    dense = torch.zeros(50, 99).scatter(1, top.indices, top.values)
    _check(lists, dense)
    _check(plain_lists.above(z, torch.zeros(99), torch.ones(99), 3000), z * (z > 1))


def _check(lists: Lists, dense: torch.Tensor) -> None:
    n = int(lists.column_start[-1])
    owner, token = lists.owner[:n].long(), lists.token[:n].long()
    assert torch.equal(torch.stack([owner, token], 1), dense.T.nonzero())
    assert torch.equal(lists.z[:n], dense[token, owner])
    assert torch.equal(lists.column_start.diff(), (dense != 0).sum(dim=0))
    entries = lists.entries(lists.z)
    assert int(entries.row_start[-1]) == n
    row = torch.arange(len(dense)).repeat_interleave(entries.row_start.diff())
    again = torch.zeros_like(dense)
    again[row, entries.feature[:n].long()] = entries.act[:n]
    assert torch.equal(again, dense)
    counts = lists.column_start.diff()[lists.order]
    assert bool((counts.diff() <= 0).all())
