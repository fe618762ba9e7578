"""The loss of JumpReLU SAEs (Rajamanoharan et al., arXiv 2407.14435).

    x      = raw / C                                 (C: see `training.activations`)
    z      = (x - b_dec) @ W_enc + b_enc             pre-activations
    f      = jumprelu(z, threshold)
    recon  = f @ W_dec + b_dec
    loss   = mean over tokens of ||x - recon||^2 + penalty(L0)
    L0     = mean over tokens of the sum over features of step(z, threshold)

    penalty(L0) = lambda * L0                        (Gemma Scope)
    penalty(L0) = coefficient * (e^2 + m e)          (a target L0: see `training.losses.base`)

`jumprelu` and `step` are those of `sae_core.jumprelu`: the penalty reaches the thresholds alone,
the reconstruction reaches everything. `Extras` add to the penalty:

    frequency  + slope * sum_i w_i^2 / w_0      w_i = mean over tokens of step(z_i, threshold_i)

The slope is the penalty's by L0: lambda, or that of the target's penalty (if positive). With lambda
this is lambda * sum_i w_i (1 + w_i / w_0), which removes features that are active on more than
about w_0 of the tokens (Google DeepMind, mechanistic interpretability update of March 2025,
"Negative results for SAEs on downstream tasks"; w_0 of 0.1 and 0.01).

    tanh       lambda * sum_i tanh(c sqrt(d_model) f_i ||d_i||) in place of lambda * L0
    pre-act    + weight / sqrt(d_model) * sum_i relu(threshold_i - z_i) ||d_i||

(means over tokens, d_i being decoder rows) are Anthropic's (Conerly et al., "Dictionary learning
optimization techniques", January 2025; c = 4, weight 3e-6). They are for squared errors summed over
inputs of mean norm sqrt(d_model), hence the roots; their lambda of 10 to 20 is 10 / d_model to
20 / d_model here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_core.jumprelu import Kernel, jumprelu, step
from training.losses.base import (
    AutogradLoss,
    Batch,
    BatchStats,
    Limits,
    Parameters,
    Penalty,
    l0_penalty,
    stats_of,
    surrogate_weight,
    target_l0_penalty,
    unchanged,
)
from training.shard import ALONE, Shard


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Terms beyond the paper's; 0 leaves one out."""

    frequency: float = 0.0
    """w_0: frequency at which a feature costs twice its share of L0."""
    tanh: float = 0.0
    """c of the tanh penalty, which takes the place of L0."""
    pre_act: float = 0.0
    """Weight of the pre-activation term."""


class JumpReLULoss(AutogradLoss):
    """Loss of JumpReLU SAEs; parameters W_enc, b_enc, W_dec, b_dec, threshold."""

    def __init__(
        self,
        *,
        bandwidth: float,
        kernel: Kernel = "rectangle",
        targeted: bool = True,
        extras: Extras = Extras(),
        products: torch.dtype = torch.float32,
        compiler: Callable[[Callable[..., Any]], Callable[..., Any]] = unchanged,
        shard: Shard = ALONE,
    ) -> None:
        """`bandwidth` in units of the scaled pre-activations; `targeted`: an L0 is to be reached;
        all else as in `AutogradLoss`.
        """
        self.bandwidth = bandwidth
        self.kernel: Kernel = kernel
        self.targeted = targeted
        self.extras = extras
        self.limits = AutogradLoss.limits if extras.tanh else Limits(most=0.1, bound=1.0)
        super().__init__(products=products, compiler=compiler, shard=shard)

    @property
    def plain(self) -> bool:
        """Whether the loss is the paper's, without extras."""
        return self.extras == Extras()

    def forward(self, parameters: Parameters, batch: Batch) -> tuple[Tensor, BatchStats]:
        """As `AutogradLoss.forward`."""
        p, x = parameters, batch.x
        z = self.project(x, p) + p["b_enc"]  # [batch, d_sae]
        threshold = p["threshold"]
        acts = jumprelu(z, threshold, self.bandwidth, self.kernel)
        recon = self.decode(acts, p["W_dec"]) + p["b_dec"]
        squared_error = (x - recon).square().sum()
        on = step(z, threshold, self.bandwidth, self.kernel)
        l0 = self.l0(on)
        loss = squared_error / len(x) + self._penalty(p, z, acts, on, l0, batch.penalty)
        with torch.no_grad():
            near = ((z - threshold).abs() < self.bandwidth / 2).float()
            active, in_window = on.sum(dim=0), near.sum(dim=0)
        return loss, stats_of(loss, squared_error, x, batch.mean, active, l0, in_window)

    def _penalty(
        self, p: Parameters, z: Tensor, acts: Tensor, on: Tensor, l0: Tensor, penalty: Penalty
    ) -> Tensor:
        batch, d_model, extras, shard = len(z), p["W_dec"].shape[1], self.extras, self.shard
        if extras.tanh:
            norms = p["W_dec"].norm(dim=1)
            weight = surrogate_weight(l0.detach(), penalty, self.targeted, self.limits)
            bent = (extras.tanh * d_model**0.5 * acts * norms).tanh()
            total = weight * shard.sum(bent.sum()) / batch
        else:
            total = (target_l0_penalty if self.targeted else l0_penalty)(l0, penalty)
        if extras.frequency:
            squares = shard.sum((on.sum(dim=0) / batch).square().sum())
            total = total + self._slope(l0, penalty) * squares / extras.frequency
        if extras.pre_act:
            below = (p["threshold"] - z).relu() * p["W_dec"].norm(dim=1)
            total = total + extras.pre_act / d_model**0.5 * shard.sum(below.sum()) / batch
        return total

    def _slope(self, l0: Tensor, penalty: Penalty) -> Tensor:
        """What one more active feature per token costs, a constant, never negative."""
        if not self.targeted:
            return penalty.coefficient
        e = l0.detach() / penalty.target - 1
        slope = penalty.coefficient * (2 * e + penalty.multiplier) / penalty.target
        return slope.clamp(min=0)
