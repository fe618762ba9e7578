"""How good an explanation is: correlation of simulated activations, and balanced accuracy of
detection with its interval.
"""

import math
from collections.abc import Sequence

from sae_core.wilson import wilson


def correlation(simulated: Sequence[float], true: Sequence[float]) -> float:
    """Pearson's correlation over all tokens; NaN where either is the same everywhere."""
    n = len(true)
    if len(simulated) != n:
        raise ValueError(f"{len(simulated)} simulated activations for {n} tokens.")
    if n < 2:
        return math.nan
    mean_s, mean_t = math.fsum(simulated) / n, math.fsum(true) / n
    s = [value - mean_s for value in simulated]
    t = [value - mean_t for value in true]
    norm = math.sqrt(math.fsum(a * a for a in s)) * math.sqrt(math.fsum(b * b for b in t))
    if norm == 0:
        return math.nan
    return max(-1.0, min(1.0, math.fsum(a * b for a, b in zip(s, t, strict=True)) / norm))


def balanced_accuracy(
    right_positives: int, positives: int, right_negatives: int, negatives: int
) -> tuple[float, float, float]:
    """Mean of the shares of positives and of negatives that were told right, with its interval of
    95 %; NaN where there are none of either.

    The interval joins Wilson's of the two shares by the squares of their distances (R. G. Newcombe,
    Statistics in Medicine 17, 1998; G. Zou and A. Donner, 27, 2008):

        a = (p + q) / 2,   low = a - sqrt((p - p_low)² + (q - q_low)²) / 2,   high alike
    """
    if not positives or not negatives:
        return math.nan, math.nan, math.nan
    p, q = right_positives / positives, right_negatives / negatives
    p_low, p_high = wilson(right_positives, positives)
    q_low, q_high = wilson(right_negatives, negatives)
    mean = (p + q) / 2
    low = mean - math.hypot(p - p_low, q - q_low) / 2
    high = mean + math.hypot(p_high - p, q_high - q) / 2
    return mean, max(0.0, low), min(1.0, high)
