"""SAEs in training for tests of the step: made away from their symmetric start, on sparse data."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sae_core.jumprelu import Kernel
from training.losses import JumpReLULoss
from training.optim import BETA2, Control
from training.parameters import initial_parameters
from training.sparse_step import SparseStep, feature_rows, settle
from training.step import DenseStep, Setting, State

SCALE = 3.0


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
        products: torch.dtype = torch.float32,
        kernel: Kernel = "rectangle",
        targeted: bool = True,
        device: str = "cpu",
        compiler: Callable[..., Any] = lambda function: function,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        parameters = initial_parameters(shape.d_model, shape.d_sae, 0.1, 0)
        with torch.no_grad():
            for name in ("W_enc", "b_enc", "b_dec"):
                noise = torch.randn(parameters[name].shape, generator=generator)
                parameters[name].add_(0.03 * noise)
            # From 0.2 to 0.6: some features are active often, and most only now and then.
            parameters["threshold"].add_(0.1 + 0.4 * torch.rand(shape.d_sae, generator=generator))
        moved = {n: p.detach().to(device).requires_grad_() for n, p in parameters.items()}
        self.state = State.of(feature_rows(moved))
        self.start = {name: p.clone() for name, p in self.state.plain.items()}
        self.loss = JumpReLULoss(
            bandwidth=0.1, kernel=kernel, targeted=targeted, products=products, compiler=compiler
        )

        def constant(value: float) -> Tensor:
            return torch.tensor(value, device=device)

        self.setting = Setting(
            scale=constant(SCALE),
            mean=torch.full((shape.d_model,), 0.01, device=device),
            coefficient=constant(0.7),
            target=constant(6.0),
            gain=constant(0.01 if targeted else 0.0),
        )
        self.dense = DenseStep(self.state, self.loss, self.setting, compiler)

    def sparse(self, kernels: ModuleType | None = None, most: float = 0.5) -> SparseStep:
        return SparseStep(
            self.state, self.loss, self.setting, self.dense, kernels=kernels, most=most
        )


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
    row = [lr, 1.0, 1 - BETA2 ** (step + 1), step + 1.0]
    return torch.tensor(row, device=device)


def settled(toy: Toy, step: SparseStep, steps: int) -> None:
    """Second moments of rows not touched lately brought up to date."""
    second = toy.state.second
    settle(second["W_enc"].T, second["W_dec"], step.touched, steps)


def distance(a: Tensor, b: Tensor, scale: Tensor | None = None) -> float:
    """||a - b|| over ||scale||, which is b unless given; both 0: 0."""
    difference = float((a.double() - b.double()).norm())
    return difference and difference / float((b if scale is None else scale).double().norm())
