"""What the page of very frequent features shows of the results, by name, and its figure."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, product
from typing import Any

from benchmarks.paper.ablations import BOUND
from benchmarks.paper.frequent_results import Table
from benchmarks.paper.frequent_saes import KINDS, SITES, TARGETS
from benchmarks.paper.plots import Panel, drawing
from benchmarks.paper.shown_text import UNMEASURED, Results, digits, share
from benchmarks.paper.shown_text import table as full_table

NAMES = {
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "topk": "TopK",
    "standard": "ReLU",
    "frequency_0.1": "penalty 0.1",
    "frequency_0.01": "penalty 0.01",
}
"""The last two are JumpReLU with a penalty on frequent features."""
ARCHITECTURES = tuple(kind for kind, (_, scale) in KINDS.items() if not scale)
PENALISED = ("jumprelu", *(kind for kind, (_, scale) in KINDS.items() if scale))
POINT = 64
LEVELS = tuple(int(target) for target in TARGETS)
MEASURES = ("activity", "mass")
"""By what draws are of like size."""
FEWEST = 5
"""Very frequent features from which on means over them are shown."""
Format = Callable[[float], str]


def _percent(value: float) -> str:
    return share(value)


def _points(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _nats(value: float) -> str:
    return digits(value, 2) if abs(value) >= 1e-4 else "0"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """A table without the rows and columns in which nothing was measured; `names`: columns that
    say what a row is.
    """
    rows = [row for row in rows if any(row[names:])]
    kept = [k for k in range(len(header)) if k < names or any(row[k] for row in rows)]
    return full_table([header[k] for k in kept], [[row[k] for k in kept] for row in rows])


def spread(values: Sequence[float] | None, form: Format) -> str:
    """A value with its interval, or nothing."""
    if values is None:
        return ""
    value, low, high = (form(v) for v in values[:3])
    return f"{value} ({low.removesuffix(' %')} to {high.removesuffix(' %')})"


def _value_alone(values: Sequence[float], form: Format) -> str:
    return form(values[0])


def _one(form: Format, value: Any) -> str:
    if value is None:
        return ""
    return form(value[0] if isinstance(value, list) else value)


def _frequency_rows(held: Results) -> dict[tuple[str, int, str], dict[str, Any]]:
    rows = held["frequencies"]["rows"]
    return {(r["site"], int(r["target"]), r["architecture"]): r for r in rows}


def _many(bound: str, form: Callable[[Sequence[float], Format], str], held: Results) -> str:
    """Share of features above a bound, by site and L0."""
    by = _frequency_rows(held)
    rows = []
    for site in SITES:
        for level in LEVELS:
            cells = [by.get((site, level, kind)) for kind in KINDS]
            shown = [
                "" if c is None else form([c[bound][k] for k in ("value", "low", "high")], share)
                for c in cells
            ]
            rows.append([f"{site}, {level}", *shown])
    return table(["site, L0", *(NAMES[kind] for kind in KINDS)], rows)


def _by_kind(name: str, form: Format, kinds: Sequence[str], held: Results) -> str:
    """One quantity with its interval, by site and L0."""
    found = Table(held["frequent"])
    rows = [
        [f"{site}, {level}", *(spread(found.get(site, k, level, name), form) for k in kinds)]
        for site in SITES
        for level in LEVELS
    ]
    return table(["site, L0", *(NAMES[kind] for kind in kinds)], rows)


def _part(held: Results) -> str:
    """The very frequent features' part in what an SAE does."""
    found = Table(held["frequent"])
    columns: list[tuple[str, str, Format]] = [
        ("features", "very", _whole),
        ("of the active", "of_active", _percent),
        ("of the mass", "of_mass", _percent),
        ("of the effects", "of_effect", _percent),
        ("of the ten largest", "of_top_10", _percent),
        ("of the largest", "of_top_1", _percent),
    ]
    rows = []
    for site in SITES:
        for kind in KINDS:
            get = partial(found.get, site, kind, POINT)
            values = [_one(form, get(name)) for _, name, form in columns]
            rows.append([site, NAMES[kind], *values])
    return table(["site", "", *(title for title, *_ in columns)], rows, 2)


