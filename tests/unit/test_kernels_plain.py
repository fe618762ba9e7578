"""The sparse step in plain PyTorch equals the dense step: gradients, moments, long runs, switches.

Gradients are read off Adam's second moments after a first step, which are (1 - beta2) g^2.

Tolerances: float32 sums in another order differ by about 1e-6 of what is summed; Adam's first steps
are as good as signs, so that a gradient which is 0 but for rounding moves a weight by up to lr.
"""

import logging

import pytest
import torch

from sae_core.jumprelu import KERNELS, Kernel
from tests.steps import ODD, Shape, Toy, assert_dense_from_here_on, control, distance, raw, settled
from training.kernels import plain
from training.sparse_step import feature_rows
from training.step import State

SMALL = Shape(16, 64, 70)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
def test_one_step_has_every_gradient_of_the_dense_one(
    kernel: Kernel, targeted: bool, beta1: float
) -> None:
    dense = Toy(ODD, kernel=kernel, targeted=targeted, beta1=beta1)
    sparse = Toy(ODD, kernel=kernel, targeted=targeted, beta1=beta1)
    dense.dense(raw(ODD, 0), control(0))
    sparse.sparse(plain)(raw(ODD, 0), control(0))
    for name, v in dense.state.second.items():
        assert float(v.max()) > 0, name
        assert distance(sparse.state.second[name].sqrt(), v.sqrt()) < 1e-5, name
        moved = dense.state.plain[name] - dense.start[name]
        assert distance(sparse.state.plain[name], dense.state.plain[name], moved) < 1e-2, name
    for name, total in dense.state.totals.items():
        torch.testing.assert_close(sparse.state.totals[name], total, atol=1e-4, rtol=1e-5)
    for name, m in dense.state.first.items():
        assert distance(sparse.state.first[name], m) < 1e-5, name
    assert bool(dense.state.first) == (beta1 > 0)
    torch.testing.assert_close(sparse.state.multiplier, dense.state.multiplier)
    assert bool(sparse.state.multiplier != 0) == targeted


def test_the_toy_tests_what_it_should() -> None:
    toy = Toy(ODD)
    toy.dense(raw(ODD, 0), control(0))
    l0 = float(toy.state.totals["active"].sum()) / ODD.batch
    silent = float((toy.state.totals["active"] == 0).float().mean())
    near = float(toy.state.totals["in_window"].sum()) / ODD.batch
    assert 5 < l0 < 0.2 * ODD.d_sae
    assert 0.1 < silent < 0.9
    assert near > 5


def test_long_runs_stay_together_while_features_fall_silent_and_return() -> None:
    dense, sparse = Toy(SMALL), Toy(SMALL)
    step = sparse.sparse(plain)
    lags = set()
    for i in range(100):
        dense.dense(raw(SMALL, i), control(i))
        step(raw(SMALL, i), control(i))
        lags |= set((i + 1 - step.touched).tolist())
    assert max(lags) > 10
    settled(sparse, step, 100)
    for name, p in dense.state.plain.items():
        moved = p - dense.start[name]
        assert distance(sparse.state.plain[name], p, moved) < 1e-3, name
        assert distance(sparse.state.second[name], dense.state.second[name]) < 1e-3, name
    for name, total in dense.state.totals.items():
        torch.testing.assert_close(sparse.state.totals[name], total, atol=1e-3, rtol=1e-4)


def test_with_a_first_moment_rows_move_on_while_their_features_are_silent() -> None:
    dense, sparse = (Toy(SMALL, beta1=0.9) for _ in range(2))
    step = sparse.sparse(plain)
    moved_in_silence = 0
    for i in range(100):
        before = dense.state.plain["W_dec"].clone()
        fired = dense.state.totals["active"].clone()
        dense.dense(raw(SMALL, i), control(i))
        step(raw(SMALL, i), control(i))
        silent = dense.state.totals["active"] == fired
        moved_in_silence += int((dense.state.plain["W_dec"] != before)[silent].any(dim=1).sum())
        assert set(step.touched.tolist()) == {i + 1}
    assert moved_in_silence > 100
    for name, tensor in dense.state.tensors.items():
        scale = None
        if name.startswith("parameters."):
            scale = tensor - dense.start[name.removeprefix("parameters.")]
        assert distance(sparse.state.tensors[name], tensor, scale) < 1e-3, name


