"""What the comparison of architectures says, as tables."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from app.web.charts import CURVES
from benchmarks.paper.comparison_plan import (
    CURED,
    DEMO,
    FAMILIES,
    PEERS,
    SITES,
    TARGETS,
    chosen,
    tried,
)
from benchmarks.paper.kinds import ARCHITECTURES
from benchmarks.paper.shown_text import UNTRAINED, Results, cost, digits, share, table
from benchmarks.paper.verdicts import (
    Place,
    Points,
    Quotient,
    counts,
    points,
    quotient,
    reported,
)
from benchmarks.pareto_plan import at_target

OTHERS = tuple(name for name in ARCHITECTURES if name != "jumprelu")
COMPARED = (*OTHERS, *PEERS)
SUFFIXES = {DEMO: ""} | {family: f"_{family}" for family in FAMILIES}
"""Of what is shown, by language model."""
_MARKS = {"lower": "**", "open": "", "higher": "_"}


def points_of(held: Results, model: str, metric: str) -> dict[Place, Points]:
    """The seeds at every place of a language model."""
    return points(held["comparison"], model, metric)


def quotients(held: Results, model: str, metric: str) -> dict[Place, Quotient]:
    """Of every other architecture over JumpReLU, at every place where both were trained."""
    found = points_of(held, model, metric)
    return {
        (name, site, target): quotient(found["jumprelu", site, target], each)
        for (name, site, target), each in found.items()
        if name != "jumprelu" and ("jumprelu", site, target) in found
    }


def _places(rows: dict[Place, Any]) -> list[tuple[str, int]]:
    there = {(site, target) for _, site, target in rows}
    return [(s, t) for s in SITES for t in TARGETS if (s, t) in there]


def columns(rows: dict[Place, Any]) -> list[str]:
    """JumpReLU, the other architectures, and peers where there are any."""
    there = {name for name, *_ in rows}
    return [*ARCHITECTURES, *(peer for peer in PEERS if peer in there)]


def _range(values: Sequence[float]) -> str:
    low, high = (100 * each for each in (min(values), max(values)))
    return f", by {low:.1f} %" if len(values) == 1 else f", by {low:.1f} to {high:.1f} %"


def _summary(model: str, held: Results) -> str:
    if not quotients(held, model, "fvu"):
        return UNTRAINED
    rows = []
    for metric, title in (("fvu", "FVU"), ("delta_lm_loss", "delta LM loss")):
        found = quotients(held, model, metric)
        for name in columns(found)[1:]:
            own = [q for (each, *_), q in found.items() if each == name]
            total = counts(own)
            lower = [1 - 1 / (1 + q.share) for q in own if q.verdict == "lower"]
            higher = [1 / (1 + q.share) - 1 for q in own if q.verdict == "higher"]
            rows.append(
                [
                    f"{title} against {CURVES[name]}",
                    str(len(own)),
                    f"{total['lower']}{_range(lower) if lower else ''}",
                    str(total["open"]),
                    f"{total['higher']}{_range(higher) if higher else ''}",
                ]
            )
    return table(["JumpReLU's", "places", "lower", "undecided", "higher"], rows)


def _against(model: str, metric: str, held: Results) -> str:
    found, against = points_of(held, model, metric), quotients(held, model, metric)
    if not against:
        return UNTRAINED
    names, rows = columns(found)[1:], []
    for site, target in _places(found):
        if ("jumprelu", site, target) not in found:
            continue
        mine = found["jumprelu", site, target].mean()
        cells = [_cell(against.get((name, site, target))) for name in names]
        rows.append([f"{site}, {target}", digits(mine) if mine > 0 else "", *cells])
    return table(["site, L0", "JumpReLU", *(CURVES[name] for name in names)], rows)


def _cell(each: Quotient | None) -> str:
    if each is None or math.isnan(each.low):
        return ""
    mark = _MARKS[each.verdict]
    middle, low, high = (100 * v for v in (each.share, each.low, each.high))
    missed = " †" if each.missed else ""
    return f"{mark}{middle:+.1f} %{mark} ({low:+.1f} to {high:+.1f}){missed}"


def rows_of(held: Results, **settings: Any) -> list[dict[str, Any]]:
    """The SAEs with these settings."""
    rows = held["comparison"]["rows"]
    return [r for r in rows if all(r.get(k) == v for k, v in settings.items())]


def mean_of(rows: Sequence[dict[str, Any]], field: str) -> float:
    """The mean of a measurement."""
    return float(np.mean([row[field] for row in rows]))


def _shares(model: str, field: str, held: Results) -> str:
    found, lines = points_of(held, model, "fvu"), []
    names = columns(found)
    for site, target in _places(found):
        cells = []
        for name in names:
            own = rows_of(held, architecture=name, site=site, target=target)
            own = [r for r in own if reported(r) == model]
            cells.append(share(mean_of(own, field)) if own else "")
        lines.append([f"{site}, {target}", *cells])
    if not lines:
        return UNTRAINED
    return table(["site, L0", *(CURVES[name] for name in names)], lines)


def _rates(held: Results) -> str:
    data = held["comparison"]
    best = chosen(data["rows"])
    ends = (min(data["settings"]["rates"]), max(data["settings"]["rates"]))
    lines = []
    for name in (*ARCHITECTURES, *(peer for peer in PEERS if tried(data["rows"], [peer]))):
        own = rows_of(held, stage="sweep", architecture=name)
        cells = []
        for site in SITES:
            values = [best[name, site, target] for target in TARGETS]
            cells.append(", ".join(f"{v:g}{'*' if v in ends else ''}" for v in values))
        lines.append([CURVES[name], str(len(own)), *cells])
    return table(["", "tried settings", *SITES], lines)


def _trade(held: Results) -> str:
    """FVU and dead features of JumpReLU over its learning rates, where it has many dead."""
    site, targets, _ = CURED
    rates = held["comparison"]["settings"]["rates"]
    lines = []
    for target in targets:
        for name in ARCHITECTURES[:3]:
            cells = []
            for lr in rates:
                own = rows_of(
                    held, stage="sweep", architecture=name, site=site, target=target, lr=lr
                )
                cells += [_missed(r) or f"{digits(at_target(r))}, {share(r['dead'])}" for r in own]
            lines.append([f"{target}, {CURVES[name]}", *cells])
    return table(["L0", *(f"{lr:g}" for lr in rates)], lines)


def _missed(row: dict[str, Any]) -> str:
    return "" if math.isfinite(at_target(row)) else "-"


def _cures(site: str | None, held: Results) -> str:
    """Cures at the site of many dead features (None), or at another, against none."""
    own = [r for r in rows_of(held, stage="cure") if (r["site"] == CURED[0]) == (site is None)]
    places = list(dict.fromkeys((r["site"], r["target"]) for r in own))
    names = list(dict.fromkeys(r["cure"] for r in own))
    if not names:
        return UNTRAINED
    if "none" not in names:
        names.insert(0, "none")
    lines = []
    for name in names:
        cells = []
        for place, target in places:
            mine = [r for r in own if (r["cure"], r["site"], r["target"]) == (name, place, target)]
            none = _untreated(held, own, place, target)
            cells += _cured(mine or none, none)
        lines.append([name, *cells])
    header = [f"{site}, {target}: {what}" for site, target in places for what in _WHAT]
    return table(["", *header], lines)


_WHAT = ("FVU", "dead", "delta LM loss")


def _untreated(
    held: Results, own: Sequence[dict[str, Any]], site: str, target: int
) -> list[dict[str, Any]]:
    """The seeds of the cures, trained without one."""
    at = [r for r in own if (r["site"], r["target"]) == (site, target)]
    seeds = {r["seed"] for r in at}
    none = [r for r in at if r["cure"] == "none"]
    report = rows_of(held, stage="report", architecture="jumprelu", site=site, target=target)
    return none or [r for r in report if r["seed"] in seeds]


def _cured(mine: Sequence[dict[str, Any]], none: Sequence[dict[str, Any]]) -> list[str]:
    fvu, before = (_mean_fvu(rows) for rows in (mine, none))
    change = f" ({100 * (fvu / before - 1):+.1f} %)" if math.isfinite(fvu / before) else ""
    shown = digits(fvu) + change * (list(mine) != list(none)) if math.isfinite(fvu) else "-"
    return [shown, share(mean_of(mine, "dead")), digits(mean_of(mine, "delta_lm_loss"), 2)]


def _mean_fvu(rows: Sequence[dict[str, Any]]) -> float:
    return math.exp(sum(math.log(at_target(r)) for r in rows) / len(rows))


def _long(held: Results) -> str:
    lines = []
    site, targets, _ = CURED
    for target in targets:
        none = rows_of(held, stage="cure", cure="none", target=target, site=site)
        own = rows_of(held, stage="long", target=target)
        if not own or not none:
            return UNTRAINED
        chosen_rate = none[0]["lr"]
        lines.append([f"{target}, one length at {chosen_rate:g}", *_cured(none, none)])
        for lr in sorted({r["lr"] for r in own}, reverse=True):
            at_rate = [r for r in own if r["lr"] == lr]
            seeds = {r["seed"] for r in at_rate}
            cells = _cured(at_rate, [r for r in none if r["seed"] in seeds])
            one = ", one seed" * (len(seeds) == 1)
            lines.append([f"{target}, two lengths at {lr:g}{one}", *cells])
    return table(["L0", *_WHAT], lines)


def _tokens(held: Results) -> str:
    settings = held["comparison"]["settings"]
    return f"{settings['batch'] * settings['steps']:,}"


def _trained(model: str, held: Results) -> str:
    """How long a language model was trained, and what it makes of text that it never saw."""
    text = held["comparison"]["texts"].get(model, {})
    if "trained_on" not in text:
        return "not trained before the time was up"
    return f"{text['trained_on'] / 1e6:,.0f} M tokens, {text['nats_per_token']:.2f} nats per token"


def _of_text(model: str, half: str, held: Results) -> str:
    return f"{held['comparison']['texts'][model][half]:,}"


SHOWN: dict[str, Callable[[Results], str]] = {
    "comparison.count": lambda held: str(len(held["comparison"]["rows"])),
    "comparison.cost": lambda held: cost(held["comparison"]),
    "comparison.tokens": _tokens,
    "comparison.selection": partial(_of_text, "demo", "selection"),
    "comparison.report": partial(_of_text, "demo", "report"),
    **{
        f"comparison.trained{suffix}": partial(_trained, model)
        for model, suffix in SUFFIXES.items()
    },
    "comparison.rates": _rates,
    "comparison.trade": _trade,
    "comparison.cures": partial(_cures, None),
    "comparison.elsewhere": partial(_cures, "elsewhere"),
    "comparison.long": _long,
    **{
        f"comparison.summary{suffix}": partial(_summary, model)
        for model, suffix in SUFFIXES.items()
    },
    **{
        f"comparison.{name}{suffix}": partial(show, model, field)
        for model, suffix in SUFFIXES.items()
        for name, show, field in (
            ("fvu", _against, "fvu"),
            ("loss", _against, "delta_lm_loss"),
            ("dead", _shares, "dead"),
            ("frequent", _shares, "high_frequency"),
        )
    },
}
