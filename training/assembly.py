"""From the settings of a run to its SAEs: the loss, the start and the penalty of each `Plan`."""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sae_core.config import Architecture
from training.losses import Extras, GatedLoss, JumpReLULoss, Loss, ReLULoss, TopKLoss
from training.losses.base import FeatureLoss
from training.recipes import RECIPES, Rule
from training.sae_trainer import SAETrainer
from training.shard import ALONE, Shard
from training.sparse_step import applies
from training.step import MAX_TOKENS_SINCE_FIRED
from training.train_config import Plan, TrainConfig
from training.trained_form import initial_parameters

log = logging.getLogger(__name__)

SETTLE = 0.02
"""Share of the run in which the multiplier makes up for most of a steady distance from the target.
Short against the run, so that it is over long before the end; long against the some hundred steps
that the L0 needs to answer."""
FEWEST_SETTLING = 50
"""Fewest steps of that."""
TANH_LAMBDA = 0.005
"""Where lambda starts that is steered under a tanh penalty: about 10 / d_model at 2,304."""

SPARSE_FROM: dict[Architecture, int] = {
    "jumprelu": 8_192,
    "topk": 8_192,
    "gated": 32_768,
    "standard": 32_768,
}
"""Features of a process from which on the sparse step is the faster one: below, its many small
kernels take longer to start than they save."""

Compiler = Callable[[Callable[..., Any]], Any]


def make_trainers(
    cfg: TrainConfig,
    moments: dict[Any, tuple[float, Tensor]],
    products: torch.dtype,
    compiler: Compiler,
    shard: Shard = ALONE,
) -> list[SAETrainer]:
    """The SAEs of `cfg.plans` before their first step.

    `moments`: by site, C and the mean of the raw activations. The same seed goes to every SAE, so
    that what one of them learns depends on no other. `shard`: the part of their features to hold.
    """
    losses: dict[Any, Loss] = {}
    trainers = []
    for plan in cfg.plans:
        recipe = RECIPES[plan.architecture]
        # SAEs with the same loss share its compiled code.
        key = (plan.architecture, None if recipe.has_lambda else plan.l0_target)
        if key not in losses:
            losses[key] = make_loss(cfg, plan, products, compiler, shard)
        scale, mean = moments[plan.site]
        start = initial_parameters(
            len(mean),
            cfg.d_sae,
            cfg.threshold_init,
            cfg.seed,
            mean.device,
            recipe,
            mean / scale,
            shard,
        )
        coefficient, gain = sparsity_control(cfg, plan)
        trainers.append(
            SAETrainer(
                plan,
                start,
                losses[key],
                coefficient=coefficient,
                scale=scale,
                mean=mean,
                gain=gain,
                rule=rule(cfg, plan),
                sparse=sparse(cfg, plan, losses[key], mean.device, shard),
                compiler=compiler,
                shard=shard,
            )
        )
    return trainers


def sparse(
    cfg: TrainConfig, plan: Plan, loss: Loss, device: torch.device, shard: Shard = ALONE
) -> bool:
    """Whether an SAE is trained by sparse steps; says so in the log."""
    chosen = cfg.run.step == "sparse" or (
        cfg.run.step == "auto"
        and cfg.run.compile != "cuda-graph"
        and device.type == "cuda"
        and cfg.d_sae // shard.world >= SPARSE_FROM[plan.architecture]
        and importlib.util.find_spec("triton") is not None
    )
    if chosen and not (applies(loss, rule(cfg, plan)) or isinstance(loss, FeatureLoss)):
        log.info(
            "%s: dense steps, since sparse ones know no other terms and no free decoder rows",
            plan.name,
        )
        return False
    log.info("%s: %s steps", plan.name, "sparse" if chosen else "dense")
    return chosen


def make_loss(
    cfg: TrainConfig,
    plan: Plan,
    products: torch.dtype,
    compiler: Compiler,
    shard: Shard = ALONE,
) -> Loss:
    """The loss of one SAE."""
    targeted = plan.l0_target is not None
    if plan.architecture == "gated":
        return GatedLoss(targeted=targeted, products=products, compiler=compiler, shard=shard)
    if plan.architecture == "standard":
        return ReLULoss(targeted=targeted, products=products, compiler=compiler, shard=shard)
    if plan.architecture == "topk":
        assert plan.l0_target is not None
        return TopKLoss(
            k=round(plan.l0_target),
            dead_tokens=min(cfg.dead_after, MAX_TOKENS_SINCE_FIRED),
            products=products,
            compiler=compiler,
            shard=shard,
        )
    return JumpReLULoss(
        bandwidth=cfg.bandwidth,
        kernel=cfg.loss.kernel,
        targeted=targeted,
        extras=Extras(
            frequency=cfg.loss.frequency_scale,
            tanh=cfg.loss.tanh_scale,
            pre_act=cfg.loss.pre_act,
        ),
        products=products,
        compiler=compiler,
        shard=shard,
    )


def sparsity_control(cfg: TrainConfig, plan: Plan) -> tuple[float, float]:
    """An SAE's first coefficient of sparsity, and the gain of its multiplier."""
    if plan.lambda_ is not None:
        return plan.lambda_, 0.0
    recipe = RECIPES[plan.architecture]
    if not recipe.has_lambda:
        return 0.0, 0.0
    gain = 2 / max(FEWEST_SETTLING, SETTLE * cfg.steps)
    # The slope of e^2 is 2 e: so that the multiplier takes its place within these steps. Where
    # lambda is steered, the gain is as fast: its L0 answers sooner than it would oscillate, and
    # lags behind, while lambda has to move, by what it moves in a step over the gain.
    if penalises_l0(cfg, plan):
        return cfg.loss.target_coefficient, gain
    return recipe.first_lambda or TANH_LAMBDA, gain


def penalises_l0(cfg: TrainConfig, plan: Plan) -> bool:
    """Whether the penalty is one on L0 itself, and not on a sum that stands in for it."""
    return plan.architecture == "jumprelu" and not cfg.loss.tanh_scale


def rule(cfg: TrainConfig, plan: Plan) -> Rule:
    """How an SAE's parameters are updated."""
    published = RECIPES[plan.architecture].rule
    if cfg.loss.beta1 is not None:
        published = replace(published, beta1=cfg.loss.beta1)
    if plan.architecture == "jumprelu":
        published = replace(
            published,
            vector_rate=cfg.loss.vector_rate,
            b_dec_rate=cfg.loss.b_dec_rate,
            revive=cfg.loss.revive,
            dead_tokens=min(cfg.revive_after, MAX_TOKENS_SINCE_FIRED),
        )
    if cfg.loss.decoder == "auto":
        return published
    return replace(published, unit_norm=cfg.loss.decoder == "unit")
