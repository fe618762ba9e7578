"""What the kernels' study says: errors of the threshold's gradient, each kernel at its best width.

Errors are in units of the sparsity term, lambda times the density: the root of the sum of squared
errors over features over the sum of its squares.
"""

from collections.abc import Sequence
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


def error_curve(result: dict[str, Any], name: str, tokens: float) -> np.ndarray:
    """Root mean squared error at each bandwidth; infinitely many `tokens` leave the bias."""
    total = _squared(result, name, tokens).sum(1) / unit(result).numpy().sum()
    return np.sqrt(np.clip(total, 0, None))


def best(result: dict[str, Any], name: str, tokens: int) -> Best:
    """With an interval from bootstrap samples of features, each choosing its bandwidths."""
    squared = {n: _squared(result, n, tokens) for n in ("rectangle", name)}
    at = int(squared[name].sum(1).argmin())
    bias = errors(result, name)[0].numpy()[at].sum()
    scale = unit(result).numpy().sum()
    generator = np.random.default_rng(0)
    features = squared[name].shape[1]

    def ratio(chosen: np.ndarray) -> float:
        mine, other = (squared[n][:, chosen].sum(1).min() for n in (name, "rectangle"))
        return float(mine / other)

    drawn = [ratio(generator.integers(0, features, features)) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Best(
        epsilon=result["epsilons"][at],
        error=float(np.sqrt(squared[name][at].sum() / scale)),
        bias=float(np.sqrt(max(bias, 0) / scale)),
        ratio=(ratio(np.arange(features)), float(low), float(high)),
    )


def growth(result: dict[str, Any], name: str, between: Sequence[float] = (0.01, 0.05)) -> float:
    """The power of the bandwidth with which the bias grows; NaN where one is not measurable."""
    curve = error_curve(result, name, float("inf"))
    epsilons = np.array(result["epsilons"])
    low, high = (int(np.abs(np.log(epsilons / e)).argmin()) for e in between)
    if not (curve[low] > 0 and curve[high] > 0):
        return float("nan")
    return float(np.log(curve[high] / curve[low]) / np.log(epsilons[high] / epsilons[low]))


def kernels_of(data: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The SAEs' results by site."""
    return [(result["site"], result) for result in data["saes"].values()]


__all__ = ["BATCHES", "ESTIMATORS", "Best", "best", "error_curve", "growth", "kernels_of"]
