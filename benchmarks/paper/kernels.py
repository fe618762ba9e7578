"""Section 4: what the kernel does to the threshold's gradient, on features of a bundle's SAEs.

For every kernel and bandwidth: bias against the true gradient, and variance for a single token, of
features spread over frequencies. All in units of training; lambda is the one with which the SAE's
features together are at rest.
"""

from typing import Any

import torch

from benchmarks.paper.feature_tokens import BLOCKS, FeatureTokens, SaeTokens
from benchmarks.paper.gradients import bias_of, estimated, reference
from benchmarks.paper.results import shortened
from benchmarks.paper.shapes import SHAPES

OWN_JUMP = "own_jump"
ESTIMATORS = (*SHAPES, OWN_JUMP)
"""The kernels with the straight-through gradient; the rectangle with each token's own jump."""
EPSILONS = tuple(0.001 * 10 ** (k / 6) for k in range(13))
"""Bandwidths: two decades."""
STEP = 0.25
"""Of the finite differences, over the run's bandwidth."""
DIGITS = 3
"""Significant ones of a feature's errors; pages show two of sums over all features."""


def of_sae(each: SaeTokens) -> dict[str, Any]:
    """Of the features of an SAE that are looked at token by token."""
    penalty = each.sums.resting_penalty
    return {
        "site": each.site,
        "tokens": each.sample.z.shape[1],
        "features": each.features,
        "frequency": each.frequency,
        "threshold": each.sample.threshold,
        "lambda": penalty,
        "bandwidth": each.units.bandwidth,
        **measured(each.sample, penalty, EPSILONS, STEP * each.units.bandwidth),
    }


def measured(
    sample: FeatureTokens, penalty: float, epsilons: tuple[float, ...], step: float
) -> dict[str, Any]:
    """True gradients and densities; of every estimator the squared bias, less what the noise of
    its measurement adds, and the variance for a single token, each `[epsilons][features]`.
    """
    true = reference(sample, penalty, step)
    result: dict[str, Any] = {
        "gradient": true.gradient.mean(1),
        "gradient_error": true.gradient.std(1) / BLOCKS**0.5,
        "density": true.density.mean(1),
        "epsilons": list(epsilons),
    }
    for name in ESTIMATORS:
        own = name == OWN_JUMP
        kernel = "rectangle" if own else name
        table: dict[str, list[list[float]]] = {"squared_bias": [], "variance": []}
        for epsilon in epsilons:
            mean, variance = estimated(sample, penalty, epsilon, kernel, own_jump=own)
            bias, error = bias_of(mean, true)
            table["squared_bias"].append((bias.square() - error.square()).tolist())
            table["variance"].append(variance.tolist())
        result[name] = shortened(table, DIGITS)
    return result


def errors(result: dict[str, Any], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared bias, less what the noise of its measurement adds, and variance for one token, of an
    estimator: `[epsilons, features]`, from a study's results.
    """
    squared_bias, variance = (
        torch.tensor(result[name][key], dtype=torch.float64) for key in ("squared_bias", "variance")
    )
    return squared_bias, variance


def unit(result: dict[str, Any]) -> torch.Tensor:
    """What errors are compared with: the sparsity term, lambda times the density, squared."""
    return (result["lambda"] * torch.tensor(result["density"], dtype=torch.float64)).square()
