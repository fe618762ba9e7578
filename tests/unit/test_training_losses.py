"""The training loss: its gradients against plain formulas, its penalties against arithmetic."""

import pytest
import torch
from torch import Tensor

from sae_core.jumprelu import KERNELS, Kernel, kernel_density
from training.losses import (
    Batch,
    BatchStats,
    JumpReLULoss,
    Parameters,
    Penalty,
    l0_penalty,
    target_l0_penalty,
)
from training.trained_form import initial_parameters

D_MODEL, D_SAE, BATCH = 12, 40, 64
SCALE = 3.0
TARGET = 6.0
COEFFICIENT = 0.7
MULTIPLIER = 0.3
BANDWIDTH = 0.2


def _parameters(seed: int = 0) -> Parameters:
    """Parameters away from their symmetric start: every gradient has something to show."""
    generator = torch.Generator().manual_seed(seed)
    parameters = initial_parameters(D_MODEL, D_SAE, 0.1, seed)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "b_dec"):
            noise = torch.randn(parameters[name].shape, generator=generator)
            parameters[name].add_(0.1 * noise)
        parameters["threshold"].add_(0.3 * torch.rand(D_SAE, generator=generator))
    return parameters


def _raw(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return SCALE * (0.3 + torch.randn(BATCH, D_MODEL, generator=generator)) / D_MODEL**0.5


def _penalty(coefficient: float = COEFFICIENT) -> Penalty:
    return Penalty(torch.tensor(coefficient), torch.tensor(TARGET), torch.tensor(MULTIPLIER))


def _batch(coefficient: float = COEFFICIENT, dtype: torch.dtype = torch.float32) -> Batch:
    return Batch(
        raw=_raw().to(dtype),
        scale=torch.tensor(SCALE),
        mean=torch.zeros(D_MODEL),
        penalty=_penalty(coefficient),
    )


def _gradients(
    parameters: Parameters, kernel: Kernel = "rectangle", targeted: bool = True
) -> tuple[Parameters, BatchStats]:
    loss = JumpReLULoss(bandwidth=BANDWIDTH, kernel=kernel, targeted=targeted)
    return loss.gradients(parameters, _batch())


def test_weight_gradients_are_those_of_the_plain_formula() -> None:
    parameters = _parameters()
    result, _ = _gradients(parameters)
    wide = {n: p.detach().double().requires_grad_() for n, p in parameters.items()}
    x = _raw().double() / SCALE
    z = (x - wide["b_dec"]) @ wide["W_enc"] + wide["b_enc"]
    acts = z * (z > wide["threshold"]).detach()
    loss = (x - acts @ wide["W_dec"] - wide["b_dec"]).square().sum(dim=1).mean()
    names = ["W_enc", "b_enc", "W_dec", "b_dec"]
    expected = torch.autograd.grad(loss, [wide[name] for name in names])
    for name, gradient in zip(names, expected, strict=True):
        assert gradient.abs().max() > 0.01
        torch.testing.assert_close(result[name].double(), gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
def test_threshold_gradient_by_hand(kernel: Kernel, targeted: bool) -> None:
    parameters = _parameters()
    result, _ = _gradients(parameters, kernel, targeted)
    p = {n: t.detach().double() for n, t in parameters.items()}
    x = _raw().double() / SCALE
    z = (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    active = (z > p["threshold"]).double()
    error = (z * active) @ p["W_dec"] + p["b_dec"] - x
    d_acts = 2 / BATCH * error @ p["W_dec"].T
    k = kernel_density((z - p["threshold"]) / BANDWIDTH, kernel)
    through_recon = (-(p["threshold"] / BANDWIDTH) * k * d_acts).sum(dim=0)
    l0 = active.sum() / BATCH
    d_l0 = COEFFICIENT * ((2 * (l0 / TARGET - 1) + MULTIPLIER) / TARGET if targeted else 1.0)
    through_penalty = -(d_l0 / BATCH / BANDWIDTH) * k.sum(dim=0)
    expected = through_recon + through_penalty
    assert through_recon.abs().max() > 1e-3
    assert through_penalty.abs().max() > 1e-3
    torch.testing.assert_close(result["threshold"].double(), expected, atol=1e-5, rtol=1e-4)


def test_penalty_reaches_the_threshold_alone() -> None:
    without = JumpReLULoss(bandwidth=BANDWIDTH)
    none, _ = without.gradients(_parameters(), _batch(0.0))
    some, _ = _gradients(_parameters())
    assert not torch.equal(none["threshold"], some["threshold"])
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(none[name], some[name])


def test_penalties() -> None:
    l0 = torch.tensor(48.0)
    penalty = Penalty(torch.tensor(0.5), torch.tensor(32.0), torch.tensor(0.25))
    assert float(l0_penalty(l0, penalty)) == 24.0
    assert float(target_l0_penalty(l0, penalty)) == 0.5 * (0.25 + 0.25 * 0.5)


def test_statistics_count_the_batch() -> None:
    parameters = _parameters()
    _, stats = _gradients(parameters)
    p = {n: t.detach() for n, t in parameters.items()}
    x = _raw() / SCALE
    z = (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    active = z > p["threshold"]
    squared = (x - (z * active) @ p["W_dec"] - p["b_dec"]).square().sum()
    l0 = active.sum() / BATCH
    loss, error, spread = stats.scalars
    torch.testing.assert_close(error, squared)
    e = l0 / TARGET - 1
    torch.testing.assert_close(loss, squared / BATCH + COEFFICIENT * (e.square() + MULTIPLIER * e))
    torch.testing.assert_close(spread, x.square().sum())
    assert torch.equal(stats.active, active.sum(dim=0).float())
    near = (z - p["threshold"]).abs() < BANDWIDTH / 2
    assert torch.equal(stats.in_window, near.sum(dim=0).float())


def test_bfloat16_products_leave_sums_and_gradients_in_float32() -> None:
    loss = JumpReLULoss(bandwidth=BANDWIDTH, products=torch.bfloat16)
    parameters = _parameters()
    result, stats = loss.gradients(parameters, _batch(dtype=torch.bfloat16))
    exact, _ = _gradients(parameters)
    assert all(t.dtype == torch.float32 for t in (*result.values(), *stats))
    for name in ("W_enc", "W_dec", "b_dec"):
        # 2^-8 is bfloat16's spacing; a hundred terms, and thresholds crossed by rounding, add up.
        error = (result[name] - exact[name]).norm() / exact[name].norm()
        assert 0 < error < 0.05, name
