"""The comparison of architectures: its batched step against the trainer's, and its verdicts."""

import pytest
import torch

from benchmarks.paper.kinds import ARCHITECTURES, Kind, Length, train
from tests.unit.test_paper_arms import activations
from training.assembly import make_loss, rule, sparsity_control
from training.losses.base import unchanged
from training.optim import BETA2, rate_share, sparsity_share
from training.recipes import RECIPES
from training.step import DenseStep, Setting, State
from training.trained_form import initial_parameters

LENGTH = Length(d_sae=24, batch=32, steps=40)
RAW = {"resid_post/0": activations(1280), "mlp_out/0": activations(1280).flip(0) * 2 - 0.5}


def kind(architecture: str, target: int = 4, lr: float = 0.01, **more: object) -> Kind:
    settings = {"site": "resid_post/0", "seed": 3, "epsilon": 0.1} | more
    return Kind(architecture=architecture, target=target, lr=lr, **settings)  # pyright: ignore


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_kind_takes_the_trainers_steps(architecture: str) -> None:
    """Other sites, targets, rates and seeds side by side, with dead features on the way."""
    kinds = [
        kind(architecture),
        kind(architecture, target=6, seed=5),
        kind(architecture, site="mlp_out/0", lr=0.02),
    ]
    trained = train(kinds, LENGTH, RAW)
    for k, each in enumerate(kinds):
        cfg = LENGTH.config(each)
        (plan,) = cfg.plans
        raw = RAW[each.site]
        scale, mean = trained.scales[k], raw.mean(0)
        recipe = RECIPES[each.architecture]
        start = initial_parameters(8, 24, 0.0, each.seed, "cpu", recipe, mean / scale)
        before = {name: p.detach().clone() for name, p in start.items()}
        coefficient, gain = sparsity_control(cfg, plan)
        each_rule = rule(cfg, plan)
        state = State.of(start, each_rule.beta1)
        loss = make_loss(cfg, plan, torch.float32, unchanged)
        constants = [torch.tensor(v) for v in (coefficient, float(each.target), gain)]
        setting = Setting(torch.tensor(scale), mean / scale, *constants)
        step = DenseStep(state, loss, setting, rule=each_rule)
        order = torch.randperm(1280, generator=torch.Generator().manual_seed(each.seed))
        for at, tokens in enumerate(order.split(LENGTH.batch)):
            share = (each.lr * rate_share(cfg, at), sparsity_share(cfg, at))
            control = torch.tensor([*share, 1 - BETA2 ** (at + 1), at + 1.0])
            step(raw[tokens], control)
        for name, mine in trained.parameters.items():
            assert torch.allclose(mine[k], state.plain[name], rtol=2e-3, atol=5e-5), (k, name)
        assert not torch.allclose(state.plain["W_dec"], before["W_dec"], atol=1e-2)
        multiplier = float(trained.moving["multiplier"][k])
        assert multiplier == pytest.approx(float(state.multiplier), abs=1e-4)
        since = trained.moving["tokens_since_fired"][k]
        assert torch.equal(since, state.totals["tokens_since_fired"])
