"""What the page of very frequent features shows of how many there are, by name, and its figure."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, product
from typing import Any

from benchmarks.paper.ablations import BOUND
from benchmarks.paper.frequent_saes import KINDS, SITES
from benchmarks.paper.frequent_words import (
    ARCHITECTURES,
    LEVELS,
    NAMES,
    POINT,
    Format,
    spread,
    table,
    value_alone,
)
from benchmarks.paper.plots import Panel, drawing
from benchmarks.paper.shown_text import UNMEASURED, Results, share


def frequency_rows(held: Results) -> dict[tuple[str, int, str], dict[str, Any]]:
    rows = held["frequencies"]["rows"]
    return {(r["site"], int(r["target"]), r["architecture"]): r for r in rows}


def above(row: dict[str, Any], bound: str) -> float:
    """The mean over seeds of the share of features above a bound: not the rounded mean, which
    would be rounded twice.
    """
    each = row[bound]["of_seeds"]
    return sum(each) / len(each)


def _many(bound: str, form: Callable[[Sequence[float], Format], str], held: Results) -> str:
    """Share of features above a bound, by site and L0."""
    by = frequency_rows(held)
    rows = []
    for site in SITES:
        for level in LEVELS:
            cells = [by.get((site, level, kind)) for kind in KINDS]
            shown = [
                ""
                if c is None
                else form([above(c, bound), c[bound]["low"], c[bound]["high"]], share)
                for c in cells
            ]
            rows.append([f"{site}, {level}", *shown])
    return table(["site, L0", *(NAMES[kind] for kind in KINDS)], rows)


def _of_seeds(site: str, level: int, kind: str, held: Results) -> list[int]:
    """How many very frequent features each seed's SAE has."""
    row = frequency_rows(held).get((site, level, kind))
    (d_sae,) = held["frequencies"]["settings"]["d_sae"]
    return [] if row is None else [round(d_sae * v) for v in row["over_10_percent"]["of_seeds"]]


def counts(site: str, level: int, kind: str, held: Results) -> str:
    """The mean over seeds of very frequent features, and each seed's where they differ."""
    each = _of_seeds(site, level, kind, held)
    if not each:
        return ""
    mean = f"{sum(each) / len(each):g}"
    return mean if len(set(each)) == 1 else f"{mean} ({', '.join(map(str, each))})"


def _seeds_named(site: str, kind: str, level: int, held: Results) -> str:
    return " and ".join(map(str, _of_seeds(site, level, kind, held))) or UNMEASURED


def _apart(name: str, held: Results) -> str:
    """The largest difference between seeds of one number of an SAE, over their mean."""
    each = [row[name] for row in held["frequencies"]["rows"]]
    return share(max((max(v) - min(v)) * len(v) / sum(v) for v in each))


def _matched(held: Results) -> str:
    """How near the L0 are to what they are matched at."""
    off: dict[tuple[str, str], float] = {}
    for row in held["frequencies"]["rows"]:
        if not row["matched"]:
            key = row["architecture"], row["site"]
            off[key] = max(*(abs(v / row["target"] - 1) for v in row["l0"]), off.get(key, 0))
    names = [f"{NAMES[k]} at `{site}` ({share(far)} off)" for (k, site), far in off.items()]
    return f"within a twentieth of it{' but for ' * bool(names)}{' and '.join(names)}"


def histograms(held: Results) -> str:
    """How many features are how often active, of the architectures at the point."""
    edges, by = held["frequencies"]["edges"], frequency_rows(held)
    panels = []
    for site in SITES:
        curves = []
        for kind in ARCHITECTURES:
            row = by.get((site, POINT, kind))
            if row is not None:
                counts = [
                    sum(c) / len(row["histogram"]) for c in zip(*row["histogram"], strict=True)
                ]
                curves.append((kind, counts))
        start = 6  # what is less often active than once in 30,000 tokens is known badly
        top = max(max(counts[start:]) for _, counts in curves)
        panel = Panel(
            f"{site}, L0 {POINT}",
            (edges[start], edges[-1]),
            (0, 1.1 * top),
            "log10 of the frequency",
            "features",
        )
        for colour, (kind, counts) in enumerate(curves):
            middles = [(a + b) / 2 for a, b in pairwise(edges)]
            panel.line(list(zip(middles, counts, strict=True))[start:], colour, NAMES[kind])
        panel.upright(-1.0, f"{share(BOUND)}")
        panels.append(panel)
    return drawing(panels, "How often features are active", "f")


FIGURES = {"frequent-histograms": histograms}
SHOWN: dict[str, Callable[[Results], str]] = {
    "frequent.many": partial(_many, "over_10_percent", spread),
    "frequent.some": partial(_many, "over_1_percent", value_alone),
    "frequent.matched": _matched,
    "frequent.apart.fvu": partial(_apart, "fvu"),
    **{
        f"{site.partition('/')[0]}.{kind}.seeds.{level}": partial(_seeds_named, site, kind, level)
        for site, kind, level in product(SITES, KINDS, LEVELS)
    },
}
