"""Where parameters start, and folding them for inference."""

import pytest
import torch

from sae_core.config import SAEConfig
from training.losses import Batch, JumpReLULoss, Penalty
from training.trained_form import EASE, fitted_start, folded, initial_parameters

SCALE = 7.3


def test_start_is_gemma_scopes() -> None:
    p = initial_parameters(24, 96, 0.001, seed=5)
    torch.testing.assert_close(p["W_dec"].norm(dim=1), torch.ones(96))
    assert torch.equal(p["W_enc"], p["W_dec"].T)
    assert p["W_enc"].is_contiguous()
    assert not p["b_enc"].any()
    assert not p["b_dec"].any()
    assert torch.equal(p["threshold"].detach(), torch.full((96,), 0.001))
    assert all(t.requires_grad and t.is_leaf and t.dtype == torch.float32 for t in p.values())
    again, other = initial_parameters(24, 96, 0.001, 5), initial_parameters(24, 96, 0.001, 6)
    assert torch.equal(p["W_dec"], again["W_dec"])
    assert not torch.equal(p["W_dec"], other["W_dec"])


@pytest.mark.parametrize("d_sae", [512, 1_024])
def test_fitted_start_is_as_near_as_its_directions_allow(d_sae: int) -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(256, generator=generator)
    mean *= 0.6**0.5 / mean.norm()
    x = mean + 0.4**0.5 * torch.randn(1_000, 256, generator=generator) / 16
    with torch.no_grad():
        p = initial_parameters(256, d_sae, 0, seed=1, mean=mean)
        assert torch.equal(p["b_dec"], mean)
        assert len(p["threshold"].unique()) == 1
        rest = x - p["b_dec"]
        z = rest @ p["W_enc"]
        result = (z * (z > p["threshold"] / EASE)) @ p["W_dec"]
    along = (result * rest).sum() / rest.square().sum()
    assert float(along) == pytest.approx(0.5, abs=0.03)
    # Nothing else than what W_enc starts at is nearer to the input.
    best = (result * rest).sum() / result.square().sum()
    assert float(best) == pytest.approx(1, abs=0.15)


def test_fitted_start_is_never_below_0() -> None:
    # With fewer than 2 d_model features, all that is positive is not too much.
    threshold, factor = fitted_start(24, 40, 1.0)
    assert threshold == pytest.approx(0, abs=1e-9)
    assert factor == pytest.approx(1 / (40 / 48 + 1))
    assert fitted_start(24, 96, 0.0)[0] == 0
    p = initial_parameters(24, 40, 0, seed=0, mean=torch.zeros(24))
    assert bool((p["threshold"] > 0).all())


def test_folded_sae_does_to_raw_input_what_was_trained_on_scaled_input() -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = initial_parameters(24, 96, 0.05, seed=0)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "b_dec"):
            noise = torch.randn(parameters[name].shape, generator=generator)
            parameters[name].add_(0.1 * noise)
        parameters["threshold"].add_(0.1 * torch.rand(96, generator=generator))
    raw = SCALE * torch.randn(200, 24, generator=generator) / 24**0.5
    p = {name: tensor.detach().double() for name, tensor in parameters.items()}
    x = raw.double() / SCALE
    z = (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    active = z > p["threshold"]
    recon = (z * active) @ p["W_dec"] + p["b_dec"]

    sae = folded(parameters, SCALE, SAEConfig(architecture="jumprelu", d_model=24, d_sae=96))
    with torch.no_grad():
        acts = sae.encode(raw)
        assert torch.equal(acts > 0, active)
        assert 0.1 < active.double().mean() < 0.9
        torch.testing.assert_close(acts.double(), SCALE * z * active, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(sae(raw).double(), SCALE * recon, atol=1e-4, rtol=1e-4)


def test_folded_sae_has_the_error_that_the_loss_reports() -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = initial_parameters(24, 96, 0.05, seed=0)
    raw = SCALE * torch.randn(200, 24, generator=generator) / 24**0.5
    penalty = Penalty(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.0))
    batch = Batch(raw=raw, scale=torch.tensor(SCALE), mean=torch.zeros(24), penalty=penalty)
    loss, _ = JumpReLULoss(bandwidth=0.1).forward(parameters, batch)
    sae = folded(parameters, SCALE, SAEConfig(architecture="jumprelu", d_model=24, d_sae=96))
    with torch.no_grad():
        error = (raw - sae(raw)).square().sum(dim=1).mean() / SCALE**2
    assert float(loss.detach()) == pytest.approx(float(error), rel=1e-4)
