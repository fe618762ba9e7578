"""The update of an SAE's parameters by its architecture's `Rule`: Adam, norms; and the schedules.

    v <- beta2 v + (1 - beta2) g^2        p <- p - lr g / (sqrt(v / (1 - beta2^t)) + eps)

is Adam with beta1 = 0 (Gemma Scope: betas (0, 0.999), eps 1e-8); no first moment is kept or moved.
With another beta1, m / (1 - beta1^t) takes the place of g, m being its moving average.

The learning rate of vectors may be a share of that of matrices (`Rule.vector_rate`, `b_dec_rate`).

Where decoder rows are held at norm 1, the part of their gradient parallel to them is removed before
the update (it would only be undone, but not before it has entered v), and they are rescaled after.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from training.losses import Parameters
from training.recipes import RECIPES, Rule
from training.shard import ALONE, Shard, features_dim
from training.train_config import TrainConfig
from training.trained_form import THRESHOLD_FLOOR

BETA2 = 0.999
EPS = 1e-8


Control = Float[Tensor, " 4"]
"""What changes from step to step: lr, share of the penalty in force, 1 - beta2^t, t (from 1).

Four numbers, so that every row of a table of them is aligned for the GPU's compiled kernels.
"""
Controls = Float[Tensor, "rates 4"]
"""One `Control` for each learning rate of a run."""


def remove_parallel(
    gradient: Float[Tensor, "d_sae d_model"], W_dec: Float[Tensor, "d_sae d_model"]
) -> Float[Tensor, "d_sae d_model"]:
    """The gradient less its component along each (unit-norm) decoder row."""
    return gradient - (gradient * W_dec).sum(dim=1, keepdim=True) * W_dec


def update(
    parameters: Parameters,
    gradients: Parameters,
    second: Parameters,
    control: Control,
    rule: Rule = RECIPES["jumprelu"].rule,
    first: Parameters | None = None,
    shard: Shard = ALONE,
) -> None:
    """Move `parameters` and moments `second` (and `first`, if the rule has any) by one step.

    In place: tensors must not require a gradient (pass detached views of those that do). `shard`:
    the part of the features that they hold.
    """
    lr, _, correction, step = control.unbind()
    held = {"W_dec"} if rule.unit_norm else set()
    gradients = {
        name: remove_parallel(gradients[name], p) if name in held else gradients[name]
        for name, p in parameters.items()
    }
    if rule.clip is not None:
        squares = {name: g.square().sum() for name, g in gradients.items()}
        mine = [square for name, square in squares.items() if features_dim(name) is not None]
        whole = [square for name, square in squares.items() if features_dim(name) is None]
        norm = (shard.sum(torch.stack(mine).sum()) + sum(whole)).sqrt()
        factor = (rule.clip / norm.clamp(min=EPS)).clamp(max=1)
        gradients = {name: factor * g for name, g in gradients.items()}
    for name, p in parameters.items():
        g, v = gradients[name], second[name]
        new_v = BETA2 * v + (1 - BETA2) * g.square()
        if rule.beta1 and first is not None:
            new_m = rule.beta1 * first[name] + (1 - rule.beta1) * g
            first[name].copy_(new_m)
            g = new_m / (1 - rule.beta1**step)
        new = p - lr * share_of(name, p, rule) * g / ((new_v / correction).sqrt() + EPS)
        if name in held:
            new = new / new.norm(dim=1, keepdim=True)
        elif name == "threshold":
            new = new.clamp(min=THRESHOLD_FLOOR)
        v.copy_(new_v)
        p.copy_(new)


def share_of(name: str, parameter: Tensor, rule: Rule) -> float:
    """Share of the learning rate that a parameter has."""
    if name == "b_dec":
        return rule.b_dec_rate
    return rule.vector_rate if parameter.dim() == 1 else 1.0


def revived(
    threshold: Float[Tensor, " d_sae"],
    tokens_since_fired: Float[Tensor, " d_sae"],
    lr: Float[Tensor, ""],
    rule: Rule,
) -> Float[Tensor, " d_sae"]:
    """Thresholds after a step, those of dead features a little lower.

    A JumpReLU feature that is never active has no gradient but its threshold's, and that only from
    inside the window: left alone, it stays dead.
    """
    lower = threshold * (1 - rule.revive * rule.vector_rate * lr)
    dead = tokens_since_fired >= rule.dead_tokens
    return torch.where(dead, lower.clamp(min=THRESHOLD_FLOOR), threshold)


def rate_share(cfg: TrainConfig, step: int) -> float:
    """Share of lr at a step (from 0): cosine warm-up from 0.1, constant, linear to 0 at the end."""
    warmup, decay = cfg.in_steps(cfg.lr_warmup), cfg.in_steps(cfg.lr_decay)
    factor = 1.0
    if step < warmup:
        factor = 0.1 + 0.9 * 0.5 * (1 - math.cos(math.pi * step / warmup))
    if cfg.steps - step < decay:
        factor *= (cfg.steps - step) / decay
    return factor


def sparsity_share(cfg: TrainConfig, step: int) -> float:
    """Share of the penalty in force at a step (from 0): linear from 0 to 1, then 1."""
    warmup = cfg.in_steps(cfg.sparsity_warmup)
    return min(1.0, step / warmup) if warmup else 1.0


def controls(
    cfg: TrainConfig, lrs: Sequence[float], device: torch.device | str = "cpu"
) -> Float[Tensor, "steps rates 4"]:
    """Row (t, i) holds the `Control` of step t (from 0) at the learning rate `lrs[i]`.

    On the device, so that a step copies nothing to it.
    """
    rows = [
        (rate_share(cfg, t), sparsity_share(cfg, t), 1 - BETA2 ** (t + 1), t + 1.0)
        for t in range(cfg.steps)
    ]
    table = torch.tensor(rows, dtype=torch.float32).repeat(len(lrs), 1, 1).transpose(0, 1)
    table = table.contiguous()
    table[..., 0] *= torch.tensor(lrs, dtype=torch.float32)
    return table.to(device)
