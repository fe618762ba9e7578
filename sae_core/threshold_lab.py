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
z and d . r, give both terms at any threshold.

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
    stated: tuple[str, ...]
    """Which of scale, bandwidth and lambda the SAE states; the others are defaults."""


def training_units(cfg: SAEConfig, mean_square: float) -> TrainingUnits:
    """The units of an SAE, from its metadata as far as those have them.

    Elsewhere C is the root of `mean_square`, the mean squared norm of what the SAE reads, the
    bandwidth is the paper's 0.001 and the kernel its rectangle.
    """
    training: dict[str, Any] = cfg.metadata.get("training") or {}
    settings: dict[str, Any] = training.get("settings") or {}
    kernel = (settings.get("loss") or {}).get("kernel") or settings.get("kernel")
    scale, bandwidth = _positive(training.get("scale")), _positive(settings.get("bandwidth"))
    penalty = _positive(training.get("lambda"))
    values = {"scale": scale, "bandwidth": bandwidth, "lambda": penalty}
    return TrainingUnits(
        scale=scale or math.sqrt(mean_square) or 1.0,
        bandwidth=bandwidth or PUBLISHED_BANDWIDTH,
        kernel=kernel if kernel in KERNELS else "rectangle",
        penalty=penalty,
        l0_target=_positive(training.get("l0_target")),
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
    """What raising it saves, lambda times the density of tokens at the threshold."""
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
) -> GradientTerms:
    """Both terms at each of `thresholds [n]`, all of it in the units of training.

    Raises ValueError for a bandwidth of 0 or less, a negative lambda or a sample without tokens.
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth} but must be above 0.")
    if not penalty >= 0:
        raise ValueError(f"lambda is {penalty} but must be 0 or more.")
    z, pull = in_float64(sample.pre_acts)[:, None], in_float64(sample.pull)[:, None]
    if not len(z):
        raise ValueError("the sample holds no token: give more text.")
    at = torch.from_numpy(np.asarray(thresholds, dtype=np.float64)).to(z.device)  # [n]
    u = (z - at) / bandwidth  # [tokens, n]
    weight = kernel_density(u, kernel) / bandwidth
    cost = 2 * at * (pull - z * (z > at) * sample.square_norm)
    each = weight * (cost - penalty)
    variance = each.square().mean(0) - each.mean(0).square()
    return GradientTerms(
        thresholds=at,
        reconstruction=(weight * cost).mean(0),
        sparsity=penalty * weight.mean(0),
        standard_error=(variance.clamp(min=0) / len(z)).sqrt(),
        in_window=(u.abs() < half_width(kernel)).sum(0),
    )


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
