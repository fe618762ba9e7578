"""What the losses of all architectures share: their inputs, their statistics, the sparsity penalty.

The penalty's strength is `coefficient` times the share that the warm-up has reached. Where an L0 is
to be reached, a `multiplier` m, which starts at 0 and every step changes, moves that strength until
the L0 is there; with e = L0 / target - 1, L0 being the batch's mean,

    coefficient * (e^2 + m e)       where L0 itself has a gradient (JumpReLU): an augmented
                                    Lagrangian. The square alone would leave the L0 above its target
                                    by as much as balances the reconstruction; m takes its place.
    coefficient * exp(e + m) * S    where a sum S of activations stands in for L0 (L1, tanh): a
                                    proportional-integral controller of log lambda.

    m <- m + gain * e once the warm-up is over, e and m being limited to what the loss says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from training.losses.feature_pairs import Every, Features
from training.shard import ALONE, Shard

Parameters = dict[str, Tensor]


class Penalty(NamedTuple):
    """What sparsity costs, as 0-d tensors: one compiled step serves every SAE of a run."""

    coefficient: Float[Tensor, ""]
    """Strength at this step, warm-up included."""
    target: Float[Tensor, ""]
    """L0 to reach; not used by the linear penalty."""
    multiplier: Float[Tensor, ""]
    """m above; 0 where no L0 is to be reached."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a loss is calculated from, beside the parameters."""

    raw: Float[Tensor, "batch d_model"]
    """Activations as the model made them."""
    scale: Float[Tensor, ""]
    """C."""
    mean: Float[Tensor, " d_model"]
    """Of raw / C, over the data set."""
    penalty: Penalty
    tokens_since_fired: Float[Tensor, " d_sae"] | None = None
    """Tokens since each feature was last active, for losses that revive the dead; None: none is."""

    @property
    def x(self) -> Float[Tensor, "batch d_model"]:
        """raw / C, float32."""
        return self.raw.float() / self.scale


class BatchStats(NamedTuple):
    """What one batch adds to the statistics; on the device, so that nothing waits for it."""

    scalars: Float[Tensor, " 3"]
    """The loss, and summed over tokens: squared errors, squared deviations from the mean."""
    active: Float[Tensor, " d_sae"]
    """Tokens on which each feature is active."""
    in_window: Float[Tensor, " d_sae"]
    """Tokens on which each pre-activation is within half a bandwidth of its threshold; 0 where
    there are no thresholds."""
    l0: Float[Tensor, ""]
    """Mean active features per token, those of other processes included."""


class Limits(NamedTuple):
    """How the multiplier may move."""

    most: float
    """Largest |e| that enters it."""
    bound: float
    """Largest |m|."""


@runtime_checkable
class Loss(Protocol):
    """An architecture's loss over float32 parameters."""

    limits: Limits

    def gradients(self, parameters: Parameters, batch: Batch) -> tuple[Parameters, BatchStats]:
        """Gradient of the loss for each parameter, and the batch's statistics."""
        ...


def unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiler that does nothing."""
    return function


class AutogradLoss:
    """A `Loss` whose gradients autograd takes from `forward`."""

    limits = Limits(most=1.0, bound=10.0)

    def __init__(
        self,
        *,
        products: torch.dtype = torch.float32,
        compiler: Callable[[Callable[..., Any]], Callable[..., Any]] = unchanged,
        shard: Shard = ALONE,
    ) -> None:
        """`products`: dtype of the matrix products, all else being in float32; `shard`:
        this process's part of the features, which `parameters` hold.
        """
        self.products = products
        self.shard = shard
        self._forward = compiler(self.forward)

    def forward(self, parameters: Parameters, batch: Batch) -> tuple[Tensor, BatchStats]:
        """The loss and the batch's statistics.

        The encoder's b_dec is held constant here: differentiating through it would send a gradient
        [batch, d_model] back, a whole matrix product, where `gradients` needs a product with a
        vector only.
        """
        raise NotImplementedError

    def gradients(self, parameters: Parameters, batch: Batch) -> tuple[Parameters, BatchStats]:
        """As `Loss.gradients`."""
        loss, stats = self._forward(parameters, batch)
        return self.derivatives(parameters, loss), stats

    def derivatives(self, parameters: Parameters, loss: Tensor) -> Parameters:
        """The gradients of a loss that `forward` returned."""
        derivatives = torch.autograd.grad(loss, list(parameters.values()))
        gradients = dict(zip(parameters, derivatives, strict=True))
        with torch.no_grad():
            # The encoder reads (x - b_dec) @ W_enc.
            through = parameters["W_enc"] @ self.through_projection(parameters, gradients)
            gradients["b_dec"] = gradients["b_dec"] - self.shard.sum(through)
        return gradients

    def through_projection(
        self, parameters: Parameters, gradients: Parameters
    ) -> Float[Tensor, " d_sae"]:
        """The loss's derivative by `(x - b_dec) @ W_enc`, summed over tokens."""
        return gradients["b_enc"]

    def project(
        self, x: Float[Tensor, "batch d_model"], p: Parameters
    ) -> Float[Tensor, "batch d_sae"]:
        """`(x - b_dec) @ W_enc` in float32, b_dec held constant."""
        centred = (x - p["b_dec"].detach()).to(self.products)
        return (centred @ p["W_enc"].to(self.products)).float()

    def decode(
        self, acts: Float[Tensor, "batch d_sae"], W_dec: Float[Tensor, "d_sae d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        """`acts @ W_dec` in float32, over the features of all processes."""
        return self.shard.sum((acts.to(self.products) @ W_dec.to(self.products)).float())

    def l0(self, on: Float[Tensor, "batch d_sae"]) -> Float[Tensor, ""]:
        """Mean active features per token, from the 0-1 tensor `on`."""
        return self.shard.sum(on.sum()) / len(on)


class FeatureLoss(AutogradLoss):
    """A loss written over `Features`, so that lists of active features do as well as matrices."""

    def forward(self, parameters: Parameters, batch: Batch) -> tuple[Tensor, BatchStats]:
        """As `AutogradLoss.forward`, of every pair of token and feature."""
        features = Every(self.project(batch.x, parameters), self.products, self.shard)
        return self.on(features, parameters, batch)

    def on(
        self, features: Features, parameters: Parameters, batch: Batch
    ) -> tuple[Tensor, BatchStats]:
        """As `AutogradLoss.forward`, from the features on `batch.x`."""
        raise NotImplementedError


class SurrogateLoss(FeatureLoss):
    """A loss in which lambda times a differentiable sum stands in for a penalty on L0."""

    def __init__(
        self,
        *,
        targeted: bool = True,
        products: torch.dtype = torch.float32,
        compiler: Callable[[Callable[..., Any]], Callable[..., Any]] = unchanged,
        shard: Shard = ALONE,
    ) -> None:
        """`targeted`: lambda is steered to an L0; all else as in `AutogradLoss`."""
        self.targeted = targeted
        super().__init__(products=products, compiler=compiler, shard=shard)

    def weight(self, l0: Float[Tensor, ""], penalty: Penalty) -> Float[Tensor, ""]:
        """The sum's factor, `surrogate_weight`."""
        return surrogate_weight(l0, penalty, self.targeted, self.limits)


def l0_penalty(l0: Float[Tensor, ""], penalty: Penalty) -> Float[Tensor, ""]:
    """`coefficient * l0`."""
    return penalty.coefficient * l0


def target_l0_penalty(l0: Float[Tensor, ""], penalty: Penalty) -> Float[Tensor, ""]:
    """`coefficient * (e^2 + multiplier * e)` with `e = l0 / target - 1`."""
    e = l0 / penalty.target - 1
    return penalty.coefficient * (e.square() + penalty.multiplier * e)


def surrogate_weight(
    l0: Float[Tensor, ""], penalty: Penalty, targeted: bool, limits: Limits
) -> Float[Tensor, ""]:
    """The factor of a sum that stands in for L0: lambda, or `coefficient * exp(e + multiplier)`."""
    if not targeted:
        return penalty.coefficient
    e = (l0 / penalty.target - 1).clamp(-limits.most, limits.most)
    return penalty.coefficient * (e + penalty.multiplier).exp()


def steered(
    multiplier: Float[Tensor, ""],
    l0: Float[Tensor, ""],
    target: Float[Tensor, ""],
    gain: Float[Tensor, ""],
    share: Float[Tensor, ""],
    limits: Limits,
) -> Float[Tensor, ""]:
    """The next multiplier, after a batch of this `l0`; `share`: of the penalty, 1 after warm-up."""
    e = (l0 / target - 1).clamp(-limits.most, limits.most)
    return (multiplier + gain * (share >= 1) * e).clamp(-limits.bound, limits.bound)


def stats_of(
    loss: Tensor,
    squared_error: Tensor,
    x: Float[Tensor, "batch d_model"],
    mean: Float[Tensor, " d_model"],
    active: Float[Tensor, " d_sae"],
    l0: Float[Tensor, ""],
    in_window: Float[Tensor, " d_sae"] | None = None,
) -> BatchStats:
    """The statistics, with tokens already counted for each feature."""
    with torch.no_grad():
        return BatchStats(
            torch.stack([loss, squared_error, (x - mean).square().sum()]),
            active,
            torch.zeros_like(active) if in_window is None else in_window,
            l0.detach(),
        )
