"""What the page of very frequent features shows of the proofs of steering, by name."""

from collections.abc import Callable
from functools import partial
from itertools import product
from statistics import fmean as mean
from typing import Any

import torch

from benchmarks.paper.frequent_saes import KINDS
from benchmarks.paper.frequent_words import NAMES, points, spread, table
from benchmarks.paper.held_out import interval
from benchmarks.paper.proofs import GROUPS, RULES
from benchmarks.paper.shown_text import Results, share
from sae_core.wilson import wilson

_GROUP_NAMES = {"very": "very frequent", "next": "next to them", "others": "others"}


def _features(row: dict[str, Any], rule: str, group: str, held: Results) -> list[dict[str, Any]]:
    names = held["proofs"]["settings"]["columns"]
    return [dict(zip(names, each, strict=True)) for each in row[rule][group]]


def separates(passed: list[int], runs: int) -> bool:
    """The rule of `sae_core.proof`: the target's interval lies above that of every control."""
    return wilson(passed[0], runs)[0] > wilson(max(passed[1:]), runs)[1]


def _of_all(count: int, features: int) -> str:
    low, high = wilson(count, features)
    return f"{count} of {features} ({share(low).removesuffix(' %')} to {share(high)})"


def _table(rule: str, held: Results) -> str:
    """By kind and group: proofs that separate, that could, runs that pass, and what fires."""
    seeds = held["proofs"]["settings"]["seeds"]
    rows = []
    for row, group in product(held["proofs"]["rows"], GROUPS):
        each = _features(row, rule, group, held)
        if not each:
            continue
        passed = [f["passed"] for f in each]
        could = sum(separates([seeds, *p[1:]], seeds) for p in passed)
        of_controls = [mean(p[1:]) / seeds for p in passed]
        rows.append(
            [
                NAMES[row["kind"]],
                _GROUP_NAMES[group],
                _of_all(sum(separates(p, seeds) for p in passed), len(each)),
                str(could),
                _with_interval([p[0] / seeds for p in passed], share),
                _with_interval(of_controls, share),
                share(mean(f["fires"][0] for f in each)),
                _with_interval(_more(each), _tenths),
                points(mean(f["nll"][1] - f["nll"][0] for f in each)),
            ]
        )
    titles = ["separate", "could", "runs that pass", "of the controls", "fires without"]
    return table(["", "", *titles, "more than with controls", "nats more"], rows, 2)


def _more(each: list[dict[str, Any]]) -> list[float]:
    """By how much more of the new tokens each fires on when it is pushed, not its controls."""
    return [with_edit - mean(of_each) for _, with_edit, *of_each in (f["fires"] for f in each)]


def _mean_more(rule: str, kind: str, group: str, held: Results) -> str:
    (row,) = (row for row in held["proofs"]["rows"] if row["kind"] == kind)
    return _tenths(mean(_more(_features(row, rule, group, held))))


def _separate(rule: str, group: str, fewer: bool, held: Results) -> str:
    """How many of a group's features separate, of all kinds together."""
    settings = held["proofs"]["settings"]
    key, seeds = ("passed_of_fewer", "fewer_seeds") if fewer else ("passed", "seeds")
    each = [f for row in held["proofs"]["rows"] for f in _features(row, rule, group, held)]
    return f"{sum(separates(f[key], settings[seeds]) for f in each)} of {len(each)}"


def _tenths(value: float) -> str:
    return f"{100 * value:.1f} %".replace("-0.0", "0.0")


def _with_interval(values: list[float], form: Callable[[float], str]) -> str:
    return spread(interval(torch.tensor(values, dtype=torch.float64)), form)


def _cost(held: Results) -> str:
    return f"{held['proofs']['seconds'] / 60:,.0f} minutes"


SHOWN: dict[str, Callable[[Results], str]] = {
    **{f"proofs.{rule}": partial(_table, rule) for rule in RULES},
    **{
        f"proofs.separate.{rule}.{group}{'.fewer' * fewer}": partial(_separate, rule, group, fewer)
        for rule, group, fewer in product(RULES, GROUPS, (False, True))
    },
    **{
        f"proofs.more.{rule}.{kind}.{group}": partial(_mean_more, rule, kind, group)
        for rule, kind, group in product(RULES, KINDS, GROUPS)
    },
    "proofs.minutes": _cost,
}
