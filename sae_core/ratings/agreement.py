"""How far raters agree beyond chance: Cohen's kappa of two, Krippendorff's alpha of any number.

docs/metrics.md writes both out.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np


def cohens_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float:
    """Kappa of two raters from what each said of the same features; NaN where it is undefined:
    without features, and where both always say one same thing.
    """
    n = len(pairs)
    if not n:
        return math.nan
    ones, others = (Counter(side) for side in zip(*pairs, strict=True))
    observed = sum(one == other for one, other in pairs) / n
    expected = sum(ones[value] * others[value] for value in ones) / n**2
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)


def krippendorffs_alpha(
    units: Sequence[Mapping[str, str]] | Sequence[Sequence[str]], order: Sequence[str]
) -> float:
    """Alpha with the ordinal metric, from the ratings of each feature (by rater, or as a list).

    `order`: the values from least to most. Features with fewer than two ratings count in nothing.
    NaN where it is undefined: without such features, and where all ratings are the same.
    """
    place = {value: i for i, value in enumerate(order)}
    coincidences = np.zeros((len(order), len(order)))
    for unit in units:
        values = [place[v] for v in (unit.values() if isinstance(unit, Mapping) else unit)]
        for i, one in enumerate(values):
            for j, other in enumerate(values):
                if i != j:
                    coincidences[one, other] += 1 / (len(values) - 1)
    sums = coincidences.sum(1)
    total = float(sums.sum())
    if total == 0:
        return math.nan
    # Distance of two values: the ratings from the middle of the one to the middle of the other.
    middles = np.cumsum(sums) - sums / 2
    distance = (middles[:, None] - middles[None, :]) ** 2
    expected = float((np.outer(sums, sums) * distance).sum())
    if expected == 0:
        return math.nan
    return 1 - (total - 1) * float((coincidences * distance).sum()) / expected
