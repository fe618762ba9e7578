"""What the comparison of architectures says: each at one L0, and intervals of their quotients.

An interval of 95 % is of a bootstrap over blocks of text, the same for both architectures, and over
seeds, for each by itself; what three seeds vary by is enlarged by the root of 3/2, since draws from
so few vary by less than seeds do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.paper.comparison_plan import DEMO
from benchmarks.pareto_plan import SLOPE

RESAMPLES = 2_000
FIELDS = {"fvu": "errors", "delta_lm_loss": "losses"}
"""Metrics, and which numbers of the blocks they are made from."""
MOST_MISSED = 0.1
"""By what share of the L0 that was asked for a seed may miss it; where one is farther off there is
no verdict, since what it is moved by would have a say in it."""
Place = tuple[str, str, int]
"""Architecture, site and L0."""


@dataclass(frozen=True)
class Points:
    """The seeds of one architecture at one site and L0."""

    blocks: np.ndarray
    """`[seeds, blocks]`: squared errors or losses."""
    weights: np.ndarray
    """`[blocks]`: what the mean over blocks is divided by."""
    move: np.ndarray
    """`[seeds]`: the factor that moves each seed's value to the L0 that was asked for; NaN for one
    of which no feature is active.
    """
    missed: float = 0.0
    """By what share of the L0 that was asked for the farthest seed misses it."""

    def values(self, drawn: np.ndarray) -> np.ndarray:
        """Of each draw of blocks `[draws, blocks]` and each seed; NaN where it is not above 0."""
        sums = self.blocks[:, drawn].sum(2).T / self.weights[drawn].sum(1)[:, None]
        return np.where(sums > 0, sums, np.nan) * self.move

    def mean(self) -> float:
        """Geometric mean over seeds, on all blocks; NaN where a seed's is not above 0."""
        every = np.arange(self.blocks.shape[1])[None]
        return float(np.exp(np.log(self.values(every)).mean()))


def points(data: dict[str, Any], model: str, metric: str) -> dict[Place, Points]:
    """Of all architectures, sites and L0s that were reported on a language model, by its name, but
    not where JumpReLU is alone: a slope that the others have no second L0 for would be its own.
    """
    rows: dict[Place, list[dict[str, Any]]] = {}
    for row in data["rows"]:
        if reported(row) == model:
            place = (row["architecture"], row["site"], row["target"])
            rows.setdefault(place, []).append(row)
    compared = {place[1:] for place in rows if place[0] != "jumprelu"}
    rows = {place: each for place, each in rows.items() if place[1:] in compared}
    found = {}
    for place, each in rows.items():
        blocks = np.array([row[FIELDS[metric]] for row in each])
        deviations = np.array(data["texts"][model]["deviations"][place[1]])
        slope = _slope(rows, place, metric)
        found[place] = Points(
            blocks=blocks,
            weights=deviations if metric == "fvu" else np.ones(blocks.shape[1]),
            move=np.array([_moved(row, slope) for row in each]),
            missed=max(abs(row["l0"] / row["target"] - 1) for row in each),
        )
    return found


def reported(row: dict[str, Any]) -> str | None:
    """The language model that an SAE is reported on; None for one that is not reported."""
    return {"report": DEMO, "other": row.get("family")}.get(row["stage"])


def _moved(row: dict[str, Any], slope: float) -> float:
    return (row["target"] / row["l0"]) ** slope if row["l0"] else math.nan


def _slope(rows: dict[Place, list[dict[str, Any]]], place: Place, metric: str) -> float:
    """How the logarithm of a metric goes with that of L0 around a point: the mean of the slopes to
    the points beside it; of FVU as in `benchmarks.pareto` where there is none.
    """
    architecture, site, target = place
    line = []
    for l0 in sorted(t for a, s, t in rows if (a, s) == (architecture, site)):
        each = rows[architecture, site, l0]
        y = float(np.mean([row[metric] for row in each]))
        mean = float(np.mean([row["l0"] for row in each]))
        line.append((l0, math.log(mean) if mean else math.nan, y))
    at = [l0 for l0, _, _ in line].index(target)
    slopes = []
    for k in (at - 1, at):
        if not 0 <= k < len(line) - 1:
            continue
        (_, x0, y0), (_, x1, y1) = line[k : k + 2]
        if min(y0, y1) > 0 and math.isfinite(x1 - x0) and x1 != x0:
            slopes.append((math.log(y1) - math.log(y0)) / (x1 - x0))
    return float(np.mean(slopes)) if slopes else -SLOPE


@dataclass(frozen=True)
class Quotient:
    """How a second architecture compares with a first, at one place."""

    share: float
    """By what share the second is above the first."""
    low: float
    high: float
    missed: bool = False
    """Whether a seed of either is too far off the L0 for a verdict."""

    @property
    def verdict(self) -> str:
        """`lower` if the first surely is, `higher` if the second is, else `open`."""
        if self.missed:
            return "open"
        if self.low > 0:
            return "lower"
        return "higher" if self.high < 0 else "open"


def quotient(first: Points, second: Points, seed: int = 0) -> Quotient:
    """Of the geometric means over seeds. ValueError for different blocks of text; all NaN where a
    value is not above 0 in more than a twentieth of the draws.
    """
    if first.blocks.shape[1] != second.blocks.shape[1]:
        raise ValueError("the two were measured on other blocks of text.")
    generator = np.random.default_rng(seed)
    count = first.blocks.shape[1]
    drawn = generator.integers(0, count, (RESAMPLES, count))
    logs = [_drawn_logs(each, drawn, generator) for each in (first, second)]
    difference = logs[1] - logs[0]
    known = np.isfinite(difference)
    if known.mean() < 0.95:
        return Quotient(math.nan, math.nan, math.nan)
    low, high = np.exp(np.quantile(difference[known], [0.025, 0.975])) - 1
    missed = max(first.missed, second.missed) > MOST_MISSED
    return Quotient(second.mean() / first.mean() - 1, float(low), float(high), missed)


def _drawn_logs(each: Points, drawn: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    logs = np.log(each.values(drawn))
    seeds = logs.shape[1]
    middle = logs.mean(1)
    if seeds == 1:
        return middle
    chosen = generator.integers(0, seeds, logs.shape)
    of_drawn = np.take_along_axis(logs, chosen, 1).mean(1)
    return middle + math.sqrt(seeds / (seeds - 1)) * (of_drawn - middle)


def counts(quotients: Sequence[Quotient]) -> dict[str, int]:
    """How many verdicts there are of each kind."""
    found: dict[str, int] = dict.fromkeys(("lower", "open", "higher"), 0)
    for each in quotients:
        found[each.verdict] += 1
    return found