def _cut(held: Results) -> str:
    """What setting all of them to 0, or to their means, does."""
    found = Table(held["frequent"])
    rows = []
    for site in SITES:
        for kind in KINDS:
            get = partial(found.get, site, kind, POINT)
            if not get("very"):
                continue
            rows.append(
                [
                    site,
                    NAMES[kind],
                    *(
                        _one(partial(digits, count=3), get(n))
                        for n in ("fvu", "fvu_zero", "fvu_mean")
                    ),
                    *(
                        spread(get(f"{arm}.loss"), _nats)
                        for arm in ("spliced", "all_zero", "all_mean")
                    ),
                ]
            )
    titles = ["FVU", "at 0", "at their means", "loss: spliced", "at 0", "at their means"]
    return table(["site", "", *titles], rows, 2)


def _draws(held: Results) -> str:
    """Draws of very frequent features against draws of others that are as much."""
    found = Table(held["frequent"])
    rows = []
    for site, level, kind in product(SITES, LEVELS, KINDS):
        get = partial(found.get, site, kind, level)
        if (get("very") or 0) < FEWEST:
            continue
        cells = []
        for measure in MEASURES:
            both = [get(f"draws.{group}_by_{measure}.kl") for group in ("very", "ordinary")]
            if None in both:
                cells += ["", "", ""]
                continue
            cells += [spread(each, _nats) for each in both]
            cells.append(f"{both[0][0] / both[1][0]:.1f}")
        sizes = [get(f"draws.{g}_by_activity.features") for g in ("very", "ordinary")]
        count = " against ".join(_one(_whole, each) for each in sizes)
        rows.append([f"{site}, {level}", NAMES[kind], count, *cells])
    titles = ["very frequent", "others", "quotient"]
    return table(
        [
            "site, L0",
            "",
            "features",
            *(f"{t}, {by}" for by in ("as active", "as heavy") for t in titles),
        ],
        rows,
        2,
    )


def _nature(held: Results) -> str:
    """What tells and what is done by very frequent features and by others."""
    found = Table(held["frequent"])
    places = [(site, "jumprelu") for site in SITES]
    places += [(SITES[0], kind) for kind in KINDS if kind != "jumprelu"]
    rows = []
    for site, kind in places:
        get = partial(found.get, site, kind, POINT)
        for group, words in (("very", "very frequent"), ("ordinary", "others")):
            if (get(f"{group}_features.features") or 0) < FEWEST:
                continue
            of = partial(lambda g, n, get: get(f"{g}_features.{n}"), group, get=get)
            medians = [of(n) for n in ("by_token", "by_previous", "by_place", "nearest")]
            rows.append(
                [
                    f"{site}, {NAMES[kind]}",
                    words,
                    *("" if m is None else _points(m[1]) for m in medians),
                    *(spread(of(n), _points) for n in ("detection", "intruder")),
                    *(
                        spread(get(f"output.{group}.{n}"), _points)
                        for n in ("score", "side_effect")
                    ),
                ]
            )
    titles = ["token", "token before", "place", "other seed", "detection", "intruder"]
    return table(["", "", *titles, "output score", "side effect, nats"], rows, 2)


def _penalty(held: Results) -> str:
    """JumpReLU without the penalty and with it."""
    found, by = Table(held["frequent"]), _frequency_rows(held)
    rows = []
    for site in SITES:
        for level in LEVELS:
            for kind in PENALISED:
                get = partial(found.get, site, kind, level)
                counted = by.get((site, level, kind))
                if counted is None:
                    continue
                shares = [share(counted[b]["value"]) for b in ("over_10_percent", "over_1_percent")]
                mean = {k: sum(counted[k]) / len(counted[k]) for k in ("l0", "fvu", "dead")}
                rows.append(
                    [
                        f"{site}, {level}",
                        NAMES[kind],
                        *shares,
                        f"{mean['l0']:.1f}",
                        digits(mean["fvu"]),
                        share(mean["dead"]),
                        *(spread(get(f"spliced.{n}"), _nats) for n in ("loss", "kl")),
                        *(_one(_points, get(f"scores.{n}")) for n in ("detection", "intruder")),
                        _one(_points, get("uniformity")),
                    ]
                )
    titles = ["over 10 %", "over 1 %", "L0", "FVU", "dead", "delta LM loss", "KL"]
    return table(["site, L0", "", *titles, "detection", "intruder", "uniformity"], rows, 2)


