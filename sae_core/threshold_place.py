"""Where a threshold lies in the histogram of pre-activations: a valley, a slope or the bulk.

The counts are smoothed with a Gaussian of 1, 2 or 4 bins: the narrowest with which the height at
the threshold is at least five times its own standard error, as counting noise makes it. Then, with
"clearly" for three standard errors of a difference,

    valley   there are clearly higher places on both sides
    bulk     no such valley, and the height is at least half of the largest
    slope    neither, and it is clearly lower than the largest
    unclear  the counts do not suffice to tell these apart

The sample that the counts below the threshold are scaled from may be smaller than the text: its
`tokens_per_count` widens their standard errors.
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


def place_of(
    counts: Sequence[int], edge: int, *, tokens_per_count: float = 1.0, exact_from: int = 0
) -> Place:
    """The place of the edge before bin `edge` (0 to the number of bins) of a histogram of equal
    bins.

    The counts of bins before `exact_from` are scaled from a sample, of which each token stands for
    `tokens_per_count` of the text's.
    """
    number = np.asarray(counts, dtype=np.float64)
    edges = np.arange(len(number) + 1)
    scaling = np.where(np.arange(len(number)) < exact_from, tokens_per_count, 1.0)
    height = error = np.zeros(len(edges))
    for width in WIDTHS:
        # [edges, bins]: the heights at the edges as weighted means of bins.
        weights = np.exp(-0.5 * ((edges[:, None] - np.arange(len(number)) - 0.5) / width) ** 2)
        weights /= weights.sum(1, keepdims=True)
        height = weights @ number
        # A count of 0 says no more than that fewer than about one token was expected.
        error = np.sqrt(weights**2 @ (np.maximum(number, scaling) * scaling))
        if height[edge] >= SURE * error[edge]:
            break
    here, noise = height[edge], error[edge]
    apart = (height - here) / np.hypot(error, noise)
    higher = apart >= CLEAR
    if higher[:edge].any() and higher[edge + 1 :].any():
        return "valley"
    if here < SURE * noise:
        return "unclear"
    if here >= BULK * height.max():
        return "bulk"
    return "slope" if higher.any() else "unclear"
