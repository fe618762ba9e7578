"""What the pages show of the sweep of bandwidths."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.paper.bandwidth import SITES, TARGETS
from benchmarks.paper.rules import RULES
from benchmarks.paper.shown_text import Results, digits, share, table
from benchmarks.paper.sweep import Curve, cells, curve, fixed_regret, regrets

RULE_NAMES = {
    "scott": "Scott",
    "silverman": "Silverman",
    "plug_in": "plug-in",
    "lscv": "least-squares cross-validation",
    "gradient": "least error of the threshold's gradient",
}

OTHER: dict[str, tuple[str, Callable[[float], str]]] = {
    "delta_lm_loss": ("delta LM loss, nats", lambda v: digits(v, 2)),
    "dead": ("dead", share),
    "threshold_noise": ("threshold noise", share),
    "in_window": ("in the window", share),
}
"""Beside FVU, what is shown over the bandwidth, and how."""


def _fvu(relative: bool, held: Results) -> str:
    by_cell = cells(held["bandwidth"]["rows"], relative=relative)
    return fvu_table("site, L0", {f"{site}, {t}": cell for (site, t), cell in by_cell.items()})


def fvu_table(what: str, lines: Mapping[str, Curve]) -> str:
    """FVU above that of the best bandwidth, of some curves by their names; `what` names are."""
    epsilons = next(iter(lines.values())).epsilons
    rows = []
    for name, cell in lines.items():
        above = 100 * (cell.mean / cell.mean[cell.best] - 1)
        low, high = cell.within()
        spread = float((cell.values[:, cell.best].max() / cell.values[:, cell.best].min()) - 1)
        rows.append(
            [
                name,
                str(len(cell.values)),
                f"{cell.mean[cell.best]:.4f}",
                *(_above(a) if k != cell.best else "**best**" for k, a in enumerate(above)),
                f"{digits(low, 2)} to {digits(high, 2)}",
                share(spread) if len(cell.values) > 1 else "",
            ]
        )
    header = [what, "seeds", "FVU of the best", *(digits(e, 2) for e in epsilons)]
    return table([*header, "within 2 %", "seeds' spread"], rows)


def _above(value: float) -> str:
    """In per cent; a dash where training broke down."""
    return f"{value:.1f}" if math.isfinite(value) else "-"


def _rules(relative: bool, held: Results) -> str:
    data = held["bandwidth"]
    rows = []
    for rule in RULES:
        all_of = regrets(data, rule, relative=relative)
        means = [float(r.mean()) for _, r in all_of]
        seeds = min(len(r) for _, r in all_of)
        by_seed = [float(np.mean([r[k] for _, r in all_of])) for k in range(seeds)]
        values = [e for e, _ in all_of]
        rows.append(
            [
                RULE_NAMES[rule],
                f"{digits(min(values), 2)} to {digits(max(values), 2)}",
                share(float(np.mean(means))),
                f"{100 * min(by_seed):.1f} to {100 * max(by_seed):.1f} %",
                share(max(means)),
            ]
        )
    best, each = fixed_regret(data, relative=relative)
    seeds = min(len(r) for r in each)
    by_seed = [float(np.mean([r[k] for r in each])) for k in range(seeds)]
    rows.append(
        [
            "one for all, the best afterwards",
            digits(best, 2),
            share(float(np.mean([r.mean() for r in each]))),
            f"{100 * min(by_seed):.1f} to {100 * max(by_seed):.1f} %",
            share(max(float(r.mean()) for r in each)),
        ]
    )
    return table(["rule", "its bandwidths", "mean regret", "by seed", "largest regret"], rows)


def _other(held: Results) -> str:
    rows = held["bandwidth"]["rows"]
    lines = []
    for site in SITES:
        for target in (TARGETS[0], TARGETS[-1]):
            for field, (name, write) in OTHER.items():
                each = curve(rows, field, site=site, target=target, group="raw")
                assert each is not None
                values = each.values.mean(0)
                lines.append([f"{site}, {target}", name, *(write(float(v)) for v in values)])
    epsilons = sorted({r["epsilon"] for r in rows if r["group"] == "raw"})
    return table(["site, L0", "", *(digits(e, 2) for e in epsilons)], lines)


def _relative_gain(held: Results) -> str:
    rows = held["bandwidth"]["rows"]
    raw, relative = (cells(rows, relative=kind) for kind in (False, True))
    gaps = [relative[c].mean[relative[c].best] / raw[c].mean[raw[c].best] - 1 for c in raw]
    return f"{100 * min(gaps):+.1f} to {100 * max(gaps):+.1f} %"


def _count(held: Results) -> str:
    return f"{len(held['bandwidth']['rows'])}"


def _groups(held: Results) -> str:
    data = held["bandwidth"]
    done = {(r["group"], r["site"], r["seed"]) for r in data["rows"]}
    return f"{len(done)} of {data['groups']}"


def most(rows: Sequence[dict[str, Any]], up_to: float, *, relative: bool) -> float:
    """The largest distance from the best at any place, up to a bandwidth, as a share."""
    above = [
        cell.mean[cell.epsilons <= 1.001 * up_to].max() / cell.mean[cell.best] - 1
        for cell in cells(rows, relative=relative).values()
    ]
    return float(max(above))


def _most(up_to: float, held: Results) -> str:
    return share(most(held["bandwidth"]["rows"], up_to, relative=False))


SHOWN: dict[str, Callable[[Results], str]] = {
    "bandwidth.raw": partial(_fvu, False),
    "bandwidth.relative": partial(_fvu, True),
    "bandwidth.rules": partial(_rules, False),
    "bandwidth.rules_relative": partial(_rules, True),
    "bandwidth.other": _other,
    "bandwidth.gain": _relative_gain,
    "bandwidth.narrower": partial(_most, 0.005),
    "bandwidth.narrow": partial(_most, 0.01),
    "bandwidth.wide": partial(_most, 0.1),
    "bandwidth.tokens": lambda held: "{:,}".format(
        held["bandwidth"]["settings"]["steps"] * held["bandwidth"]["settings"]["batch"]
    ),
    "bandwidth.measured": lambda held: f"{held['bandwidth']['measured_tokens'][0]:,}",
    "bandwidth.predicted": lambda held: f"{held['bandwidth']['measured_tokens'][1]:,}",
    "bandwidth.count": _count,
    "bandwidth.groups": _groups,
}
