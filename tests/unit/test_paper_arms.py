"""The batched training step of the studies against the trainer's, and its kernels."""

import math

import pytest
import torch
from torch import Tensor

from benchmarks.paper.arms import LIMITS, Arm, Size, begin, schedule, take_step, train
from benchmarks.paper.shapes import SHAPES, density
from sae_core.jumprelu import KERNELS, kernel_density
from training.assembly import rule, sparsity_control
from training.losses import JumpReLULoss
from training.step import DenseStep, Setting, State
from training.trained_form import initial_parameters

SIZE = Size(d_sae=24, batch=32, steps=40)


def activations(tokens: int) -> Tensor:
    """Sums of three of sixteen directions, not centred."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(16, 8, generator=generator)
    chosen = torch.rand(tokens, 16, generator=generator).argsort(1)[:, :3]
    strength = torch.rand(tokens, 3, 1, generator=generator) + 0.5
    return (directions[chosen] * strength).sum(1) + 0.3


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_first_four_kernels_are_the_librarys(kernel: str) -> None:
    u = torch.linspace(-1.2, 1.2, 97)
    assert torch.allclose(density(u, SHAPES[kernel]), kernel_density(u, kernel), atol=1e-6)  # pyright: ignore[reportArgumentType]


def test_the_fourth_order_kernel_has_mass_1_and_no_second_moment() -> None:
    u = torch.linspace(-4, 4, 40_001, dtype=torch.float64)
    k = density(u, SHAPES["fourth_order"])
    assert float(torch.trapezoid(k, u)) == pytest.approx(1, abs=1e-6)
    assert float(torch.trapezoid(k * u**2, u)) == pytest.approx(0, abs=1e-6)
    assert float(k.min()) < 0


def test_each_arm_takes_the_trainers_steps() -> None:
    """Other targets, bandwidths, kernels and rates side by side; weights, multiplier and tokens
    since the last activity are the trainer's after 40 steps.
    """
    arms = [
        Arm(target=4, epsilon=0.05),
        Arm(target=6, epsilon=0.2, kernel="gaussian"),
        Arm(target=4, epsilon=0.1, kernel="triangular", lr=0.02),
    ]
    raw = activations(SIZE.batch * SIZE.steps)
    group = train(arms, SIZE, 3, raw)
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(3))
    moved = False
    for k, arm in enumerate(arms):
        cfg = SIZE.config([arm], 3)
        (plan,) = cfg.plans
        scale, mean = group.scale, raw.mean(0)
        start = initial_parameters(8, SIZE.d_sae, 0.0, 3, mean=mean / scale)
        coefficient, gain = sparsity_control(cfg, plan)
        state = State.of(start, 0.9)
        loss = JumpReLULoss(bandwidth=arm.epsilon, kernel=arm.kernel)  # pyright: ignore[reportArgumentType]
        assert loss.limits == LIMITS
        constants = [torch.tensor(v) for v in (coefficient, arm.target, gain)]
        setting = Setting(torch.tensor(scale), mean / scale, *constants)
        step = DenseStep(state, loss, setting, rule=rule(cfg, plan))
        for at, tokens in enumerate(order.split(SIZE.batch)):
            share, *rest = schedule(cfg, torch.device("cpu"))[at]
            step(raw[tokens], torch.stack([arm.lr * share, *rest]))
        for name, mine in group.parameters.items():
            theirs = state.plain[name]
            assert torch.allclose(mine[k], theirs, rtol=2e-3, atol=2e-5), (arm, name)
            moved = moved or not torch.allclose(theirs, initial(name, cfg, mean, scale), atol=1e-2)
        assert float(group.moving["multiplier"][k]) == pytest.approx(
            float(state.multiplier), abs=1e-4
        )
        assert torch.equal(
            group.moving["tokens_since_fired"][k], state.totals["tokens_since_fired"]
        )
    assert moved


def initial(name: str, cfg: object, mean: Tensor, scale: float) -> Tensor:
    return initial_parameters(8, SIZE.d_sae, 0.0, 3, mean=mean / scale)[name].detach()


def test_a_relative_bandwidth_is_in_each_features_own_deviations() -> None:
    """Where every feature has one deviation s, a relative bandwidth of e / s is e."""
    raw = activations(64)
    size = Size(d_sae=24, batch=64, steps=1)
    probe = train([Arm(target=4, epsilon=0.1)], size, 0, raw)
    deviation = probe.moving["variance"].sqrt()[0]
    for k in (0, 7):
        value = 0.1 / float(deviation[k])
        arms = [Arm(target=4, epsilon=0.1), Arm(target=4, epsilon=value, relative=True)]
        group = train(arms, size, 0, raw)
        after = group.second["threshold"]
        assert float(after[0, k]) == pytest.approx(float(after[1, k]), rel=1e-3)


def test_a_tokens_own_jump_is_what_switching_the_feature_changes() -> None:
    """The threshold's gradient against differences of the loss, in a window of one token."""
    raw = activations(1)
    size = Size(d_sae=1, batch=1, steps=1)
    arm = Arm(target=1, epsilon=50.0, own_jump=True)
    group = begin([arm], size, 0, 1.0, torch.zeros(8))
    control = schedule(size.config([arm], 0), torch.device("cpu"))[0]
    p = {name: each[0].clone() for name, each in group.parameters.items()}
    z = (raw - p["b_dec"]) @ p["W_enc"] + p["b_enc"]

    def squared_error(on: bool) -> float:
        return float((raw - on * z @ p["W_dec"] - p["b_dec"]).square().sum())

    take_step(
        group.parameters,
        group.first,
        group.second,
        group.constant,
        group.moving,
        raw,
        control,
        rule=group.rule,
        coefficient=0.0,
        gain=0.0,
        products=torch.float32,
    )
    gradient = float(group.first["threshold"]) / (1 - group.rule.beta1)
    assert gradient == pytest.approx((squared_error(False) - squared_error(True)) / 50, rel=1e-4)
    assert not math.isclose(gradient, 0)
