"""What the kernels' study says: errors of the threshold's gradient, each kernel at its best width.

Errors are in units of the sparsity term, lambda times the density: the root of the sum of squared
errors over features over the sum of its squares.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.paper.kernels import ESTIMATORS, errors, unit

BATCHES = (4_096, 40_960)
"""Tokens that are averaged: a batch, and ten, as a first moment of 0.9 does."""
DRAWS = 300


@dataclass(frozen=True)
class Best:
    """An estimator at the bandwidth with the least mean squared error."""

    epsilon: float
    error: float
    bias: float
    ratio: tuple[float, float, float]
    """Mean squared error over the rectangle's, and its 95 % interval over features."""


def _squared(result: dict[str, Any], name: str, tokens: float) -> np.ndarray:
    """Mean squared error of every bandwidth and feature."""
    bias, variance = errors(result, name)
    return bias.numpy() + variance.numpy() / tokens


def error_curve(
    result: dict[str, Any], name: str, tokens: float, chosen: np.ndarray | None = None
) -> np.ndarray:
    """Root mean squared error at each bandwidth; infinitely many `tokens` leave the bias. Of some
    features, if they are `chosen` by their places.
    """
    squared, scale = _squared(result, name, tokens), unit(result).numpy()
    if chosen is not None:
        squared, scale = squared[:, chosen], scale[chosen]
    return np.sqrt(np.clip(squared.sum(1) / scale.sum(), 0, None))


def best(result: dict[str, Any], name: str, tokens: int) -> Best:
    """With an interval from bootstrap samples of features, each choosing its bandwidths."""
    squared = {n: _squared(result, n, tokens) for n in ("rectangle", name)}
    at = int(squared[name].sum(1).argmin())
    bias = errors(result, name)[0].numpy()[at].sum()
    scale = unit(result).numpy().sum()

    def ratio(chosen: np.ndarray) -> float:
        mine, other = (squared[n][:, chosen].sum(1).min() for n in (name, "rectangle"))
        return float(mine / other)

    features = squared[name].shape[1]
    low, high = np.quantile([ratio(chosen) for chosen in _drawn(features)], [0.025, 0.975])
    return Best(
        epsilon=result["epsilons"][at],
        error=float(np.sqrt(max(squared[name][at].sum(), 0) / scale)),
        bias=float(np.sqrt(max(bias, 0) / scale)),
        ratio=(ratio(np.arange(features)), float(low), float(high)),
    )


@dataclass(frozen=True)
class Biases:
    """An estimator's bias at two bandwidths, and the power of the bandwidth with which it grows:
    values and 95 % intervals over features.
    """

    at: tuple[tuple[float, float, float], tuple[float, float, float]]
    power: tuple[float, float, float]


def biases(
    result: dict[str, Any], name: str, at: tuple[float, float], between: tuple[float, float]
) -> Biases:
    """The power is taken `between` two bandwidths: infinite where there is a bias at the second
    only, NaN where there is none.
    """
    epsilons = np.array(result["epsilons"])
    first, second, low, high = (int(np.abs(np.log(epsilons / e)).argmin()) for e in (*at, *between))
    decades = np.log(epsilons[high] / epsilons[low])

    def values(chosen: np.ndarray | None) -> tuple[float, float, float]:
        curve = error_curve(result, name, np.inf, chosen)
        with np.errstate(divide="ignore", invalid="ignore"):
            power = (np.log(curve[high]) - np.log(curve[low])) / decades
        return float(curve[first]), float(curve[second]), float(power)

    value = values(None)
    drawn = np.array([values(chosen) for chosen in _drawn(len(result["density"]))])
    # Places of the order, since between a number and infinity there is nothing.
    ends = np.quantile(drawn, [0.025, 0.975], axis=0, method="nearest").T
    one, other, power = ((v, float(e[0]), float(e[1])) for v, e in zip(value, ends, strict=True))
    return Biases(at=(one, other), power=power)


def _drawn(features: int) -> list[np.ndarray]:
    """Bootstrap samples of features, by their places."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, features, features) for _ in range(DRAWS)]


def kernels_of(data: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The SAEs' results by site."""
    return [(result["site"], result) for result in data["saes"].values()]


__all__ = [
    "BATCHES",
    "ESTIMATORS",
    "Best",
    "Biases",
    "best",
    "biases",
    "error_curve",
    "kernels_of",
]
