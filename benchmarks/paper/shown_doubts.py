"""What the verdicts of the comparison hang on, in sentences: L0s, single seeds, rates and runs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from app.web.charts import CURVES
from benchmarks.paper.comparison_plan import DEMO, SEEDS, chosen
from benchmarks.paper.shown_comparison import (
    COMPARED,
    SUFFIXES,
    columns,
    mean_of,
    points_of,
    quotients,
    rows_of,
)
from benchmarks.paper.shown_text import NAMES, Results, listed, share
from benchmarks.paper.shown_verdicts import METRICS
from benchmarks.paper.verdicts import (
    MOST_MISSED,
    Place,
    Points,
    quotient,
    reported,
)
from benchmarks.pareto_plan import MOST_DEAD

_BROKEN = 0.5
"""Share of dead features from which an SAE is said to have broken down."""


def _at(place: Place) -> str:
    name, site, target = place
    return f"{CURVES[name]} at `{site}` with an L0 of {target}"


def _on(model: str) -> str:
    return "" if model == DEMO else f" on the {NAMES[model]}"


def _missed(held: Results) -> str:
    """Where a reported seed is too far off its L0, and by how much the others are off at most."""
    far, near = [], [0.0]
    for model in SUFFIXES:
        for place, each in points_of(held, model, "fvu").items():
            if each.missed > MOST_MISSED:
                far.append(f"{_at(place)}{_on(model)} ({share(each.missed)})")
            else:
                near.append(each.missed)
    return f"{listed(far) if far else 'none'}; no other by more than {share(max(near))}."


def _unmoved(held: Results) -> str:
    """Which verdicts would be others if values were taken at the L0s that the SAEs have."""
    total, others = 0, []
    for model in SUFFIXES:
        for metric, words in METRICS.items():
            found = points_of(held, model, metric)
            for place, said in quotients(held, model, metric).items():
                first, second = (_still(found[p]) for p in (("jumprelu", *place[1:]), place))
                now = quotient(first, second)
                total += 1
                if now.verdict != said.verdict:
                    on = "" if model == DEMO else f", {NAMES[model]}"
                    others.append(f"{words} against {_at(place)}{on} ({_said(now.verdict)})")
    if not others:
        return f"Unmoved, all {total} verdicts are the same."
    return f"Unmoved, {len(others)} of {total} verdicts are others: {listed(others)}."


def _said(verdict: str) -> str:
    return "undecided" if verdict == "open" else verdict


def _still(each: Points) -> Points:
    return replace(each, move=np.ones_like(each.move))


def _broken(held: Results) -> str:
    """Where most features of reported seeds are dead."""
    counted: dict[str, int] = {}
    for r in held["comparison"]["rows"]:
        model = reported(r)
        if model and r["dead"] > _BROKEN:
            place = _at((r["architecture"], r["site"], r["target"])) + _on(model)
            counted[place] = counted.get(place, 0) + 1
    if not counted:
        return "no reported SAE."
    parts = [f"{place} ({count} of {len(SEEDS)} seeds)" for place, count in counted.items()]
    return f"{listed(parts)}."


def _best_seeds(held: Results) -> str:
    """What is left of the lead if the others have the best of their seeds, JumpReLU the mean."""
    found = points_of(held, DEMO, "fvu")
    total, not_lower = 0, []
    for place, each in found.items():
        mine = found.get(("jumprelu", *place[1:]))
        if place[0] == "jumprelu" or mine is None:
            continue
        every = np.arange(each.blocks.shape[1])[None]
        values = each.values(every)
        if not np.isfinite(values).any() or not np.isfinite(mine.mean()):
            continue
        total += 1
        if np.nanmin(values) <= mine.mean():
            not_lower.append(_at(place))
    but = f", not below {listed(not_lower)}" if not_lower else ""
    return f"in {total - len(not_lower)} of {total} comparisons{but}"


def _at_ends(held: Results) -> str:
    """How many leads are over a rate at an end of the sweep."""
    rate = chosen(held["comparison"]["rows"])
    rates = held["comparison"]["settings"]["rates"]
    ends = (min(rates), max(rates))
    won = [k for k, q in quotients(held, DEMO, "fvu").items() if q.verdict == "lower"]
    at_end = [k for k in won if rate[k] in ends]
    mine = sum(lr in ends for (name, *_), lr in rate.items() if name == "jumprelu")
    own = "none is" if not mine else f"{mine} are"
    by = [
        f"{CURVES[name]} {count}"
        for name in COMPARED
        if (count := sum(k[0] == name for k in at_end))
    ]
    beside = f" ({', '.join(by)})" if by else ""
    inside = len(won) - len(at_end)
    return (
        f"Of the {len(won)} comparisons in which JumpReLU's FVU is lower, {len(at_end)} are with a "
        f"rate at an end of the sweep{beside}, and one beyond might be better; {inside} are with "
        f"one inside. Of JumpReLU's own rates {own} at an end."
    )


def _sweep_missed(held: Results) -> str:
    """How many tried settings are too far off their L0 to be compared without moving them."""
    parts = []
    for name in ("jumprelu", *COMPARED):
        own = rows_of(held, stage="sweep", architecture=name)
        if far := sum(abs(r["l0"] / r["target"] - 1) > MOST_MISSED for r in own):
            parts.append(f"{far} of {len(own)} with {CURVES[name]}")
    return listed(parts) if parts else "none"


def _dead_counted(held: Results) -> str:
    """At how many places more than a twentieth of the features is dead."""
    lines = []
    for model in SUFFIXES:
        found = points_of(held, model, "fvu")
        parts = []
        for name in columns(found) if found else ():
            places = [k for k in found if k[0] == name]
            parts.append(f"{CURVES[name]} {sum(_dead(held, model, k) > MOST_DEAD for k in places)}")
        if parts:
            places_of = len({k[1:] for k in found})
            whose = "demo" if model == DEMO else NAMES[model]
            lines.append(f"of the {whose}'s {places_of}: {', '.join(parts)}")
    if not lines:
        return "Not trained before the time was up."
    return f"More than {share(MOST_DEAD)} are dead at so many places {'; '.join(lines)}."


def _dead(held: Results, model: str, place: Place) -> float:
    name, site, target = place
    own = rows_of(held, architecture=name, site=site, target=target)
    return mean_of([r for r in own if reported(r) == model], "dead")


SHOWN: dict[str, Callable[[Results], str]] = {
    "comparison.missed": _missed,
    "comparison.unmoved": _unmoved,
    "comparison.broken": _broken,
    "comparison.best_seeds": _best_seeds,
    "comparison.at_ends": _at_ends,
    "comparison.sweep_missed": _sweep_missed,
    "comparison.dead_counted": _dead_counted,
}
