"""Gated, TopK and ReLU losses: gradients by finite differences, folding, what revives the dead."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sae_core.config import Architecture, SAEConfig
from sae_core.jumprelu import kernel_density
from training.losses import (
    AutogradLoss,
    Batch,
    Extras,
    GatedLoss,
    JumpReLULoss,
    Parameters,
    Penalty,
    ReLULoss,
    TopKLoss,
)
from training.recipes import RECIPES
from training.trained_form import folded, initial_parameters

D_MODEL, D_SAE, BATCH = 6, 10, 16
SCALE, TARGET, LAMBDA = 3.0, 4.0, 0.3
DEAD_AFTER = 1_000.0
AUX_WEIGHT = 1 / 32  # as published
WEIGHTS = ("W_enc", "W_dec", "b_dec")

LOSSES: dict[Architecture, Callable[[], AutogradLoss]] = {
    "jumprelu": lambda: JumpReLULoss(bandwidth=0.2, targeted=False),
    "gated": lambda: GatedLoss(targeted=False),
    "topk": lambda: TopKLoss(k=3, dead_tokens=DEAD_AFTER),
    "standard": lambda: ReLULoss(targeted=False),
}


def _parameters(architecture: Architecture) -> Parameters:
    """Parameters away from their start, decoder rows of many norms where those are free."""
    generator = torch.Generator().manual_seed(1)
    recipe = RECIPES[architecture]
    p = initial_parameters(D_MODEL, D_SAE, 0.1, 0, recipe=recipe)
    with torch.no_grad():
        for name, tensor in p.items():
            tensor.add_(0.2 * torch.rand(tensor.shape, generator=generator))
            if name != "threshold":
                tensor.add_(-0.1 + 0.1 * torch.randn(tensor.shape, generator=generator))
        if recipe.rule.unit_norm:
            p["W_dec"] /= p["W_dec"].norm(dim=1, keepdim=True)
    return p


def _raw() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return SCALE * (0.2 + torch.randn(BATCH, D_MODEL, generator=generator)) / D_MODEL**0.5


def _since_fired() -> Tensor:
    """Features 0 to 3 are dead."""
    return torch.where(torch.arange(D_SAE) < 4, DEAD_AFTER, 0.0)


def _penalty(multiplier: float = 0.0) -> Penalty:
    return Penalty(torch.tensor(LAMBDA), torch.tensor(TARGET), torch.tensor(multiplier))


def _batch(penalty: Penalty | None = None, since_fired: Tensor | None = None) -> Batch:
    return Batch(
        raw=_raw(),
        scale=torch.tensor(SCALE),
        mean=torch.zeros(D_MODEL),
        penalty=penalty or _penalty(),
        tokens_since_fired=since_fired,
    )


def _plain(architecture: Architecture, p: Parameters) -> Tensor:
    """The losses as their docstrings have them, in float64, for finite differences.

    `frozen` are the quantities that a loss holds constant.
    """
    frozen = {name: t.double().detach() for name, t in _parameters(architecture).items()}
    x = _raw().double() / SCALE
    z = (x - p["b_dec"]) @ p["W_enc"]
    norms = p["W_dec"].norm(dim=1)

    def squared(error: Tensor) -> Tensor:
        return error.square().sum() / BATCH

    if architecture == "gated":
        gate = z + p["b_gate"]
        acts = (gate > 0) * (p["r_mag"].exp() * z + p["b_mag"]).relu()
        by_gate = gate.relu() @ p["W_dec"] + p["b_dec"]
        sparsity = LAMBDA * (gate.relu() * norms).sum() / BATCH
        recon = acts @ p["W_dec"] + p["b_dec"]
        return squared(x - recon) + sparsity + squared(x - by_gate)
    z = z + p["b_enc"]
    if architecture == "standard":
        recon = z.relu() @ p["W_dec"] + p["b_dec"]
        return squared(x - recon) + LAMBDA * (z.relu() * norms).sum() / BATCH
    if architecture == "topk":
        rank = z.argsort(dim=1, descending=True).argsort(dim=1)
        recon = ((rank < 3) * z.relu()) @ p["W_dec"] + p["b_dec"]
        first = (x - frozen["b_dec"]) @ frozen["W_enc"] + frozen["b_enc"]
        ranked = first.argsort(dim=1, descending=True).argsort(dim=1)
        left = x - ((ranked < 3) * first.relu()) @ frozen["W_dec"] - frozen["b_dec"]
        dead = torch.where(torch.arange(D_SAE) < 4, z.relu(), 0.0)
        rank = dead.argsort(dim=1, descending=True).argsort(dim=1)
        guess = ((rank < D_MODEL // 2) * dead) @ p["W_dec"]
        spread = (left - left.mean(dim=0)).square().sum()
        return squared(x - recon) + AUX_WEIGHT * (left - guess).square().sum() / spread
    recon = (z * (z > frozen["threshold"])) @ p["W_dec"] + p["b_dec"]
    return squared(x - recon)


@pytest.mark.parametrize("architecture", LOSSES)
def test_gradients_are_those_of_finite_differences(architecture: Architecture) -> None:
    parameters = _parameters(architecture)
    batch = _batch(since_fired=_since_fired())
    result, stats = LOSSES[architecture]().gradients(parameters, batch)
    wide = {name: t.detach().double() for name, t in parameters.items()}
    assert result.keys() == wide.keys()
    if architecture != "jumprelu":  # whose L0 the plain formula leaves out
        assert float(stats.scalars[0]) == pytest.approx(float(_plain(architecture, wide)), rel=1e-5)
    step = 1e-6
    for name, tensor in wide.items():
        if name == "threshold":  # see test_training_losses
            continue
        expected = torch.zeros_like(tensor)
        for i in range(tensor.numel()):
            before = float(tensor.view(-1)[i])
            sides = []
            for at in (before + step, before - step):
                tensor.view(-1)[i] = at
                sides.append(float(_plain(architecture, wide)))
            tensor.view(-1)[i] = before
            expected.view(-1)[i] = (sides[0] - sides[1]) / (2 * step)
        assert expected.abs().max() > 1e-3, name
        torch.testing.assert_close(result[name].double(), expected, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("architecture", LOSSES)
def test_folded_sae_does_to_raw_input_what_was_trained(architecture: Architecture) -> None:
    parameters = _parameters(architecture)
    with torch.no_grad():  # free norms, which every architecture but TopK may have
        if architecture != "topk":
            parameters["W_dec"] *= 0.5 + torch.rand(D_SAE, 1)
    raw = _raw()
    _, stats = LOSSES[architecture]().gradients(parameters, _batch())
    k = 3 if architecture == "topk" else None
    cfg = SAEConfig(architecture=architecture, d_model=D_MODEL, d_sae=D_SAE, k=k)
    sae = folded(parameters, SCALE, cfg)
    with torch.no_grad():
        acts = sae.encode(raw)
        assert torch.equal((acts > 0).float().sum(dim=0), stats.active)
        assert 0.05 < (acts > 0).float().mean() < 0.95
        error = (raw - sae(raw)).square().sum() / SCALE**2
    assert float(error) == pytest.approx(float(stats.scalars[1]), rel=1e-4)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE))


@pytest.mark.parametrize("architecture", ["gated", "standard"])
def test_gradients_do_not_prefer_a_scale_of_latents(architecture: Architecture) -> None:
    """Longer decoder rows with as much shorter encoder rows and biases are the same SAE: that way
    the gradients are 0. Were a part of the loss to hold the decoder constant and another not, one
    would shrink it without end.
    """
    parameters = _parameters(architecture)
    result, _ = LOSSES[architecture]().gradients(parameters, _batch())
    along = {name: (result[name] * p.detach()) for name, p in parameters.items()}
    shorter = sum(along[name] for name in ("b_gate", "b_mag", "b_enc") if name in along)
    shorter = along["W_enc"].sum(dim=0) + shorter
    longer = along["W_dec"].sum(dim=1)
    assert longer.abs().max() > 0.01
    torch.testing.assert_close(longer, shorter, atol=1e-5, rtol=1e-4)


def test_nothing_is_revived_where_nothing_is_dead_or_left() -> None:
    loss = TopKLoss(k=D_SAE, dead_tokens=DEAD_AFTER)
    parameters = _parameters("topk")
    _, none = loss.gradients(parameters, _batch(since_fired=torch.zeros(D_SAE)))
    _, unasked = loss.gradients(parameters, _batch())
    assert float(none.scalars[0]) == float(unasked.scalars[0])
    # A perfect reconstruction: all inputs are b_dec, and no pre-activation is positive.
    with torch.no_grad():
        parameters["b_enc"].fill_(-1.0)
        parameters["b_dec"].fill_(0.5)
    raw = torch.full((BATCH, D_MODEL), 0.5)
    batch = replace(_batch(since_fired=_since_fired()), raw=raw, scale=torch.tensor(1.0))
    result, stats = loss.gradients(parameters, batch)
    assert float(stats.scalars[0]) == 0
    assert all(bool(g.isfinite().all()) for g in result.values())


def test_auxk_moves_dead_features_alone() -> None:
    parameters = _parameters("topk")
    with torch.no_grad():
        parameters["b_enc"][:4] = -0.2  # positive now and then, never among the largest
        parameters["b_enc"][4:] += 2
    loss = TopKLoss(k=3, dead_tokens=DEAD_AFTER)
    without, _ = loss.gradients(parameters, _batch())
    revived, _ = loss.gradients(parameters, _batch(since_fired=_since_fired()))
    assert not without["W_dec"][:4].any()
    assert revived["W_dec"][:4].any()
    assert torch.equal(without["W_dec"][4:], revived["W_dec"][4:])


def test_a_steered_lambda_grows_with_the_l0() -> None:
    parameters = _parameters("standard")
    linear, stats = LOSSES["standard"]().gradients(parameters, _batch())
    l0 = float(stats.active.sum()) / BATCH
    penalty = _penalty(0.7)._replace(target=torch.tensor(l0 / 1.5))
    steered, _ = ReLULoss(targeted=True).gradients(parameters, _batch(penalty))
    none = _penalty()._replace(coefficient=torch.tensor(0.0))
    free, _ = ReLULoss(targeted=False).gradients(parameters, _batch(none))
    factor = torch.tensor(0.5 + 0.7).exp()
    for name in WEIGHTS:
        by_lambda = linear[name] - free[name]
        torch.testing.assert_close(
            steered[name] - free[name], factor * by_lambda, rtol=1e-3, atol=1e-5
        )


def _jumprelu(extras: Extras, penalty: Penalty, targeted: bool = False) -> Parameters:
    loss = JumpReLULoss(bandwidth=0.2, targeted=targeted, extras=extras)
    return loss.gradients(_parameters("jumprelu"), _batch(penalty))[0]


@pytest.mark.parametrize("targeted", [False, True])
def test_frequency_penalty_by_hand(targeted: bool) -> None:
    penalty = _penalty(0.6)
    with_it = _jumprelu(Extras(frequency=0.1), penalty, targeted)
    without = _jumprelu(Extras(), penalty, targeted)
    p = {name: t.detach() for name, t in _parameters("jumprelu").items()}
    z = (_raw() / SCALE - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    on = (z > p["threshold"]).float()
    e = on.sum() / BATCH / TARGET - 1
    slope = LAMBDA * (2 * e + 0.6) / TARGET if targeted else torch.tensor(LAMBDA)
    assert float(slope) > 0
    density = kernel_density((z - p["threshold"]) / 0.2).sum(dim=0) / 0.2 / BATCH
    expected = -slope * 2 * on.mean(dim=0) / 0.1 * density
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(
        with_it["threshold"] - without["threshold"], expected, atol=1e-5, rtol=1e-3
    )
    for name in WEIGHTS:
        assert torch.equal(with_it[name], without[name])


def test_anthropics_penalties_by_hand() -> None:
    penalty = _penalty()
    none = _jumprelu(Extras(tanh=4.0), penalty._replace(coefficient=torch.tensor(0.0)))
    pre = _jumprelu(Extras(tanh=4.0, pre_act=0.5), penalty._replace(coefficient=torch.tensor(0.0)))
    tanh = _jumprelu(Extras(tanh=4.0), penalty)
    p = {name: t.detach() for name, t in _parameters("jumprelu").items()}
    z = (_raw() / SCALE - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    on, norms, root = z > p["threshold"], p["W_dec"].norm(dim=1), D_MODEL**0.5
    below = (z < p["threshold"]).float() * norms
    expected = -0.5 / root * below.sum(dim=0) / BATCH
    torch.testing.assert_close(pre["b_enc"] - none["b_enc"], expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(
        pre["threshold"] - none["threshold"], -expected, atol=1e-5, rtol=1e-3
    )
    slope = 1 - (4 * root * z * on * norms).tanh().square()
    expected = LAMBDA * (slope * on * 4 * root * norms).sum(dim=0) / BATCH
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(tanh["b_enc"] - none["b_enc"], expected, atol=1e-5, rtol=1e-3)
