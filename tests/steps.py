"""SAEs in training for tests of the step: made away from their symmetric start, on sparse data."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_core.config import Architecture
from sae_core.jumprelu import Kernel
from training.kernels.shards import ShardKernels
from training.listed_step import ListedStep
from training.losses import GatedLoss, JumpReLULoss, Loss, Parameters, ReLULoss, TopKLoss
from training.losses.base import FeatureLoss
from training.optim import Control
from training.recipes import RECIPES, Recipe
from training.shard import ALONE, Shard, features_dim
from training.sparse_step import SparseStep, feature_rows, settle
from training.step import DenseStep, Setting, State
from training.trained_form import initial_parameters

SCALE = 3.0
TOP = 5
"""k of TopK."""
DEAD_AFTER = 100_000
"""Tokens after which AuxK takes a feature for dead."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a step."""

    d_model: int
    d_sae: int
    batch: int


ODD = Shape(37, 1009, 61)


class Toy:
    """An SAE, its dense step, and sparse steps of the same state."""

    def __init__(
        self,
        shape: Shape,
        *,
        architecture: Architecture = "jumprelu",
        products: torch.dtype = torch.float32,
        kernel: Kernel = "rectangle",
        targeted: bool = True,
        beta1: float | None = None,
        device: str = "cpu",
        compiler: Callable[..., Any] = lambda function: function,
        shard: Shard = ALONE,
    ) -> None:
        """`beta1`: Adam's; the architecture's own if None."""
        self._remade = partial(
            Toy,
            shape,
            architecture=architecture,
            products=products,
            kernel=kernel,
            targeted=targeted,
            beta1=beta1,
        )
        recipe = RECIPES[architecture]
        if beta1 is not None:
            recipe = replace(recipe, rule=replace(recipe.rule, beta1=beta1))
        parameters = _start(shape, recipe)
        mine = {n: shard.mine(p, features_dim(n)) for n, p in parameters.items()}
        moved = {n: p.clone().to(device).requires_grad_() for n, p in mine.items()}
        self.state = State.of(feature_rows(moved), recipe.rule.beta1)
        self.start = {name: p.clone() for name, p in self.state.plain.items()}
        how: dict[str, Any] = {"products": products, "compiler": compiler, "shard": shard}
        self.loss: Loss
        if architecture == "jumprelu":
            self.loss = JumpReLULoss(bandwidth=0.1, kernel=kernel, targeted=targeted, **how)
        elif architecture == "topk":
            self.loss = TopKLoss(k=TOP, dead_tokens=DEAD_AFTER, **how)
        else:
            kind = GatedLoss if architecture == "gated" else ReLULoss
            self.loss = kind(targeted=targeted, **how)

        def constant(value: float) -> Tensor:
            return torch.tensor(value, device=device)

        self.setting = Setting(
            scale=constant(SCALE),
            mean=torch.full((shape.d_model,), 0.01, device=device),
            coefficient=constant(0.7 if architecture == "jumprelu" else 0.05),
            target=constant(6.0),
            gain=constant(0.01 if targeted else 0.0),
        )
        self.rule = recipe.rule
        if architecture == "jumprelu":  # what else a sparse step knows of a rule
            self.rule = replace(
                recipe.rule,
                vector_rate=0.3,
                b_dec_rate=0.1,
                revive=10.0,
                dead_tokens=4 * shape.batch,
            )
        self.dense = DenseStep(
            self.state, self.loss, self.setting, compiler, self.rule, shard=shard
        )
        self._shard = shard

    def part(self, shard: Shard) -> "Toy":
        """At its start, with the shard's part of the features."""
        part = self._remade(shard=shard)
        for name, p in part.state.plain.items():
            p.copy_(shard.mine(self.start[name], features_dim(name)))
        part.state.totals["tokens_since_fired"].copy_(
            shard.mine(self.state.totals["tokens_since_fired"], 0)
        )
        return part

    def sparse(
        self,
        kernels: ModuleType | ShardKernels | None = None,
        most: float = 0.5,
        replay: bool = True,
    ) -> SparseStep:
        assert isinstance(self.loss, JumpReLULoss)
        return SparseStep(
            self.state,
            self.loss,
            self.setting,
            self.dense,
            kernels=kernels,
            most=most,
            replay=replay,
            rule=self.rule,
        )

    def listed(
        self, kernels: ModuleType | None = None, most: float = 0.5, pause: int = 0
    ) -> ListedStep:
        """For all architectures but JumpReLU."""
        assert isinstance(self.loss, FeatureLoss)
        return ListedStep(
            self.state,
            self.loss,
            self.setting,
            self.dense,
            kernels=kernels,
            most=most,
            pause=pause,
            shard=self._shard,
        )

    def bury(self, count: int) -> None:
        """Make the first `count` features dead, to be revived by AuxK."""
        self.state.totals["tokens_since_fired"][:count] = DEAD_AFTER


