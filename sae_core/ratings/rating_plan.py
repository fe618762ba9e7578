"""Which features are rated: as many of each SAE, as evenly from bands of frequency as there are,
drawn from a seed and shuffled over the SAEs.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

BANDS: Final = (
    ("under 1 in 10,000", 0.0, 1e-4),
    ("1 in 10,000 to 1 in 1,000", 1e-4, 1e-3),
    ("1 in 1,000 to 1 in 100", 1e-3, 1e-2),
    ("1 in 100 and more", 1e-2, 2.0),
)
"""Name, least frequency and the frequency that is above it. A feature that never fires is in none:
there is nothing to rate."""
MISSES: Final = 5
"""Features that do not fit, for each that is wanted, after which an SAE has no more of them."""


@dataclass(frozen=True, kw_only=True)
class PlannedItem:
    """A feature that is to be rated."""

    sae: str
    feature: int
    band: str


def rating_plan(
    frequencies: Mapping[str, np.ndarray],
    per_sae: int,
    seed: int = 0,
    fits: Callable[[str, int], bool] = lambda sae, feature: True,
) -> list[PlannedItem]:
    """The features to rate in the order in which they are shown, the same for the same seed.

    `frequencies`: each SAE's, `[d_sae]`. Only features that `fits` says yes to are taken; an SAE
    without enough of them has fewer than `per_sae`, and so has one where `MISSES` times as many do
    not fit.
    """
    if per_sae < 1:
        raise ValueError(f"a plan has {per_sae} features of each SAE but must have 1 or more.")
    items = []
    for sae, shares in frequencies.items():
        drawn = random.Random(f"plan {seed} {sae}")
        queues = []
        for band, low, high in BANDS:
            members = np.flatnonzero((shares > 0) & (shares >= low) & (shares < high)).tolist()
            drawn.shuffle(members)
            queues.append((band, members))
        taken: list[PlannedItem] = []
        misses = MISSES * per_sae
        # One of each band in turn, until there are enough or none is left.
        while len(taken) < per_sae and misses and any(members for _, members in queues):
            for band, members in queues:
                while members and misses and len(taken) < per_sae:
                    feature = members.pop()
                    if fits(sae, feature):
                        taken.append(PlannedItem(sae=sae, feature=feature, band=band))
                        break
                    misses -= 1
        items += taken
    random.Random(f"order {seed}").shuffle(items)
    return items