def _setting(key: str, held: Results) -> str:
    value = held["frequent"][key] if key in held["frequent"] else held["frequent"]["settings"][key]
    return f"{value:,}"


def _cell(site: str, kind: str, level: int, name: str, form: Format, held: Results) -> str:
    return _one(form, Table(held["frequent"]).get(site, kind, level, name)) or UNMEASURED


def _quotient(site: str, kind: str, measure: str, level: int, held: Results) -> str:
    """KL of very frequent features over that of as much of others."""
    get = partial(Table(held["frequent"]).get, site, kind, level)
    very, ordinary = (get(f"draws.{group}_by_{measure}.kl") for group in ("very", "ordinary"))
    return f"{very[0] / ordinary[0]:.1f}" if very and ordinary else UNMEASURED


def _costs(site: str, level: int, held: Results) -> str:
    """By how much FVU is larger with the penalty of 0.1."""
    get = Table(held["frequent"]).get
    plain, penalised = (get(site, kind, level, "fvu") for kind in PENALISED[:2])
    return share(penalised / plain - 1) if plain and penalised else UNMEASURED


def histograms(held: Results) -> str:
    """How many features are how often active, of the architectures at the point."""
    edges, by = held["frequencies"]["edges"], _frequency_rows(held)
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
_WORDED: dict[str, Format] = {
    "of_l0": _percent,
    "of_mass": _percent,
    "of_effect": _percent,
    "of_top_10": _percent,
    "of_top_1": _percent,
    "of_active": _percent,
    "very": _whole,
    "fvu": digits,
    "fvu_zero": partial(digits, count=2),
    "all_zero.loss": partial(digits, count=2),
    "scores.detection": _points,
}
SHOWN: dict[str, Callable[[Results], str]] = {
    "frequent.many": partial(_many, "over_10_percent", spread),
    "frequent.some": partial(_many, "over_1_percent", _value_alone),
    "frequent.part": _part,
    "frequent.cut": _cut,
    "frequent.draws": _draws,
    "frequent.nature": _nature,
    "frequent.penalty": _penalty,
    "frequent.uniformity": partial(_by_kind, "uniformity", _points, tuple(KINDS)),
    "frequent.detection": partial(_by_kind, "scores.detection", _points, tuple(KINDS)),
    "frequent.intruder": partial(_by_kind, "scores.intruder", _points, tuple(KINDS)),
    **{
        f"frequent.quotient.{site.partition('/')[0]}.{kind}.{by}.{level}": partial(
            _quotient, site, kind, by, level
        )
        for site, kind, by, level in product(SITES, KINDS, MEASURES, LEVELS)
    },
    **{
        f"frequent.costs.{site.partition('/')[0]}.{level}": partial(_costs, site, level)
        for site in SITES
        for level in LEVELS
    },
    "frequent.tokens": partial(_setting, "measured_tokens"),
    "frequent.trained": partial(_setting, "tokens"),
    **{
        f"{site.partition('/')[0]}.{kind}.{name}": partial(_cell, site, kind, POINT, name, form)
        for site in SITES
        for kind in KINDS
        for name, form in _WORDED.items()
    },
    **{
        f"{site.partition('/')[0]}.{kind}.{name}.{level}": partial(
            _cell, site, kind, level, name, _WORDED[name]
        )
        for site, kind, name, level in product(SITES, KINDS, ("very", "of_effect"), LEVELS)
    },
}
