"""Scales of the overview's three numbers: what each would be at its ends, and where it stands.

A number alone says little to who sees it for the first time: 0.115 is near 0, a perfect
reconstruction; +0.112 nats is a fiftieth of what the site is worth to the model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.web.charts.pareto import CURVES
from app.web.numbers import count, fixed, number, percent, signed
from sae_core.number_text import fvu_text

Data = Mapping[str, Any]

MOST_DOTS: Final = 4096
"""Dots that are drawn at most; of a wider SAE a dot is several features."""
_COLUMNS: Final = 128
_NEAR: Final = 1.3
"""Times by which the L0 of another SAE may differ to be put beside this one's FVU."""
_SCATTER: Final = 0.6180339887498949
"""Steps of this part of the dots spread them evenly."""


@dataclass(frozen=True, kw_only=True)
class Dots:
    """Features as dots, those that fire on a token among them."""

    columns: int
    rows: int
    last: int
    """Dots in the last row."""
    lit: Sequence[tuple[int, int]]
    """(column, row) of those that fire."""
    words: str


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A line from one end to another, with this SAE's place and others'."""

    low: str
    high: str
    at: float
    """Where this SAE stands, percent of the line."""
    others: Sequence[float]
    words: str


def dots(l0: float | None, d_sae: int | None) -> Dots | None:
    """L0 of a width; None where it is not known."""
    if l0 is None or not math.isfinite(l0) or not d_sae:
        return None
    each = math.ceil(d_sae / MOST_DOTS)
    total = math.ceil(d_sae / each)
    columns = min(_COLUMNS, total)
    many = min(total, math.ceil(round(l0) / each))
    step = round(total * _SCATTER)
    while math.gcd(step, total) != 1:
        step += 1
    places = sorted(k * step % total for k in range(1, many + 1))
    share = f" (one in {number(d_sae / l0, 2)})" if l0 > 0 else ""
    words = f"On average {number(l0)} of {count(d_sae)} features fire on a token{share}."
    if each > 1:
        words += f" A dot is {each:,} features."
    return Dots(
        columns=columns,
        rows=math.ceil(total / columns),
        last=(total - 1) % columns + 1,
        lit=[(place % columns, place // columns) for place in places],
        words=words,
    )


def fvu_axis(
    fvu: float | None, l0: float | None, comparison: Data | None, site: Any
) -> Axis | None:
    """FVU between 0 and 1, with what other architectures reach at this site near this L0."""
    if fvu is None or not 0 <= fvu <= 1:
        return None
    beside = _beside(l0, comparison, site)
    words = f"{percent(1 - fvu)} of the activation's variance is reconstructed."
    if beside and comparison is not None:
        values = sorted(value for _, value in beside)
        reach = fvu_text(values[0])
        reach += f" to {fvu_text(values[-1])}" if fvu_text(values[-1]) != reach else ""
        words += (
            f" Thin marks: {', '.join(CURVES[curve] for curve, _ in beside)} here near this L0, "
            f"{reach}, each trained on {count(comparison['tokens'])} tokens."
        )
    return Axis(
        low="0, perfect",
        high="1, no better than the mean",
        at=100 * fvu,
        others=[100 * value for _, value in beside],
        words=words,
    )


def _beside(l0: float | None, comparison: Data | None, site: Any) -> list[tuple[str, float]]:
    """(curve, FVU) of the point next to an L0, of each curve that has one near it."""
    if l0 is None or l0 <= 0 or comparison is None:
        return []
    beside = []
    for curve in comparison["curves"]:
        if curve["site"] != site:
            continue
        ratios = [
            (abs(math.log(point["l0"] / l0)), point["fvu"])
            for point in curve["points"]
            if point["l0"] > 0 and point["fvu"] is not None
        ]
        distance, value = min(ratios, default=(math.inf, math.nan))
        if distance <= math.log(_NEAR):
            beside.append((curve["curve"], value))
    return sorted(beside, key=lambda each: list(CURVES).index(each[0]))


def ablation_cost(delta: float | None, recovered: float | None) -> float | None:
    """What the mean in a site's place costs the model, nats per token, from delta LM loss and the
    loss recovered against it, 1 - delta / cost; None where they do not tell.
    """
    if delta is None or recovered is None or not delta > 0 or not recovered < 1:
        return None
    return delta / (1 - recovered)


def loss_axis(delta: float | None, recovered: float | None) -> Axis | None:
    """Delta LM loss between the untouched model and one with the mean in the site's place."""
    cost = ablation_cost(delta, recovered)
    if cost is None or delta is None or delta > cost:
        return None
    return Axis(
        low="0, untouched",
        high=f"{signed(cost, 2)}, mean in its place",
        at=100 * delta / cost,
        others=(),
        words=f"Of what this site is worth to the model, {percent(delta / cost)} is lost.",
    )


def disagreement(rows: Sequence[Data]) -> str:
    """Why one SAE has the larger delta LM loss and yet recovers more than another; "" if none."""
    known = [
        (row, cost)
        for row in rows
        if (cost := ablation_cost(row.get("delta_lm_loss"), row.get("loss_recovered_mean")))
    ]
    for row, cost in known:
        for other, other_cost in known:
            costs_more = row["delta_lm_loss"] > other["delta_lm_loss"]
            if costs_more and row["loss_recovered_mean"] > other["loss_recovered_mean"]:
                place, lost, kept = row["place"], "delta_lm_loss", "loss_recovered_mean"
                return (
                    f"{place[:1].upper()}{place[1:]} costs the model more ({signed(row[lost], 3)} "
                    f"against {signed(other[lost], 3)} nats) and yet recovers more "
                    f"({fixed(row[kept], 3)} against {fixed(other[kept], 3)}): both are right. "
                    f"With the mean in its place the model would lose {fixed(cost, 2)} nats there, "
                    f"but only {fixed(other_cost, 2)} at {other['place']}, and loss recovered is "
                    "the part of that which is kept."
                )
    return ""
