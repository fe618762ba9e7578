"""Where a threshold lies in the histogram of pre-activations: a valley, a slope or the bulk.

The counts are smoothed with a Gaussian of 1, 2 or 4 bins: the narrowest with which the height at
the threshold is at least five times its own standard error, as counting noise makes it. Then, with
"clearly" for three standard errors of a difference (of independent heights: those a few bins apart
share tokens and differ with less error; and without a correction for how many are compared),

    valley   there are clearly higher places on both sides
    bulk     no such valley, and the height is at least half of the largest
    slope    neither, and it is clearly lower than the largest
    unclear  the counts do not suffice to tell these apart

The sample that the counts below the threshold are scaled from may be smaller than the text, which
widens their standard errors (`tokens_per_count`).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Place = Literal["valley", "slope", "bulk", "unclear"]

WIDTHS = (1.0, 2.0, 4.0)
"""Standard deviations of the smoothing, in bins."""
SURE = 5.0
"""Height over its standard error from which on it is known well enough."""
CLEAR = 3.0
"""Standard errors that two heights differ by, at least, to be told apart."""
BULK = 0.5
"""Height over the largest from which on a threshold lies in the bulk."""


_SAMPLED = 2**14


def tokens_per_count(tokens: int) -> float:
    """Of an index of `tokens` tokens, how many stand behind one that was counted below thresholds:
    as `sae_core.index.token_sample` chooses them, which needs PyTorch.
    """
    return float(1 << max(0, (tokens - 1) // _SAMPLED).bit_length())


def place_of(
    counts: Sequence[int], edge: int, *, per_count: float = 1.0, exact_from: int = 0
) -> Place:
    """The place of the edge before bin `edge` (0 to the number of bins) of a histogram of equal
    bins; all else as in `places_of`.
    """
    return places_of(counts, per_count=per_count, exact_from=exact_from)[edge]


def places_of(counts: Sequence[int], *, per_count: float = 1.0, exact_from: int = 0) -> list[Place]:
    """The place of each of a histogram's edges, one more than there are bins.

    The counts of bins before `exact_from` are scaled from a sample, of which each token stands for
    `per_count` of the text's.
    """
    number = np.asarray(counts, dtype=np.float64)
    edges, bins = np.arange(len(number) + 1), np.arange(len(number))
    scaling = np.where(bins < exact_from, per_count, 1.0)
    smoothed = []
    for width in WIDTHS:
        # [edges, bins]: the heights at the edges as weighted means of bins.
        weights = np.exp(-0.5 * ((edges[:, None] - bins - 0.5) / width) ** 2)
        weights /= weights.sum(1, keepdims=True)
        # A count of 0 says no more than that fewer than about one token was expected.
        error = np.sqrt(weights**2 @ (np.maximum(number, scaling) * scaling))
        smoothed.append((weights @ number, error))
    return [_place(smoothed, edge) for edge in edges.tolist()]


def _place(smoothed: Sequence[tuple[np.ndarray, np.ndarray]], edge: int) -> Place:
    """By heights and their standard errors at every edge, the narrowest smoothing first."""
    sure = (each for each in smoothed if each[0][edge] >= SURE * each[1][edge])
    height, error = next(sure, smoothed[-1])
    here, noise = height[edge], error[edge]
    higher = (height - here) / np.hypot(error, noise) >= CLEAR
    if higher[:edge].any() and higher[edge + 1 :].any():
        return "valley"
    if here < SURE * noise:
        return "unclear"
    if here >= BULK * height.max():
        return "bulk"
    return "slope" if higher.any() else "unclear"
