"""What the pages show of the sweep over bandwidths at other widths and on other language models,
beside the first one, which is of a width of 2,048 on the demo's.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.paper.bandwidth import EPSILONS, RELATIVE, SITES
from benchmarks.paper.comparison_plan import DEMO, FAMILIES
from benchmarks.paper.elsewhere import plan
from benchmarks.paper.plots import Panel, drawing
from benchmarks.paper.rules import RULES
from benchmarks.paper.shown_bandwidth import RULE_NAMES, fvu_table, most
from benchmarks.paper.shown_text import (
    NAMES,
    UNTRAINED,
    Results,
    broken_down,
    cost,
    digits,
    listed,
    share,
    table,
)
from benchmarks.paper.sweep import cells, curve, fixed, fixed_regret, regrets

Setting = tuple[str, int]
"""Language model and width."""
_EPSILONS = {False: EPSILONS, True: RELATIVE}
_UP_TO = (2, 3, 6)
"""Up to which of the bandwidths distances from the best are told: 0.0046, 0.01 and 0.1."""
_FIGURE = 64
"""The L0 of the figure: that at which bandwidths matter most."""
_OTHER: dict[str, tuple[str, Callable[[float], str]]] = {
    "delta_lm_loss": ("delta LM loss, nats", digits),
    "dead": ("dead", share),
    "threshold_noise": ("threshold noise", share),
}


def settings(held: Results) -> dict[Setting, dict[str, Any]]:
    """Rows and rules of every language model and width, in the order of the tables; the first
    sweep's among them.
    """
    first = held["bandwidth"]
    found: dict[Setting, dict[str, Any]] = {
        (DEMO, first["settings"]["d_sae"]): {"rows": first["rows"], "rules": first["rules"]}
    }
    data = held.get("elsewhere", {"rows": [], "rules": []})
    for part in ("rows", "rules"):
        for each in data[part]:
            place = found.setdefault((each["model"], each["d_sae"]), {"rows": [], "rules": []})
            place[part].append(each)
    order = (DEMO, *FAMILIES)
    return dict(sorted(found.items(), key=lambda kv: (order.index(kv[0][0]), kv[0][1])))


def _of(held: Results, *, relative: bool) -> dict[Setting, dict[str, Any]]:
    """The settings with a parametrisation."""
    found = settings(held)
    return {k: data for k, data in found.items() if cells(data["rows"], relative=relative)}


def _others(held: Results, *, relative: bool) -> dict[Setting, dict[str, Any]]:
    """Those of them that the first sweep has not."""
    mine = (DEMO, held["bandwidth"]["settings"]["d_sae"])
    return {k: data for k, data in _of(held, relative=relative).items() if k != mine}


def _name(setting: Setting) -> str:
    model, width = setting
    return f"{NAMES.get(model, 'demo')}, {width:,}"


def _seeds(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _fvu(relative: bool, held: Results) -> str:
    lines = {
        f"{_name(setting)}, {site}, {target}": cell
        for setting, data in _others(held, relative=relative).items()
        for (site, target), cell in cells(data["rows"], relative=relative).items()
    }
    return fvu_table("language model, width, site, L0", lines) if lines else UNTRAINED


def _summary(relative: bool, held: Results) -> str:
    """For each language model and width, how much the bandwidth matters."""
    if not _others(held, relative=relative):
        return UNTRAINED
    epsilons = _EPSILONS[relative]
    up_to = [epsilons[k] for k in _UP_TO]
    lines = []
    for setting, data in _of(held, relative=relative).items():
        by_cell = cells(data["rows"], relative=relative)
        lines.append(
            [
                _name(setting),
                str(len(by_cell)),
                _seeds({len(cell.values) for cell in by_cell.values()}),
                *(share(most(data["rows"], e, relative=relative)) for e in up_to),
            ]
        )
    header = [f"{digits(epsilons[0], 2)} to {digits(e, 2)}" for e in up_to]
    return table(["language model, width", "places", "seeds", *header], lines)


def _regret(each: list[np.ndarray]) -> str:
    """Mean over places, and the largest of a place."""
    means = [float(r.mean()) for r in each]
    return f"{share(float(np.mean(means)))} ({share(max(means))})"


def _rules(relative: bool, held: Results) -> str:
    """Mean regret of every rule, and the largest, on each language model and at each width."""
    found = {
        setting: data for setting, data in _of(held, relative=relative).items() if data["rules"]
    }
    if not set(found) & set(_others(held, relative=relative)):
        return UNTRAINED
    lines = []
    for rule in RULES:
        by_setting = [regrets(data, rule, relative=relative) for data in found.values()]
        every = [r for each in by_setting for _, r in each]
        lines.append([RULE_NAMES[rule], *(_ruled(each) for each in by_setting), _regret(every)])
    best = [fixed_regret(data, relative=relative) for data in found.values()]
    told = [f"{digits(epsilon, 2)}: {_regret(each)}" for epsilon, each in best]
    every = [r for _, each in best for r in each]
    lines.append(["one for all, the best afterwards", *told, _regret(every)])
    for epsilon in _EPSILONS[relative]:
        by_fixed = [fixed(data, epsilon, relative=relative) for data in found.values()]
        told = [_regret(each) for each in [*by_fixed, [r for each in by_fixed for r in each]]]
        lines.append([f"{digits(epsilon, 2)} for all", *told])
    return table(["rule", *(_name(setting) for setting in found), "all together"], lines)


def _ruled_all(held: Results) -> str:
    """The rule and the one bandwidth with the least mean regret over all places."""
    found = [data for data in _of(held, relative=False).values() if data["rules"]]
    if len(found) < 2:
        return ""
    by_rule = {
        RULE_NAMES[rule]: [r for data in found for _, r in regrets(data, rule, relative=False)]
        for rule in RULES
    }
    by_fixed = {e: [r for data in found for r in fixed(data, e, relative=False)] for e in EPSILONS}
    rule, epsilon = _least(by_rule), _least(by_fixed)
    return (
        f"Over all {len(by_fixed[epsilon])} places the best rule, {rule}, has a mean regret of "
        f"{_regret(by_rule[rule])}, and {digits(epsilon, 2)} for all one of "
        f"{_regret(by_fixed[epsilon])}; in brackets, the largest."
    )


def _least(regret_of: Mapping[Any, list[np.ndarray]]) -> Any:
    """Whose mean is the least."""
    return min(regret_of, key=lambda k: float(np.mean([r.mean() for r in regret_of[k]])))


def _ruled(each: list[tuple[float, np.ndarray]]) -> str:
    """The geometric mean of a rule's bandwidths, and its regret; nothing where it has none."""
    if not each:
        return ""
    middle = float(np.exp(np.mean([np.log(epsilon) for epsilon, _ in each])))
    return f"{digits(middle, 2)}: {_regret([r for _, r in each])}"


