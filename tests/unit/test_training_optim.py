"""The update: Adam, unit norms, positive thresholds, schedules."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from sae_core.config import Site
from training.losses import JumpReLULoss
from training.optim import controls, rate_share, remove_parallel, update
from training.recipes import Rule
from training.sae_trainer import SAETrainer
from training.train_config import Plan, TrainConfig
from training.trained_form import initial_parameters

BETA2, EPS = 0.999, 1e-8  # as published

CONFIG = TrainConfig(
    model="m",
    corpus=("c.txt",),
    sites=("resid_post/0",),
    d_sae=8,
    out="o",
    lambdas=(1e-3,),
    lrs=(1e-2, 1e-3),
    lr_warmup=10,
    lr_decay=0.2,
    sparsity_warmup=0.25,
    batch=10,
    tokens=1_000,
)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_update_is_torch_adam_without_a_first_moment() -> None:
    generator = _generator()
    start = torch.randn(6, 5, generator=generator)
    reference = start.clone().requires_grad_()
    adam = torch.optim.Adam([reference], lr=0.01, betas=(0.0, BETA2), eps=EPS)
    ours, second = {"W_enc": start.clone()}, {"W_enc": torch.zeros_like(start)}
    for step in range(20):
        gradient = torch.randn(6, 5, generator=generator)
        gradient[0] = 0  # a feature that was silent must not move
        reference.grad = gradient
        adam.step()
        control = torch.tensor([0.01, 1.0, 1 - BETA2 ** (step + 1), 0.0])
        update(ours, {"W_enc": gradient}, second, control)
    torch.testing.assert_close(ours["W_enc"], reference.detach(), atol=1e-6, rtol=1e-5)
    assert torch.equal(ours["W_enc"][0], start[0])


def test_first_moment_is_torch_adams() -> None:
    generator = _generator()
    start = torch.randn(6, 5, generator=generator)
    reference = start.clone().requires_grad_()
    adam = torch.optim.Adam([reference], lr=0.01, betas=(0.9, BETA2), eps=EPS)
    ours = {"W_enc": start.clone()}
    second, first = ({"W_enc": torch.zeros_like(start)} for _ in range(2))
    for step in range(20):
        reference.grad = torch.randn(6, 5, generator=generator)
        adam.step()
        control = torch.tensor([0.01, 1.0, 1 - BETA2 ** (step + 1), step + 1.0])
        update(ours, {"W_enc": reference.grad}, second, control, Rule(beta1=0.9), first)
    torch.testing.assert_close(ours["W_enc"], reference.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("norm", [0.5, 4.0])
def test_gradients_are_clipped_together(norm: float) -> None:
    gradients = {"W_enc": torch.tensor([[3.0, 0.0]]), "b_enc": torch.tensor([0.0, 4.0])}
    gradients = {name: norm / 5 * g for name, g in gradients.items()}
    second = {name: torch.zeros_like(g) for name, g in gradients.items()}
    ours = {name: torch.zeros_like(g) for name, g in gradients.items()}
    update(ours, gradients, second, torch.tensor([0.1, 1.0, 0.001, 1.0]), Rule(clip=1.0))
    total = sum(float(v.sum()) for v in second.values()) / (1 - BETA2)
    assert total**0.5 == pytest.approx(min(1.0, norm), rel=1e-3)


def test_vectors_have_a_rate_of_their_own() -> None:
    ours = {"W_enc": torch.zeros(2, 3), "b_enc": torch.zeros(3), "threshold": torch.ones(3)}
    ours["b_dec"] = torch.zeros(2)
    gradients = {name: torch.ones_like(p) for name, p in ours.items()}
    second = {name: torch.zeros_like(p) for name, p in ours.items()}
    control = torch.tensor([0.1, 1.0, 1 - BETA2, 1.0])
    update(ours, gradients, second, control, Rule(vector_rate=0.25, b_dec_rate=0.5))
    torch.testing.assert_close(ours["b_dec"], torch.full((2,), -0.05))
    torch.testing.assert_close(ours["W_enc"], torch.full((2, 3), -0.1))
    torch.testing.assert_close(ours["b_enc"], torch.full((3,), -0.025))
    torch.testing.assert_close(ours["threshold"], torch.full((3,), 0.975))


def test_thresholds_of_dead_features_come_down_until_they_are_active() -> None:
    plan = Plan(name="toy", site=Site("resid_post", 0), l0_target=4.0, lambda_=None)
    start = initial_parameters(16, 32, 0.05, seed=0)
    with torch.no_grad():
        start["threshold"][:5] = 3.0  # of inputs of norm 1: never active, and out of the window
    rule = Rule(vector_rate=0.5, revive=2.0, dead_tokens=300)
    loss = JumpReLULoss(bandwidth=0.05)
    trainer = SAETrainer(
        plan, start, loss, coefficient=1.0, scale=4.0, mean=torch.zeros(16), rule=rule
    )
    generator, seen = _generator(), []
    for step in range(90):
        control = torch.tensor([0.05, 1.0, 1 - BETA2 ** (step + 1), step + 1.0])
        trainer.step(torch.randn(100, 16, generator=generator), control)
        seen.append(trainer.parameters["threshold"].detach()[:5].clone())
    assert torch.equal(seen[1], torch.full((5,), 3.0))  # 200 tokens: not dead yet
    for step, powers in ((2, 1), (3, 2), (20, 19)):
        expected = torch.full((5,), 3 * (1 - 2.0 * 0.5 * 0.05) ** powers)
        torch.testing.assert_close(seen[step], expected)
    silent = trainer.measured(90, 100, 9_000)["dead"]
    assert silent == 0


def test_decoder_rows_are_free_where_the_rule_says_so() -> None:
    W_dec, gradient = torch.eye(3), torch.eye(3)
    second = {"W_dec": torch.zeros(3, 3)}
    control = torch.tensor([0.1, 1.0, 0.001, 1.0])
    update({"W_dec": W_dec}, {"W_dec": gradient}, second, control, Rule(unit_norm=False))
    torch.testing.assert_close(W_dec, 0.9 * torch.eye(3))


def test_parallel_component_is_removed() -> None:
    generator = _generator()
    W_dec = torch.randn(7, 4, generator=generator)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    gradient = torch.randn(7, 4, generator=generator)
    left = remove_parallel(gradient, W_dec)
    torch.testing.assert_close((left * W_dec).sum(dim=1), torch.zeros(7), atol=1e-6, rtol=0)
    along = gradient - left
    torch.testing.assert_close(along, (gradient * W_dec).sum(dim=1, keepdim=True) * W_dec)


def _trainer(l0_target: float = 4.0, d_model: int = 16, d_sae: int = 32) -> SAETrainer:
    plan = Plan(name="toy", site=Site("resid_post", 0), l0_target=l0_target, lambda_=None)
    start = initial_parameters(d_model, d_sae, 0.01, seed=0)
    loss = JumpReLULoss(bandwidth=0.05)
    return SAETrainer(plan, start, loss, coefficient=10.0, scale=2.0, mean=torch.zeros(d_model))


def test_norms_and_thresholds_hold_during_training() -> None:
    trainer, generator = _trainer(), _generator()
    for step in range(30):
        control = torch.tensor([0.05, 1.0, 1 - BETA2 ** (step + 1), 0.0])
        trainer.step(torch.randn(64, 16, generator=generator), control)
        p = {name: t.detach() for name, t in trainer.parameters.items()}
        norms = p["W_dec"].norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(32), atol=1e-6, rtol=0)
        assert float(p["threshold"].min()) >= torch.tensor(1e-6)
        assert all(t.dtype == torch.float32 for t in p.values())


def test_second_moment_of_the_decoder_never_sees_the_parallel_part() -> None:
    W_dec = torch.eye(3)
    second = {"W_dec": torch.zeros(3, 3)}
    gradient = 5 * W_dec  # all of it parallel
    update({"W_dec": W_dec}, {"W_dec": gradient}, second, torch.tensor([0.1, 1.0, 0.001, 0.0]))
    assert torch.equal(second["W_dec"], torch.zeros(3, 3))
    assert torch.equal(W_dec, torch.eye(3))


def test_dead_features_are_those_silent_for_the_stated_tokens() -> None:
    trainer = _trainer(d_model=4, d_sae=6)
    with torch.no_grad():
        trainer.parameters["threshold"][2] = 1e3
        trainer.parameters["b_enc"].fill_(100.0)  # all others always active
    still = torch.tensor([0.0, 0.0, 1.0, 0.0])
    for batches in (1, 2):
        trainer.step(torch.randn(50, 4, generator=_generator()), still)
        assert trainer.measured(1, 50, 50 * batches)["dead"] == pytest.approx(1 / 6)
    with torch.no_grad():
        trainer.parameters["threshold"][2] = 0.01
    trainer.step(torch.randn(50, 4, generator=_generator()), still)
    assert trainer.measured(1, 50, 150)["dead"] == 0


def test_tokens_without_variance_have_no_fvu() -> None:
    plan = Plan(name="toy", site=Site("resid_post", 0), l0_target=4.0, lambda_=None)
    start, mean = initial_parameters(16, 32, 0.01, seed=0), torch.full((16,), 0.5)
    trainer = SAETrainer(
        plan, start, JumpReLULoss(bandwidth=0.05), coefficient=1.0, scale=2.0, mean=mean
    )
    control = torch.tensor([0.0, 1.0, 1 - BETA2, 1.0])
    trainer.step(mean.expand(50, -1), control)
    assert math.isnan(trainer.measured(1, 50, 50)["fvu"])
    trainer.step(mean + torch.randn(50, 16, generator=_generator()), control)
    assert 0 < trainer.measured(1, 50, 100)["fvu"] < 10


def test_checkpoints_of_older_runs_are_read() -> None:
    """They have another name for the tokens since a feature fired."""
    trainer, other = _trainer(), _trainer()
    with torch.no_grad():
        trainer.parameters["threshold"][:7] = 1e3  # these do not fire
    trainer.step(torch.randn(50, 16, generator=_generator()), torch.tensor([0.01, 1.0, 0.001, 1.0]))
    since = "totals.tokens_since_fired"
    state = {name: tensor.clone() for name, tensor in trainer.state().items()}
    state["totals.silent"] = state.pop(since)
    assert state["totals.silent"].tolist() == 7 * [50] + 25 * [0]
    other.restore(state, 1)
    for name, tensor in trainer.state().items():
        assert torch.equal(other.state()[name], tensor), name


def test_learning_rate_schedule() -> None:
    rates = [rate_share(CONFIG, t) for t in range(CONFIG.steps)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[5] == pytest.approx(0.55)  # the middle of a cosine
    assert rates[10] == rates[80] == pytest.approx(1)
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(1 / 20)
    assert all(a < b for a, b in itertools.pairwise(rates[:11]))


def test_controls_are_the_schedules() -> None:
    table = controls(CONFIG, CONFIG.lrs)
    assert table.shape == (100, 2, 4)
    high, low = table.unbind(dim=1)
    torch.testing.assert_close(high[:, 0], 10 * low[:, 0])
    assert torch.equal(high[:, 1:], low[:, 1:])
    assert float(high[10, 0]) == pytest.approx(1e-2)
    assert float(high[0, 1]) == 0
    assert float(high[10, 1]) == pytest.approx(0.4)
    assert float(high[25, 1]) == float(high[99, 1]) == 1
    assert float(high[0, 2]) == pytest.approx(1 - BETA2)
    assert high[:, 3].tolist() == list(range(1, 101))
    constant = controls(replace(CONFIG, lr_warmup=0, lr_decay=0, sparsity_warmup=0), [0.5])
    torch.testing.assert_close(constant[:, 0, 0], torch.full((100,), 0.5))
    assert bool((constant[..., 1] == 1).all())
