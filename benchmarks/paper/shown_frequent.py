"""What the page of very frequent features shows of what they do, by name."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

from benchmarks.paper.frequent_results import Table
from benchmarks.paper.frequent_saes import KINDS, SITES
from benchmarks.paper.frequent_words import (
    FEWEST,
    LEVELS,
    MEASURES,
    NAMES,
    PENALISED,
    POINT,
    Format,
    nats,
    one,
    percent,
    points,
    spread,
    table,
    whole,
    with_ends,
)
from benchmarks.paper.shown_frequencies import above, counts, frequency_rows
from benchmarks.paper.shown_text import UNMEASURED, Results, digits, share


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
        ("of the active", "of_active", percent),
        ("of the mass", "of_mass", percent),
        ("of the effects", "of_effect", percent),
        ("of the ten largest", "of_top_10", percent),
        ("of the largest", "of_top_1", percent),
    ]
    rows = []
    for site in SITES:
        for kind in KINDS:
            get = partial(found.get, site, kind, POINT)
            values = [with_ends(get(name), form) for _, name, form in columns]
            rows.append([site, NAMES[kind], counts(site, POINT, kind, held), *values])
    return table(["site", "", "features", *(title for title, *_ in columns)], rows, 2)


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
                        one(partial(digits, count=3), get(n))
                        for n in ("fvu", "fvu_zero", "fvu_mean")
                    ),
                    *(
                        spread(get(f"{arm}.loss"), nats)
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
            cells += [spread(each, nats) for each in both]
            cells.append(_quotient(site, kind, measure, level, held))
        sizes = [get(f"draws.{g}_by_activity.features") for g in ("very", "ordinary")]
        count = " against ".join(one(whole, each) for each in sizes)
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
                    *("" if m is None else points(m[1]) for m in medians),
                    *(spread(of(n), points) for n in ("detection", "intruder")),
                    *(spread(get(f"output.{group}.{n}"), points) for n in ("score", "side_effect")),
                ]
            )
    titles = ["token", "token before", "place", "other seed", "detection", "intruder"]
    return table(["", "", *titles, "output score", "side effect, nats"], rows, 2)


def _penalty(held: Results) -> str:
    """JumpReLU without the penalty and with it."""
    found, by = Table(held["frequent"]), frequency_rows(held)
    rows = []
    for site in SITES:
        for level in LEVELS:
            for kind in PENALISED:
                get = partial(found.get, site, kind, level)
                counted = by.get((site, level, kind))
                if counted is None:
                    continue
                shares = [share(above(counted, b)) for b in ("over_10_percent", "over_1_percent")]
                mean = {k: sum(counted[k]) / len(counted[k]) for k in ("l0", "fvu", "dead")}
                rows.append(
                    [
                        f"{site}, {level}",
                        NAMES[kind],
                        *shares,
                        f"{mean['l0']:.1f}",
                        digits(mean["fvu"]),
                        share(mean["dead"]),
                        *(spread(get(f"spliced.{n}"), nats) for n in ("loss", "kl")),
                        *(one(points, get(f"scores.{n}")) for n in ("detection", "intruder")),
                        one(points, get("uniformity")),
                    ]
                )
    titles = ["over 10 %", "over 1 %", "L0", "FVU", "dead", "delta LM loss", "KL"]
    return table(["site, L0", "", *titles, "detection", "intruder", "uniformity"], rows, 2)


def _setting(key: str, held: Results) -> str:
    value = held["frequent"][key] if key in held["frequent"] else held["frequent"]["settings"][key]
    return f"{value:,}"


def _cell(site: str, kind: str, level: int, name: str, form: Format, held: Results) -> str:
    return one(form, Table(held["frequent"]).get(site, kind, level, name)) or UNMEASURED


def _quotient(site: str, kind: str, measure: str, level: int, held: Results) -> str:
    """KL of very frequent features over that of as much of others, and its range: from the least
    draw of any seed over the largest of others, to the largest over the least.
    """
    get = partial(Table(held["frequent"]).get, site, kind, level)
    keys = [f"draws.{group}_by_{measure}" for group in ("very", "ordinary")]
    (very, least, most), (ordinary, others_least, others_most) = (
        [get(f"{key}.{name}") for name in ("kl", "kl_least", "kl_most")] for key in keys
    )
    if not (very and ordinary):
        return UNMEASURED
    values = (very[0] / ordinary[0], least / others_most, most / others_least)
    return spread(values, lambda v: f"{v:.1f}")


def _costs(name: str, site: str, level: int, held: Results) -> str:
    """By how much a number is larger with the penalty of 0.1."""
    get = Table(held["frequent"]).get
    both = [get(site, kind, level, name) for kind in PENALISED[:2]]
    plain, penalised = (each[0] if isinstance(each, list) else each for each in both)
    return share(penalised / plain - 1) if plain and penalised else UNMEASURED


_WORDED: dict[str, Format] = {
    "of_mass": percent,
    "of_effect": percent,
    "of_top_10": percent,
    "of_active": percent,
    "very": whole,
}
SHOWN: dict[str, Callable[[Results], str]] = {
    "frequent.part": _part,
    "frequent.cut": _cut,
    "frequent.draws": _draws,
    "frequent.nature": _nature,
    "frequent.penalty": _penalty,
    "frequent.uniformity": partial(_by_kind, "uniformity", points, tuple(KINDS)),
    "frequent.detection": partial(_by_kind, "scores.detection", points, tuple(KINDS)),
    "frequent.intruder": partial(_by_kind, "scores.intruder", points, tuple(KINDS)),
    **{
        f"frequent.quotient.{site.partition('/')[0]}.{kind}.{by}.{level}": partial(
            _quotient, site, kind, by, level
        )
        for site, kind, by, level in product(SITES, KINDS, MEASURES, LEVELS)
    },
    **{
        f"frequent.{cost}.{site.partition('/')[0]}.{level}": partial(_costs, name, site, level)
        for cost, name in (("costs", "fvu"), ("costs_kl", "spliced.kl"))
        for site, level in product(SITES, LEVELS)
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