def _other(held: Results) -> str:
    """What else goes with a raw bandwidth: means over places."""
    found = _others(held, relative=False)
    if not found:
        return UNTRAINED
    lines = []
    for setting, data in _of(held, relative=False).items():
        for field, (name, write) in _OTHER.items():
            curves = [
                curve(data["rows"], field, group="raw", site=site, target=target)
                for site, target in cells(data["rows"], relative=False)
            ]
            values = np.array([each.values.mean(0) for each in curves if each is not None])
            lines.append([_name(setting), name, *(write(float(v)) for v in values.mean(0))])
    return table(["language model, width", "", *(digits(e, 2) for e in EPSILONS)], lines)


def _gain(held: Results) -> str:
    """FVU of the best relative bandwidth over that of the best raw one, with the seeds that both
    have.
    """
    gaps = []
    for data in _others(held, relative=True).values():
        raw, relative = (cells(data["rows"], relative=kind) for kind in (False, True))
        for place in raw:
            if place in relative:
                seeds = min(len(raw[place].values), len(relative[place].values))
                means = [np.log(c.values[:seeds]).mean(0) for c in (raw[place], relative[place])]
                gaps.append(float(np.exp(means[1].min() - means[0].min()) - 1))
    if not gaps:
        return "not trained."
    low, high = (100 * each for each in (min(gaps), max(gaps)))
    return f"at its best such a bandwidth changes FVU by {low:+.1f} to {high:+.1f} %."


