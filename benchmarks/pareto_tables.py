"""The tables and verdicts of docs/pareto.md, from a comparison's curves (`pareto_report.curves_of`)
and its sweeps.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.web.charts import CURVES
from app.web.numbers import percent
from benchmarks.pareto_plan import OURS, PEERS, SLOPE, at_target, best_rate
from sae_core.metrics import HIGH_FREQUENCY

SAME = "the same"
"""What a difference is called that is no larger than that between seeds."""

Comparison = Mapping[str, Any]


def value_at(points: Sequence[Mapping[str, Any]], metric: str, l0: float) -> float | None:
    """A metric of a curve at an L0, on straight lines between the logarithms of its points.

    The outer lines reach a tenth beyond the points, since an SAE misses its L0 by a little; None
    further out.
    """
    positive = [(p["l0"], p[metric]) for p in points if p[metric] is not None and p[metric] > 0]
    if len(positive) < 2 or not positive[0][0] / 1.1 <= l0 <= positive[-1][0] * 1.1:
        return None
    x, y = np.log(np.array(positive, dtype=float)).T
    at = math.log(l0)
    i = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))
    slope = (y[i] - y[i - 1]) / (x[i] - x[i - 1])
    return float(np.exp(y[i] + slope * (at - x[i])))


def spread(curve: Mapping[str, Any], metric: str, point: int) -> float | None:
    """Largest value over smallest, less 1, of a curve's seeds, moved to the same L0."""
    values = [
        seed[metric] * (seed["l0"] / point) ** SLOPE
        for seed in curve["seeds"]
        if seed[metric] is not None and seed[metric] > 0
    ]
    return max(values) / min(values) - 1 if len(values) > 1 else None


def noise(comparison: Comparison, metric: str) -> float | None:
    """The largest `spread` of all curves."""
    spreads = [spread(curve, metric, comparison["point"]) for curve in comparison["curves"]]
    return max((value for value in spreads if value is not None), default=None)


def at_site(comparison: Comparison, site: str) -> dict[str, Mapping[str, Any]]:
    """The curves at a site by name."""
    return {c["curve"]: c for c in comparison["curves"] if c["site"] == site}


def table(comparison: Comparison, site: str, metric: str, l0s: Sequence[int]) -> list[str]:
    """Rows of a Markdown table: a metric at the same L0, and in brackets what it is of JumpReLU."""
    curves = at_site(comparison, site)
    lines = [
        "| | " + " | ".join(f"L0 {l0}" for l0 in l0s) + " |",
        "| --- |" + " --- |" * len(l0s),
    ]
    for name, curve in curves.items():
        cells = []
        for l0 in l0s:
            value = value_at(curve["points"], metric, l0)
            base = (
                value_at(curves["jumprelu"]["points"], metric, l0) if name != "jumprelu" else None
            )
            relative = f" ({_signed(value / base - 1)})" if value and base else ""
            cells.append("-" if value is None else f"{value:.4f}{relative}")
        lines.append(f"| {CURVES[name]} | " + " | ".join(cells) + " |")
    return lines


def verdicts(comparison: Comparison, site: str, metric: str, l0s: Sequence[int]) -> list[str]:
    """Of each other curve at a site, where JumpReLU's metric is lower or higher, and where the
    difference is no larger than the seeds' spread."""
    lines = []
    for name, places in differences(comparison, site, metric, l0s).items():
        said = [
            f"{word} at an L0 of {', '.join(map(str, at))}"
            + ("" if word == SAME else f" by {_range(list(at.values()))}")
            for word, at in places.items()
            if at
        ]
        if said:
            lines.append(f"- JumpReLU against {CURVES[name]}: {'; '.join(said)}.")
    return lines


def differences(
    comparison: Comparison,
    site: str,
    metric: str,
    l0s: Sequence[int],
    limit: float | None = None,
) -> dict[str, dict[str, dict[int, float]]]:
    """By other curve at a site, at which L0 JumpReLU's metric is lower, higher or the same as far
    as seeds can tell (`limit`, by default the comparison's `noise`), and by what share."""
    curves = at_site(comparison, site)
    limit = (noise(comparison, metric) or 0.0) if limit is None else limit
    own = curves.pop("jumprelu", None)
    if own is None:
        return {}
    by_curve = {}
    for name, curve in curves.items():
        places: dict[str, dict[int, float]] = {"lower": {}, "higher": {}, SAME: {}}
        for l0 in l0s:
            mine, other = (value_at(c["points"], metric, l0) for c in (own, curve))
            if mine is not None and other is not None:
                difference = mine / other - 1
                word = "lower" if difference < 0 else "higher"
                places[SAME if abs(difference) <= limit else word][l0] = abs(difference)
        by_curve[name] = places
    return by_curve


