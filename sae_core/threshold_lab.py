"""What pulls a JumpReLU threshold up and down in training: the two terms of its gradient.

Per token, in the units of training (the input divided by its scale C), the loss is

    ||x - recon||^2 + lambda * L0

and its straight-through gradient by one feature's threshold (Rajamanoharan et al., arXiv
2407.14435, equation 13) is, with the kernel K of bandwidth e as in `sae_core.jumprelu`,

    mean over tokens of  K((z - threshold) / e) / e * (2 threshold d . (x - recon) - lambda)

where z is the feature's pre-activation and d its decoder row. The first term is what raising the
threshold costs in reconstruction, the second what it saves in sparsity: where they are equal,
training comes to rest. Here the threshold is varied, all else kept. With r the residual that is
left without the feature, x - recon is r - z H(z - threshold) d, so that two numbers of each token,
z and d . r, give both terms at any threshold. A penalty on frequent features, lambda times the sum
of w^2 / w_0 with w the share of tokens on which each fires, makes lambda 1 + 2 w / w_0 times as
large here. Other penalties of a run are not in the terms; `TrainingUnits` names them.

Saved tensors take raw activations (`training.trained_form`): thresholds, pre-activations and d . r
are C times those of training, bandwidth and lambda are not in the tensors at all. `TrainingUnits`
has C, bandwidth and lambda; `FeatureSample.scaled` takes the numbers of a saved SAE there. Where
training held decoder rows at norm n instead of 1, raw pre-activations are C n times those of
training, and the bandwidth that was used is n times as wide here; both terms keep their ratio.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.config import SAEConfig
from sae_core.jumprelu import KERNELS, Kernel, half_width, kernel_density
from sae_core.placement import in_float64

PUBLISHED_BANDWIDTH = 0.001
"""The paper's, for inputs of mean squared norm 1."""
OTHER_PENALTIES = {"tanh_scale": "tanh", "pre_act": "pre-activation"}
"""Penalties that the terms leave out, by the setting of a run that turns one on: tanh takes the
place of L0, the one on pre-activations below the threshold is added."""
FEWEST_IN_WINDOW = 8
"""Tokens that the kernel sees, below which nothing is said about what training would do."""


@dataclass(frozen=True, kw_only=True)
class TrainingUnits:
    """What saved tensors do not say about the training that made them."""

    scale: float
    """C: raw activations over those that were trained on."""
    bandwidth: float
    """Of the kernel, in training's units."""
    kernel: Kernel
    penalty: float | None
    """Lambda; None where the run aimed at an L0, or does not say."""
    l0_target: float | None
    frequency_scale: float | None
    """w_0 of the run's penalty on frequent features; None where it had none, or does not say."""
    other_penalties: tuple[str, ...]
    """Of `OTHER_PENALTIES`, what the run's loss had and the terms leave out."""
    stated: tuple[str, ...]
    """Which of scale, bandwidth and lambda the SAE states; the others are defaults."""


def training_units(cfg: SAEConfig, mean_square: float) -> TrainingUnits:
    """The units of an SAE, from its metadata as far as those have them.

    Elsewhere C is the root of `mean_square`, the mean squared norm of what the SAE reads, the
    bandwidth is the paper's 0.001 and the kernel its rectangle.
    """
    training: dict[str, Any] = cfg.metadata.get("training") or {}
    settings: dict[str, Any] = training.get("settings") or {}
    loss: dict[str, Any] = settings.get("loss") or {}
    kernel = loss.get("kernel") or settings.get("kernel")
    scale, bandwidth = _positive(training.get("scale")), _positive(settings.get("bandwidth"))
    penalty = _positive(training.get("lambda"))
    values = {"scale": scale, "bandwidth": bandwidth, "lambda": penalty}
    return TrainingUnits(
        scale=scale or math.sqrt(mean_square) or 1.0,
        bandwidth=bandwidth or PUBLISHED_BANDWIDTH,
        kernel=kernel if kernel in KERNELS else "rectangle",
        penalty=penalty,
        l0_target=_positive(training.get("l0_target")),
        frequency_scale=_positive(loss.get("frequency_scale")),
        other_penalties=tuple(
            name for setting, name in OTHER_PENALTIES.items() if _positive(loss.get(setting))
        ),
        stated=tuple(name for name, value in values.items() if value is not None),
    )


def _positive(value: Any) -> float | None:
    usable = isinstance(value, int | float) and math.isfinite(value) and value > 0
    return float(value) if usable else None