def _flat(held: Results) -> str:
    """How much FVU differs between bandwidths of 0.001 and of 0.01, at the most."""
    found = _others(held, relative=False)
    if not found:
        return "Other widths and other language models were not tried before the time was up."
    places = sum(len(cells(data["rows"], relative=False)) for data in found.values())
    narrower, narrow = (
        share(max(most(data["rows"], up_to, relative=False) for data in found.values()))
        for up_to in (0.005, 0.01)
    )
    return (
        f"At {places} more places ({'; '.join(_name(each) for each in found)}) it is at most "
        f"{narrow} above the best, and at most {narrower} between 0.001 and 0.005."
    )


def _missing(held: Results) -> str:
    """What of the plan was not trained."""
    if "elsewhere" not in held:
        return "Other widths and other families of models: time."
    data = held["elsewhere"]
    left: dict[tuple[Setting, str, int], list[str]] = {}
    for each in plan():
        if each.name not in data["pass_seconds"] and each.model not in data.get("left_out", {}):
            key = ((each.model, each.d_sae), each.group, each.seed)
            left.setdefault(key, []).append(each.site)
    parts = ["a third seed"]
    for (setting, group, seed), sites in left.items():
        where = "" if len(sites) == len(SITES) else f" at {listed([f'`{s}`' for s in sites])}"
        nth = ("first", "second")[seed]
        parts.append(f"the {nth} seed of {group} bandwidths of ({_name(setting)}){where}")
    return " ".join([f"Of other widths and families: {listed(parts)}.", *broken_down(data)])


def _size(held: Results) -> str:
    if "elsewhere" not in held:
        return "none before the time was up"
    data = held["elsewhere"]
    return f"{len(data['rows'])} SAEs ({cost(data)})"


def figure(held: Results) -> str:
    """FVU over the raw bandwidth beside the best one's, of all widths and language models."""
    panels = []
    found = _of(held, relative=False)
    lines = {k: cells(data["rows"], relative=False) for k, data in found.items()}
    there = [by[s, _FIGURE] for by in lines.values() for s in SITES if (s, _FIGURE) in by]
    top = max(float(np.nanmax(100 * (c.mean / c.mean[c.best] - 1))) for c in there)
    for site in SITES:
        panel = Panel(
            f"{site}, L0 {_FIGURE}",
            (EPSILONS[0], EPSILONS[-1]),
            (-0.05 * top, 1.05 * top),
            "bandwidth",
            "FVU above the best, %",
            log_x=True,
            height=190,
        )
        for colour, (setting, by_cell) in enumerate(lines.items()):
            if cell := by_cell.get((site, _FIGURE)):
                above = 100 * (cell.mean / cell.mean[cell.best] - 1)
                points = list(zip(cell.epsilons.tolist(), above.tolist(), strict=True))
                panel.line(points, colour, _name(setting))
        panels.append(panel)
    return drawing(panels, "FVU over the bandwidth, by width and language model", "e")


SHOWN: dict[str, Callable[[Results], str]] = {
    "elsewhere.flat": _flat,
    "elsewhere.missing": _missing,
    "elsewhere.size": _size,
    "elsewhere.gain": _gain,
    "elsewhere.ruled": _ruled_all,
    "elsewhere.other": _other,
    **{
        f"elsewhere.{name}{'_relative' * relative}": partial(show, relative)
        for name, show in (("fvu", _fvu), ("summary", _summary), ("rules", _rules))
        for relative in (False, True)
    },
}
