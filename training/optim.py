"""The update of an SAE's parameters: Adam without first moment, unit-norm decoder, schedules.

    v <- beta2 v + (1 - beta2) g^2        p <- p - lr g / (sqrt(v / (1 - beta2^t)) + eps)

is Adam with beta1 = 0 (Gemma Scope: betas (0, 0.999), eps 1e-8); no first moment is kept or moved.
Every decoder row has norm 1: the part of its gradient parallel to it is removed before the update
(it would only be undone, but not before it has entered v), and the row is rescaled after.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from training.config import TrainConfig
from training.losses import Parameters
from training.parameters import THRESHOLD_FLOOR

BETA2 = 0.999
EPS = 1e-8


Control = Float[Tensor, " 4"]
"""What changes from step to step: lr, share of the penalty in force, 1 - beta2^t, 0.

Four numbers, so that every row of a table of them is aligned for the GPU's compiled kernels.
"""


def remove_parallel(
    gradient: Float[Tensor, "d_sae d_model"], W_dec: Float[Tensor, "d_sae d_model"]
) -> Float[Tensor, "d_sae d_model"]:
    """The gradient less its component along each (unit-norm) decoder row."""
    return gradient - (gradient * W_dec).sum(dim=1, keepdim=True) * W_dec


def update(
    parameters: Parameters, gradients: Parameters, second: Parameters, control: Control
) -> None:
    """Move `parameters` and second moments `second` by one step, in place.

    Tensors must not require a gradient (pass detached views of those that do).
    """
    lr, _, correction, _ = control.unbind()
    for name, p in parameters.items():
        g, v = gradients[name], second[name]
        if name == "W_dec":
            g = remove_parallel(g, p)
        new_v = BETA2 * v + (1 - BETA2) * g.square()
        new = p - lr * g / ((new_v / correction).sqrt() + EPS)
        if name == "W_dec":
            new = new / new.norm(dim=1, keepdim=True)
        elif name == "threshold":
            new = new.clamp(min=THRESHOLD_FLOOR)
        v.copy_(new_v)
        p.copy_(new)


def learning_rate(cfg: TrainConfig, step: int) -> float:
    """lr at a step (from 0): cosine warm-up from lr / 10, constant, linear to 0 at the end."""
    warmup, decay = cfg.in_steps(cfg.lr_warmup), cfg.in_steps(cfg.lr_decay)
    factor = 1.0
    if step < warmup:
        factor = 0.1 + 0.9 * 0.5 * (1 - math.cos(math.pi * step / warmup))
    if cfg.steps - step < decay:
        factor *= (cfg.steps - step) / decay
    return cfg.lr * factor


def sparsity_share(cfg: TrainConfig, step: int) -> float:
    """Share of the penalty in force at a step (from 0): linear from 0 to 1, then 1."""
    warmup = cfg.in_steps(cfg.sparsity_warmup)
    return min(1.0, step / warmup) if warmup else 1.0


def controls(cfg: TrainConfig, device: torch.device | str = "cpu") -> Float[Tensor, "steps 4"]:
    """Row t holds the `Control` of step t; on the device, so that a step copies nothing to it."""
    rows = [
        (learning_rate(cfg, t), sparsity_share(cfg, t), 1 - BETA2 ** (t + 1), 0.0)
        for t in range(cfg.steps)
    ]
    return torch.tensor(rows, dtype=torch.float32, device=device)
