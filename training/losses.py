"""What an SAE is trained to do: reconstruct, with few features active.

    x      = raw / C                                 (C: see `training.activations`)
    z      = (x - b_dec) @ W_enc + b_enc             pre-activations
    recon  = jumprelu(z, threshold) @ W_dec + b_dec
    loss   = mean over tokens of ||x - recon||^2 + penalty(L0)
    L0     = mean over tokens of the sum over features of step(z, threshold)

    penalty(L0) = coefficient * L0                   (Gemma Scope)
    penalty(L0) = coefficient * (L0 / target - 1)^2  (a target L0, on the batch's mean)

`jumprelu` and `step` are those of `sae_core.jumprelu`: the penalty reaches the thresholds alone,
the reconstruction reaches everything. Another architecture is another class with `gradients`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.jumprelu import Kernel, jumprelu, step

Parameters = dict[str, Tensor]


class Penalty(NamedTuple):
    """How sparsity is paid for, as 0-d tensors: one compiled step serves every SAE of a run."""

    coefficient: Float[Tensor, ""]
    """Strength at this step, warm-up included."""
    target: Float[Tensor, ""]
    """L0 to reach; not used by the linear penalty."""


class BatchStats(NamedTuple):
    """What one batch adds to the statistics; on the device, so that nothing waits for it."""

    scalars: Float[Tensor, " 3"]
    """The loss, and summed over tokens: squared errors, squared deviations from the mean."""
    active: Float[Tensor, " d_sae"]
    """Tokens on which each feature is active."""
    in_window: Float[Tensor, " d_sae"]
    """Tokens on which each pre-activation is within half a bandwidth of its threshold."""


@runtime_checkable
class Loss(Protocol):
    """An architecture's loss over float32 parameters."""

    def gradients(
        self,
        parameters: Parameters,
        raw: Float[Tensor, "batch d_model"],
        scale: Float[Tensor, ""],
        mean: Float[Tensor, " d_model"],
        penalty: Penalty,
    ) -> tuple[Parameters, BatchStats]:
        """Gradient of the loss for each parameter, and the batch's statistics.

        `raw` are activations as the model made them, `scale` is C, `mean` the mean of raw / C.
        """
        ...


def l0_penalty(l0: Float[Tensor, ""], penalty: Penalty) -> Float[Tensor, ""]:
    """`coefficient * l0`."""
    return penalty.coefficient * l0


def target_l0_penalty(l0: Float[Tensor, ""], penalty: Penalty) -> Float[Tensor, ""]:
    """`coefficient * (l0 / target - 1)^2`."""
    return penalty.coefficient * (l0 / penalty.target - 1).square()


def unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiler that does nothing."""
    return function


class JumpReLULoss:
    """Loss of JumpReLU SAEs; parameters W_enc, b_enc, W_dec, b_dec, threshold."""

    def __init__(
        self,
        *,
        bandwidth: float,
        kernel: Kernel = "rectangle",
        targeted: bool = True,
        products: torch.dtype = torch.float32,
        compiler: Callable[[Callable[..., Any]], Callable[..., Any]] = unchanged,
    ) -> None:
        """`bandwidth` in units of the scaled pre-activations; `targeted`: the quadratic penalty;
        `products`: number format of the matrix products, all else being in float32.
        """
        self.bandwidth = bandwidth
        self.kernel: Kernel = kernel
        self.targeted = targeted
        self.products = products
        self._forward = compiler(self.forward)

    def forward(
        self,
        parameters: Parameters,
        raw: Float[Tensor, "batch d_model"],
        scale: Float[Tensor, ""],
        mean: Float[Tensor, " d_model"],
        penalty: Penalty,
    ) -> tuple[Tensor, BatchStats]:
        """The loss and the batch's statistics.

        The encoder's b_dec is held constant here: differentiating through it would send a gradient
        [batch, d_model] back, a whole matrix product, where `gradients` needs a product with a
        vector only.
        """
        p = parameters
        x = raw.float() / scale
        centred = (x - p["b_dec"].detach()).to(self.products)
        z = (centred @ p["W_enc"].to(self.products)).float() + p["b_enc"]  # [batch, d_sae]
        threshold = p["threshold"]
        acts = jumprelu(z, threshold, self.bandwidth, self.kernel)
        recon = (acts.to(self.products) @ p["W_dec"].to(self.products)).float() + p["b_dec"]
        squared_error = (x - recon).square().sum()
        on = step(z, threshold, self.bandwidth, self.kernel)
        price = target_l0_penalty if self.targeted else l0_penalty
        loss = squared_error / len(x) + price(on.sum() / len(x), penalty)
        with torch.no_grad():
            near = (z - threshold).abs() < self.bandwidth / 2
            stats = BatchStats(
                torch.stack([loss, squared_error, (x - mean).square().sum()]),
                on.sum(dim=0),
                near.float().sum(dim=0),
            )
        return loss, stats

    def gradients(
        self,
        parameters: Parameters,
        raw: Float[Tensor, "batch d_model"],
        scale: Float[Tensor, ""],
        mean: Float[Tensor, " d_model"],
        penalty: Penalty,
    ) -> tuple[Parameters, BatchStats]:
        """As `Loss.gradients`."""
        loss, stats = self._forward(parameters, raw, scale, mean, penalty)
        found = torch.autograd.grad(loss, list(parameters.values()))
        gradients = dict(zip(parameters, found, strict=True))
        with torch.no_grad():
            # z = ... - b_dec @ W_enc + b_enc, and the gradient of b_enc is z's summed over tokens.
            gradients["b_dec"] = torch.addmv(
                gradients["b_dec"], parameters["W_enc"], gradients["b_enc"], alpha=-1
            )
        return gradients, stats