def _start(shape: Shape, recipe: Recipe) -> Parameters:
    generator = torch.Generator().manual_seed(0)
    parameters = {
        n: p.detach()
        for n, p in initial_parameters(shape.d_model, shape.d_sae, 0.1, 0, recipe=recipe).items()
    }
    for name in ("W_enc", *recipe.biases, "b_dec"):
        if name != "threshold":
            noise = torch.randn(parameters[name].shape, generator=generator)
            parameters[name].add_(0.03 * noise)
    # From 0.2 to 0.6: some features are active often, and most only now and then.
    apart = 0.1 + 0.4 * torch.rand(shape.d_sae, generator=generator)
    if "threshold" in parameters:
        parameters["threshold"].add_(apart)
    elif not recipe.rule.unit_norm:  # active where above 0, with rows of many norms
        # Projections shrink as the width grows.
        parameters[recipe.biases[0]].sub_((0.1 + apart) * min(1.0, 6 / shape.d_model**0.5))
        norms = 0.5 + torch.rand(shape.d_sae, 1, generator=generator)
        parameters["W_dec"].mul_(norms)
    return parameters


def raw(shape: Shape, step: int, device: str = "cpu") -> Tensor:
    """A batch: each token is a sum of a few of many directions, of mean squared norm `SCALE`^2."""
    generator = torch.Generator().manual_seed(step)
    fixed = torch.Generator().manual_seed(1234)
    directions = torch.randn(2 * shape.d_model, shape.d_model, generator=fixed)
    on = torch.rand(shape.batch, 2 * shape.d_model, generator=generator) < 0.1
    noise = torch.randn(shape.batch, shape.d_model, generator=generator)
    x = on.float() @ directions + 0.3 * noise
    return (SCALE * x / x.square().sum(dim=1).mean().sqrt()).to(device)


def control(step: int, device: str = "cpu", lr: float = 1e-3) -> Control:
    """Of step `step` (from 0), the penalty in full force."""
    row = [lr, 1.0, 1 - 0.999 ** (step + 1), step + 1.0]
    return torch.tensor(row, device=device)


def settled(toy: Toy, step: SparseStep, steps: int) -> None:
    """Second moments of rows not touched lately brought up to date."""
    second = toy.state.second
    settle(second["W_enc"].T, second["W_dec"], step.touched, steps)


def distance(a: Tensor, b: Tensor, scale: Tensor | None = None) -> float:
    """||a - b|| over ||scale||, which is b unless given; both 0: 0."""
    difference = float((a.double() - b.double()).norm())
    return difference and difference / float((b if scale is None else scale).double().norm())


def apart(result: Toy, expected: Toy) -> dict[str, float]:
    """Distance of parameters, relative to how far they moved, and of statistics."""
    distances = {
        name: distance(result.state.plain[name], p, p - expected.start[name])
        for name, p in expected.state.plain.items()
    }
    for name in ("scalars", "active"):
        distances[name] = distance(result.state.totals[name], expected.state.totals[name])
    return distances


def assert_dense_from_here_on(
    dense: Toy,
    sparse: Toy,
    step: SparseStep | ListedStep,
    shape: Shape,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where too much is active `step`, of `sparse`, takes the dense steps bit for bit, and says so
    once.
    """
    with caplog.at_level(logging.INFO, "training.sparse_step"):
        for i in range(5):
            dense.dense(raw(shape, i), control(i))
            step(raw(shape, i), control(i))
    for name, tensor in dense.state.tensors.items():
        assert torch.equal(sparse.state.tensors[name], tensor), name
    (record,) = caplog.records
    assert "dense steps from here on" in record.message
