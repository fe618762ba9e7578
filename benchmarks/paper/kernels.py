"""Section 4: what the kernel does to the threshold's gradient, on features of a bundle's SAEs.

For every kernel and bandwidth: bias against the true gradient, and variance for a single token, of
features spread over frequencies. All in units of training; lambda is the one with which the SAE's
features together are at rest.
"""

from typing import Any

import torch

from benchmarks.paper.demo import Demo, units_of
from benchmarks.paper.feature_tokens import FeatureTokens, feature_tokens, marginal, spread_features
from benchmarks.paper.gradients import BLOCKS, bias_of, estimated, reference
from benchmarks.paper.shapes import SHAPES

OWN_JUMP = "own_jump"
ESTIMATORS = (*SHAPES, OWN_JUMP)
"""The kernels with the straight-through gradient; the rectangle with each token's own jump."""
EPSILONS = tuple(0.001 * 10 ** (k / 6) for k in range(13))
"""Bandwidths: two decades."""
STEP = 0.25
"""Of the finite differences, over the run's bandwidth."""
FEATURES = 128


def study(demo: Demo, rows: list[Any], features: int = FEATURES) -> dict[str, Any]:
    """Of every SAE of the bundle, by name."""
    return {name: _of_sae(demo, rows, name, features) for name in demo.sae_names}


def _of_sae(demo: Demo, rows: list[Any], name: str, features: int) -> dict[str, Any]:
    sae = demo.sae(name)
    assert sae.cfg.site is not None
    site = str(sae.cfg.site)
    x = demo.activations(rows, [site])[site]
    units = units_of(sae, x)
    rest = marginal(sae, x, units, BLOCKS)
    frequency = (rest.fires.sum(0) / (BLOCKS * rest.block_tokens)).float()
    chosen = spread_features(frequency, features)
    sample = feature_tokens(sae, x, chosen, units.scale)
    del x
    step = STEP * units.bandwidth
    return {
        "site": site,
        "tokens": sample.z.shape[1],
        "features": chosen,
        "frequency": frequency[chosen],
        "threshold": sample.threshold,
        "lambda": rest.resting_penalty,
        "bandwidth": units.bandwidth,
        **measured(sample, rest.resting_penalty, EPSILONS, step),
    }


def measured(
    sample: FeatureTokens, penalty: float, epsilons: tuple[float, ...], step: float
) -> dict[str, Any]:
    """True gradients and densities; bias, its standard error and variance of every estimator, each
    `[epsilons][features]`.
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
        table: dict[str, list[list[float]]] = {"bias": [], "error": [], "variance": []}
        for epsilon in epsilons:
            mean, variance = estimated(sample, penalty, epsilon, kernel, own_jump=own)
            bias, error = bias_of(mean, true)
            for key, values in zip(table, (bias, error, variance), strict=True):
                table[key].append(values.tolist())
        result[name] = table
    return result


def errors(result: dict[str, Any], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared bias, less what the noise of its measurement adds, and variance for one token, of an
    estimator: `[epsilons, features]`, from a study's results.
    """
    table = result[name]
    bias, error = (torch.tensor(table[key], dtype=torch.float64) for key in ("bias", "error"))
    return bias.square() - error.square(), torch.tensor(table["variance"], dtype=torch.float64)


def unit(result: dict[str, Any]) -> torch.Tensor:
    """What errors are compared with: the sparsity term, lambda times the density, squared."""
    return (result["lambda"] * torch.tensor(result["density"], dtype=torch.float64)).square()
