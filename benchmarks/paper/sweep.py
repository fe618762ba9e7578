"""What the sweep of bandwidths says: FVU over the bandwidth, the best one, and a rule's regret.

FVU is moved to the target L0 as in the comparison of architectures. Everything is taken for each
seed alone first, so that what the seeds disagree on shows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.paper.bandwidth import SITES, TARGETS
from benchmarks.pareto_plan import at_target

CLOSE = 0.02
"""What counts as no worse: FVU within this share of the best."""


@dataclass(frozen=True)
class Curve:
    """One setting over bandwidths: `values` are [seeds, bandwidths]."""

    epsilons: np.ndarray
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Geometric mean over seeds."""
        return np.exp(np.log(self.values).mean(0))

    @property
    def best(self) -> int:
        """Index of the bandwidth with the lowest mean."""
        return int(self.mean.argmin())

    def within(self, share: float = CLOSE) -> tuple[float, float]:
        """The bandwidths around the best one up to which the mean stays within `share` of it."""
        fine = self.mean <= (1 + share) * self.mean[self.best]
        low = high = self.best
        while low > 0 and fine[low - 1]:
            low -= 1
        while high < len(fine) - 1 and fine[high + 1]:
            high += 1
        return float(self.epsilons[low]), float(self.epsilons[high])

    def regret(self, epsilon: float) -> np.ndarray:
        """By how much more FVU an `epsilon` has than the best bandwidth of the mean, for each seed,
        as a share; between bandwidths on straight lines of logarithms, beyond them as at the ends.
        """
        at = math.log(epsilon)
        logs = np.log(self.values)
        x = np.log(self.epsilons)
        mine = np.array([np.interp(at, x, row) for row in logs])
        return np.exp(mine - logs[:, self.best]) - 1


def curve(rows: Sequence[dict[str, Any]], field: str = "fvu", **settings: Any) -> Curve | None:
    """The rows of these settings; seeds without all bandwidths are left out, None without any."""
    chosen = [r for r in rows if all(r[k] == v for k, v in settings.items())]
    epsilons = sorted({r["epsilon"] for r in chosen})
    seeds = sorted({r["seed"] for r in chosen})
    table = []
    for seed in seeds:
        by = {r["epsilon"]: r for r in chosen if r["seed"] == seed}
        if len(by) == len(epsilons):
            line = [at_target(by[e]) if field == "fvu" else by[e][field] for e in epsilons]
            table.append([float("nan") if v is None else float(v) for v in line])
    return Curve(np.array(epsilons), np.array(table)) if table else None


def cells(rows: Sequence[dict[str, Any]], *, relative: bool) -> dict[tuple[str, int], Curve]:
    """The curve of every site and target that was trained."""
    group = "relative" if relative else "raw"
    found = {}
    for site in SITES:
        for target in TARGETS:
            each = curve(rows, group=group, site=site, target=target)
            if each is not None:
                found[site, target] = each
    return found


def regrets(data: dict[str, Any], rule: str, *, relative: bool) -> list[tuple[float, np.ndarray]]:
    """For every cell the rule's bandwidth (the median over features) and its regret by seed."""
    kind = "relative" if relative else "raw"
    result = []
    by_cell = cells(data["rows"], relative=relative)
    for each in data["rules"]:
        for target, rules in each["targets"].items():
            cell = by_cell.get((each["site"], int(float(target))))
            if rules and cell is not None:
                epsilon = rules[rule][kind][1]
                result.append((epsilon, cell.regret(epsilon)))
    return result


def fixed(data: dict[str, Any], epsilon: float, *, relative: bool) -> list[np.ndarray]:
    """Of one bandwidth for all: its regret by seed, for every cell."""
    return [cell.regret(epsilon) for cell in cells(data["rows"], relative=relative).values()]


def fixed_regret(data: dict[str, Any], *, relative: bool) -> tuple[float, list[np.ndarray]]:
    """The one bandwidth for all cells with the least mean regret, and its regrets."""
    candidates = next(iter(cells(data["rows"], relative=relative).values())).epsilons
    all_of = {float(e): fixed(data, float(e), relative=relative) for e in candidates}
    best = min(all_of, key=lambda e: float(np.mean([r.mean() for r in all_of[e]])))
    return best, all_of[best]


def against_rectangle(
    data: dict[str, Any], site: str, **settings: Any
) -> tuple[float, np.ndarray] | None:
    """Another kernel's best bandwidth, and by seed its FVU there over the rectangle's at its own;
    None where it was not trained.
    """
    rows = data["rows"]
    mine = curve(rows, site=site, target=32, relative=False, **settings)
    rectangle = curve(rows, site=site, target=32, group="raw")
    # Seeds begin with 0 in both, and the rectangle may have had one more.
    if mine is None or rectangle is None:
        return None
    seeds = min(len(mine.values), len(rectangle.values))
    ratio = mine.values[:seeds, mine.best] / rectangle.values[:seeds, rectangle.best]
    return float(mine.epsilons[mine.best]), ratio