@dataclass(frozen=True, kw_only=True)
class FeatureSample:
    """One feature on some tokens, all else of the SAE as it is."""

    pre_acts: Float[Tensor, " tokens"]
    pull: Float[Tensor, " tokens"]
    """d . r: the decoder row times the residual that is left without the feature."""
    square_norm: float
    """Squared norm of the decoder row."""
    threshold: float

    def scaled(self, scale: float) -> "FeatureSample":
        """From the units of a saved SAE to those of training on inputs divided by `scale`."""
        return replace(
            self,
            pre_acts=self.pre_acts / scale,
            pull=self.pull / scale,
            threshold=self.threshold / scale,
        )


@dataclass(frozen=True, kw_only=True)
class GradientTerms:
    """Both terms at some thresholds, per token and unit of the threshold, float64 `[n]`."""

    thresholds: Float[Tensor, " n"]
    reconstruction: Float[Tensor, " n"]
    """What raising the threshold costs in squared error; negative where it gains."""
    sparsity: Float[Tensor, " n"]
    """What raising it saves, lambda times the density of tokens at the threshold, and times
    1 + 2 w / w_0 where frequent features are penalised."""
    standard_error: Float[Tensor, " n"]
    """Of `gradient`, from the scatter of the tokens."""
    in_window: Int[Tensor, " n"]
    """Tokens that the kernel sees."""

    @property
    def gradient(self) -> Float[Tensor, " n"]:
        """The loss's, by the threshold: below 0 where training raises it."""
        return self.reconstruction - self.sparsity


def gradient_terms(
    sample: FeatureSample,
    thresholds: Sequence[float],
    *,
    penalty: float,
    bandwidth: float,
    kernel: Kernel = "rectangle",
    frequency_scale: float | None = None,
) -> GradientTerms:
    """Both terms at each of `thresholds [n]`, all of it in the units of training.

    `frequency_scale` is w_0 of a penalty on frequent features, if there is one. Raises ValueError
    for a bandwidth or a w_0 of 0 or less, a negative lambda or a sample without tokens.
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth} but must be above 0.")
    if not penalty >= 0:
        raise ValueError(f"lambda is {penalty} but must be 0 or more.")
    if frequency_scale is not None and not frequency_scale > 0:
        raise ValueError(f"frequency_scale is {frequency_scale} but must be above 0.")
    z, pull = in_float64(sample.pre_acts)[:, None], in_float64(sample.pull)[:, None]
    if not len(z):
        raise ValueError("the sample holds no token: give more text.")
    at = torch.from_numpy(np.asarray(thresholds, dtype=np.float64)).to(z.device)  # [n]
    u = (z - at) / bandwidth  # [tokens, n]
    weight = kernel_density(u, kernel) / bandwidth
    fires = z > at
    cost = 2 * at * (pull - z * fires * sample.square_norm)
    saved = penalty * penalty_factor(fires.to(z.dtype).mean(0), frequency_scale)  # [n]
    each = weight * (cost - saved)
    variance = each.square().mean(0) - each.mean(0).square()
    return GradientTerms(
        thresholds=at,
        reconstruction=(weight * cost).mean(0),
        sparsity=saved * weight.mean(0),
        standard_error=(variance.clamp(min=0) / len(z)).sqrt(),
        in_window=(u.abs() < half_width(kernel)).sum(0),
    )


def penalty_factor(
    frequency: Float[Tensor, " n"], frequency_scale: float | None
) -> Float[Tensor, " n"]:
    """By how much more than lambda firing on one more token costs a feature of this frequency."""
    if frequency_scale is None:
        return torch.ones_like(frequency)
    return 1 + 2 * frequency / frequency_scale


def resting_points(terms: GradientTerms) -> list[float]:
    """Thresholds at which the curves cross so that training comes to rest: below them it raises
    the threshold, above them it lowers it. Linear between neighbouring thresholds (ascending);
    none where the kernel sees fewer than FEWEST_IN_WINDOW tokens at either.
    """
    gradient, at = terms.gradient.tolist(), terms.thresholds.tolist()
    enough = (terms.in_window >= FEWEST_IN_WINDOW).tolist()
    points = []
    for k in range(len(at) - 1):
        low, high = gradient[k], gradient[k + 1]
        if low < 0 <= high and enough[k] and enough[k + 1]:
            points.append(at[k] + (at[k + 1] - at[k]) * low / (low - high))
    return points


def tendency(gradient: float, standard_error: float, in_window: int) -> str:
    """Where training would move a threshold: `raise`, `lower`, `rest` where the gradient is within
    two standard errors of 0, or `unclear` where the kernel sees fewer than FEWEST_IN_WINDOW tokens.
    """
    if in_window < FEWEST_IN_WINDOW:
        return "unclear"
    if abs(gradient) <= 2 * standard_error:
        return "rest"
    return "raise" if gradient < 0 else "lower"