def in_short(comparison: Comparison, metric: str, l0s: Sequence[int]) -> list[str]:
    """Rows of a Markdown table: against each other curve, in how many places (a site and an L0)
    JumpReLU's metric is lower, the same and higher, by how much, and where it is not lower."""
    lines = [
        "| JumpReLU against | places | lower | the same | higher | where not lower |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, at in _places(comparison, metric, l0s).items():
        shares = _shares(at)
        cells = [_counted(shares[word], word) for word in shares]
        rest = [
            f"{site} at {', '.join(map(str, sorted(places['higher'] | places[SAME])))}"
            for site, places in at.items()
            if places["higher"] or places[SAME]
        ]
        total = sum(map(len, shares.values()))
        lines.append(
            f"| {CURVES[name]} | {total} | {' | '.join(cells)} | {'; '.join(rest) or '-'} |"
        )
    return lines


def _places(
    comparison: Comparison, metric: str, l0s: Sequence[int], limit: float | None = None
) -> dict[str, dict[str, dict[str, dict[int, float]]]]:
    """`differences` of all sites: by other curve, in the order of `CURVES`, then by site."""
    by_curve: dict[str, dict[str, dict[str, dict[int, float]]]] = {}
    for site in sites_of(comparison):
        for name, places in differences(comparison, site, metric, l0s, limit).items():
            by_curve.setdefault(name, {})[site] = places
    return {name: by_curve[name] for name in CURVES if name in by_curve}


def _shares(at: Mapping[str, Mapping[str, Mapping[int, float]]]) -> dict[str, list[float]]:
    """By how much a curve's metric differs at all places of a verdict."""
    return {
        word: [share for places in at.values() for share in places[word].values()]
        for word in ("lower", SAME, "higher")
    }


def by_choice(
    choices: Mapping[str, Comparison], metric: str, l0s: Sequence[int], limit: float
) -> list[str]:
    """Rows of a Markdown table: by how a point's SAE is chosen among its rates, in how many places
    JumpReLU's metric is lower than each other curve's and in how many higher, and by how much; the
    rest is the same, within `limit`."""
    places = {
        choice: _places(comparison, metric, l0s, limit) for choice, comparison in choices.items()
    }
    names = list(next(iter(places.values())))
    lines = [
        "| of a point's three SAEs | " + " | ".join(CURVES[name] for name in names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for choice, curves in places.items():
        cells = []
        for name in names:
            shares = _shares(curves[name])
            cell = f"{len(shares['lower'])} of {sum(map(len, shares.values()))}"
            if shares["lower"]:
                cell += f", by {_range(shares['lower'])}"
            if shares["higher"]:
                cell += f"; higher at {_counted(shares['higher'], 'higher')}"
            cells.append(cell)
        lines.append(f"| {choice} | {' | '.join(cells)} |")
    return lines


def _counted(shares: Sequence[float], word: str) -> str:
    if not shares or word == SAME:
        return str(len(shares))
    return f"{len(shares)}, by {_range(shares)}"


def dead(comparison: Comparison, targets: Sequence[int]) -> list[str]:
    """Rows of a Markdown table: the shares of dead features at L0 targets, by site and curve."""
    names = [name for name in CURVES if any(c["curve"] == name for c in comparison["curves"])]
    lines = [
        "| | " + " | ".join(CURVES[name] for name in names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for site in sites_of(comparison):
        curves = at_site(comparison, site)
        cells = []
        for name in names:
            points = curves[name]["points"] if name in curves else []
            shares = {point["target"]: percent(point["dead"]) for point in points}
            cells.append(", ".join(shares.get(target, "-") for target in targets) if shares else "")
        lines.append(f"| {site} | {' | '.join(cells)} |")
    return lines


def sites_of(comparison: Comparison) -> list[str]:
    """The sites, in the page's order."""
    return list(dict.fromkeys(curve["site"] for curve in comparison["curves"]))


def _range(shares: Sequence[float]) -> str:
    low, high = (f"{100 * share:.1f}" for share in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")


def chosen_rates(results: Mapping[str, Any]) -> list[str]:
    """Rows of a Markdown table: each curve's sweep, best rate in bold."""
    groups = results["groups"]
    rates = sorted(
        {row["lr"] for g in groups.values() if g["stage"] == "sweep" for row in g["rows"]}
    )
    lines = [
        "| | window | " + " | ".join(f"{lr:g}" for lr in rates) + " |",
        "| --- | --- |" + " --- |" * len(rates),
    ]
    for curve in (*OURS, *PEERS):
        best = best_rate(groups, curve)
        for window in ("own", "wide"):
            rows = {
                row["lr"]: row
                for g in groups.values()
                if g["stage"] == "sweep"
                for row in g["rows"]
                if (row["curve"], row["window"]) == (curve, window)
            }
            if rows:
                cells = [_swept(rows[lr], rows[lr] is best) if lr in rows else "" for lr in rates]
                lines.append(f"| {CURVES[curve]} | {window} | " + " | ".join(cells) + " |")
    return lines


def _swept(row: Mapping[str, Any], best: bool) -> str:
    value = at_target(dict(row))
    text = "-" if not math.isfinite(value) else f"{value:.4f}"
    return f"**{text}**" if best else text


def health(comparison: Comparison, site: str) -> list[str]:
    """Rows of a Markdown table: what else was measured of the SAEs at the seeds' L0."""
    lines = [
        f"| | L0 | dead | on {100 * HIGH_FREQUENCY:g} % of tokens or more "
        "| KL, nats | uniformity |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, curve in at_site(comparison, site).items():
        for p in curve["points"]:
            if p["target"] == comparison["point"]:
                uniform = "-" if p["uniformity"] is None else f"{p['uniformity']:.3f}"
                lines.append(
                    f"| {CURVES[name]} | {p['l0']:.1f} | {percent(p['dead'])} | "
                    f"{percent(p['high_frequency'])} | {p['kl']:.4f} | {uniform} |"
                )
    return lines
