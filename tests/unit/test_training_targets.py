"""An L0 that is asked for is reached, by every architecture and penalty, within 3 %."""

import pytest
import torch
from torch import Tensor

from sae_core.config import Architecture
from training.assembly import make_trainers
from training.losses import steered, unchanged
from training.losses.base import Limits
from training.optim import controls
from training.train_config import LossOptions, TrainConfig

D_MODEL, TRUE, BATCH = 16, 32, 128
FOUND: dict[str, LossOptions] = {
    "plain": LossOptions(target_coefficient=3.0),
    "weak": LossOptions(target_coefficient=0.5),
    "frequency": LossOptions(target_coefficient=3.0, frequency_scale=0.1),
    "free": LossOptions(target_coefficient=3.0, decoder="free"),
    "tanh": LossOptions(tanh_scale=4.0, pre_act=3e-6, decoder="free"),
}


def _batches(generator: torch.Generator) -> Tensor:
    """Sums of a few of more directions than dimensions, some of them much more frequent."""
    directions = torch.randn(TRUE, D_MODEL, generator=torch.Generator().manual_seed(9))
    directions /= directions.norm(dim=1, keepdim=True)
    frequency = 0.8 / torch.arange(1, TRUE + 1) ** 0.7
    on = torch.rand(BATCH, TRUE, generator=generator) < frequency
    return (on * (1 + torch.rand(BATCH, TRUE, generator=generator))) @ directions


def _reached(
    architecture: Architecture, loss: LossOptions, targets: tuple[float, ...], steps: int = 1_000
) -> list[float]:
    """L0 over the last tenth of a run, for each target."""
    cfg = TrainConfig(
        model="m",
        corpus=("c.txt",),
        sites=("resid_post/0",),
        architectures=(architecture,),
        d_sae=48,
        out="o",
        l0_targets=targets,
        bandwidth=0.03,
        threshold_init=0.03,
        lrs=(5e-3,),
        lr_warmup=20,
        lr_decay=0.9,
        sparsity_warmup=0.2,
        batch=BATCH,
        tokens=steps * BATCH,
        loss=loss,
    )
    generator = torch.Generator().manual_seed(0)
    sample = torch.cat([_batches(generator) for _ in range(20)])
    scale = float(sample.square().sum(dim=1).mean().sqrt())
    moments = {plan.site: (scale, sample.mean(dim=0)) for plan in cfg.plans}
    trainers = make_trainers(cfg, moments, torch.float32, unchanged)
    table = controls(cfg, cfg.lrs)[:, 0]
    last = steps // 10
    for step in range(steps):
        raw = _batches(generator)
        for trainer in trainers:
            if step == steps - last:
                trainer.measured(step, BATCH, step * BATCH)
            trainer.step(raw, table[step])
    return [trainer.measured(last, BATCH, steps * BATCH)["l0"] for trainer in trainers]


@pytest.mark.parametrize("loss", FOUND.values(), ids=FOUND)
def test_jumprelu_reaches_its_targets(loss: LossOptions) -> None:
    result = _reached("jumprelu", loss, (3, 6))
    assert result == pytest.approx([3, 6], rel=0.03)


@pytest.mark.parametrize("architecture", ["gated", "standard"])
def test_lambda_is_steered_to_the_targets(architecture: Architecture) -> None:
    result = _reached(architecture, LossOptions(), (3, 6))
    assert result == pytest.approx([3, 6], rel=0.03)


def test_topk_keeps_k() -> None:
    assert _reached("topk", LossOptions(dead_after=1_000), (3,), 200) == pytest.approx(
        [3], rel=0.01
    )


def test_the_multiplier_waits_for_the_warm_up_and_keeps_its_limits() -> None:
    limits = Limits(most=0.1, bound=1.0)

    def after(m: float, l0: float, share: float, gain: float = 0.5) -> float:
        multiplier, l0_, target, gain_, share_ = torch.tensor([m, l0, 10.0, gain, share])
        return float(steered(multiplier, l0_, target, gain_, share_, limits))

    assert after(0.2, 50, share=0.99) == pytest.approx(0.2)
    assert after(0.2, 10.2, share=1) == pytest.approx(0.2 + 0.5 * 0.02)
    assert after(0.2, 9.8, share=1) == pytest.approx(0.2 - 0.5 * 0.02)
    assert after(0.2, 5_000, share=1) == pytest.approx(0.2 + 0.5 * 0.1)
    assert after(0.99, 5_000, share=1) == 1
    assert after(-0.99, 0, share=1) == -1
    assert after(0.0, 5_000, share=1, gain=0) == 0