def test_bfloat16_products() -> None:
    """The dense step rounds more: d_z, and the gradients of both matrices, to 8 bits."""
    dense = Toy(ODD, products=torch.bfloat16)
    sparse = Toy(ODD, products=torch.bfloat16)
    dense.dense(raw(ODD, 0), control(0))
    sparse.sparse(plain)(raw(ODD, 0), control(0))
    for name, v in dense.state.second.items():
        assert distance(sparse.state.second[name].sqrt(), v.sqrt()) < 1e-2, name
    assert torch.equal(sparse.state.totals["active"], dense.state.totals["active"])


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_too_many_entries_are_the_dense_steps_bit_for_bit(
    beta1: float, caplog: pytest.LogCaptureFixture
) -> None:
    dense, sparse = (Toy(SMALL, beta1=beta1) for _ in range(2))
    step = sparse.sparse(plain, most=1e-3)
    assert_dense_from_here_on(dense, sparse, step, SMALL, caplog)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_switching_back_and_forth_changes_nothing(
    beta1: float, caplog: pytest.LogCaptureFixture
) -> None:
    dense, sparse = (Toy(SMALL, beta1=beta1) for _ in range(2))
    # Some 500 entries in a batch of 70 x 64, and half as many in a fainter one.
    step = sparse.sparse(plain, most=400 / (SMALL.batch * SMALL.d_sae))
    with caplog.at_level(logging.INFO, "training.sparse_step"):
        for i in range(12):
            x = raw(SMALL, i) * (0.7 if i % 3 else 1.2)
            dense.dense(x, control(i))
            step(x, control(i))
    assert len(caplog.records) == 8
    settled(sparse, step, 12)
    for name, tensor in dense.state.tensors.items():
        assert distance(sparse.state.tensors[name], tensor) < 1e-4, name


def test_taken_up_again_with_and_without_the_touched_steps() -> None:
    whole = Toy(SMALL)
    step = whole.sparse(plain)
    for i in range(6):
        step(raw(SMALL, i), control(i))
    saved = {name: t.clone() for name, t in whole.state.tensors.items()}
    touched = step.touched.clone()
    assert int(touched.min()) < 6
    for i in range(6, 9):
        step(raw(SMALL, i), control(i))

    again = Toy(SMALL)
    other = again.sparse(plain)
    for name, tensor in again.state.tensors.items():
        tensor.copy_(saved[name])
    other.restored(touched)
    for i in range(6, 9):
        other(raw(SMALL, i), control(i))
    for name, tensor in whole.state.tensors.items():
        assert torch.equal(again.state.tensors[name], tensor), name

    dense = Toy(SMALL)
    for name, tensor in dense.state.tensors.items():
        tensor.copy_(saved[name])
    plain_step = dense.sparse(plain)
    plain_step.restored(touched)
    settled(dense, plain_step, 6)
    plain_step.restored(6)
    for i in range(6, 9):
        plain_step(raw(SMALL, i), control(i))
    for name, tensor in whole.state.plain.items():
        torch.testing.assert_close(dense.state.plain[name], tensor, atol=1e-5, rtol=1e-4)


def test_feature_rows_are_the_same_parameters_held_otherwise() -> None:
    toy = Toy(SMALL)
    rows = feature_rows(toy.state.parameters)
    assert rows["W_enc"].T.is_contiguous()
    assert rows["W_enc"].is_leaf
    assert rows["W_enc"].requires_grad
    assert torch.equal(rows["W_enc"], toy.state.parameters["W_enc"])
    assert State.of(rows).second["W_enc"].T.is_contiguous()
    assert State.of(rows, beta1=0.9).first["W_enc"].T.is_contiguous()
