"""Cells of docs/comparison.md computed a second time from the raw results.

As in `test_pages_again`, nothing of `benchmarks` or `app` is imported: what the page says of its
method is carried out anew, the bootstrap with random numbers of its own.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.unit.test_pages_again import COLUMNS, DOCS, Row, marked, percent, read

Place = tuple[str, str, int]
MODELS = {"demo": "", "llama": "_llama", "mistral": "_mistral"}
METRICS = {"fvu": ("fvu", "errors"), "delta_lm_loss": ("loss", "losses")}
DATA = read("paper_comparison.json")
CELLS = {"demo": 9 * 6, "llama": 9 * 4, "mistral": 3 * 4}
DRAWS = 4_000
ROOM = 0.2
"""Of half an interval's width: by how much an end may differ from the page's. An end from 2,000
draws is uncertain by sqrt(0.025 * 0.975 / 2000) / density = 0.06 deviations of a normal
distribution, 0.03 of the half-width, and ours by 0.02: 0.04 together, and three to four times that
is what the farthest of 248 ends is off by (0.14). Three seeds make the distribution lumpy, too."""


def three(value: float, count: int = 3) -> str:
    """So many significant digits, without an exponent."""
    places = max(0, count - 1 - math.floor(math.log10(value)))
    return f"{value:.{places}f}"


def rows(**wanted: Any) -> list[Row]:
    return [r for r in DATA["rows"] if all(r.get(k) == v for k, v in wanted.items())]


def of_model(model: str) -> list[Row]:
    return rows(stage="report") if model == "demo" else rows(stage="other", family=model)


def gathered(model: str) -> dict[Place, list[Row]]:
    """The seeds of every place at which JumpReLU is not alone."""
    found: dict[Place, list[Row]] = defaultdict(list)
    for r in of_model(model):
        found[r["architecture"], r["site"], r["target"]].append(r)
    shared = {key[1:] for key in found if key[0] != "jumprelu"}
    return {key: each for key, each in found.items() if key[1:] in shared}


def power(found: dict[Place, list[Row]], place: Place, metric: str) -> float:
    """That of L0 by which a metric goes there: the mean of the slopes to the L0s beside it."""
    name, site, target = place
    curve = {}
    for (other, where, l0), each in found.items():
        if (other, where) == (name, site):
            means = (sum(r[f] for r in each) / len(each) for f in ("l0", metric))
            curve[l0] = tuple(means)
    order = sorted(curve)
    slopes = [
        math.log(curve[b][1] / curve[a][1]) / math.log(curve[b][0] / curve[a][0])
        for a, b in pairwise(order)
        if target in (a, b) and min(curve[a][1], curve[b][1]) > 0
    ]
    return sum(slopes) / len(slopes) if slopes else -0.7


class Compared:
    """One metric on one language model: every place's seeds, moved to its L0."""

    def __init__(self, model: str, metric: str) -> None:
        self.found = gathered(model)
        self.by_block, self.factor = {}, {}
        for place, each in self.found.items():
            slope = power(self.found, place, metric)
            self.by_block[place] = np.array([r[METRICS[metric][1]] for r in each])
            self.factor[place] = np.array([(r["target"] / r["l0"]) ** slope for r in each])
        weights = DATA["texts"][model]["deviations"]
        self.weights = {
            site: np.array(w) if metric == "fvu" else np.ones(len(w)) for site, w in weights.items()
        }

    def value(self, place: Place) -> float:
        """The geometric mean over seeds."""
        weights = self.weights[place[1]]
        seeds = self.by_block[place].sum(1) / weights.sum() * self.factor[place]
        return float(np.exp(np.log(seeds).mean())) if (seeds > 0).all() else math.nan

    def far(self, place: Place) -> bool:
        """Whether a seed of either side misses its L0 by more than a tenth."""
        both = self.found[place] + self.found["jumprelu", *place[1:]]
        return any(abs(r["l0"] / r["target"] - 1) > 0.1 for r in both)

    def interval(self, place: Place) -> tuple[float, float] | None:
        """Of the quotient over JumpReLU's, less 1; None where too many draws have no logarithm."""
        random = np.random.default_rng(20_261_130)
        weights = self.weights[place[1]]
        times = random.multinomial(len(weights), np.full(len(weights), 1 / len(weights)), DRAWS)
        sides = []
        for key in (place, ("jumprelu", *place[1:])):
            sums = times @ self.by_block[key].T / (times @ weights)[:, None]
            logs = np.log(np.where(sums > 0, sums, np.nan)) + np.log(self.factor[key])
            seeds = logs.shape[1]
            share = random.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
            enlarged = math.sqrt(seeds / (seeds - 1)) * ((share - 1 / seeds) * logs).sum(1)
            sides.append(logs.mean(1) + enlarged)
        difference = sides[0] - sides[1]
        known = difference[np.isfinite(difference)]
        if len(known) < 0.95 * DRAWS:
            return None
        low, high = np.percentile(known, [2.5, 97.5])
        return math.exp(low) - 1, math.exp(high) - 1


EVERY = [(model, metric) for model in MODELS for metric in METRICS]


def printed(model: str, metric: str) -> Iterator[tuple[Place, str]]:
    """The cells of a table of quotients, and JumpReLU's values beside them."""
    (_, *names), table = marked("comparison.md", f"comparison.{METRICS[metric][0]}{MODELS[model]}")
    for place, *row in table:
        site, target = place.split(", ")
        for name, cell in zip(names, row, strict=True):
            yield (COLUMNS[name], site, int(target)), cell


def ends(cell: str) -> tuple[float, float]:
    low, high = re.findall(r"[+-][\d.]+", cell.split("(")[1])
    return float(low) / 100, float(high) / 100


@pytest.mark.parametrize(("model", "metric"), EVERY)
def test_values_quotients_and_intervals(model: str, metric: str) -> None:
    anew, cells = Compared(model, metric), 0
    for place, cell in printed(model, metric):
        mine = anew.value(("jumprelu", *place[1:]))
        cells += 1
        if place[0] == "jumprelu":
            assert cell == three(mine), place
            continue
        found = anew.interval(place)
        assert (cell == "") == (found is None), place
        if found is None:
            continue
        assert re.sub("[*_]", "", cell).startswith(
            f"{100 * (anew.value(place) / mine - 1):+.1f} % ("
        ), place
        said = ends(cell)
        # Ends as logarithms, in which the draws are made; a printed one is off by up to 0.0005.
        (low, high), (own_low, own_high) = (np.log1p(pair) for pair in (said, found))
        room = ROOM * (high - low) / 2 + 0.0006
        assert abs(low - own_low) <= room, (place, said, found)
        assert abs(high - own_high) <= room, (place, said, found)
        assert cell.endswith(" †") == anew.far(place), place
        decided = 0 if anew.far(place) else 1 if said[0] > 0 else -1 if said[1] < 0 else 0
        assert {1: "*", -1: "_", 0: "+-"}[decided].find(cell[0]) >= 0, place
    assert cells == CELLS[model]


def verdict_of(cell: str) -> str:
    return {"*": "lower", "_": "higher"}.get(cell[:1], "undecided")


@pytest.mark.parametrize("model", MODELS)
def test_verdicts_counted_from_the_tables(model: str) -> None:
    """The summary and the sentences of *In short* against the cells that are printed."""
    _, summary = marked("comparison.md", f"comparison.summary{MODELS[model]}")
    text = (DOCS / "comparison.md").read_text(encoding="utf-8")
    counted = {metric: Counter[tuple[str, str]]() for metric in METRICS}
    shares: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for metric, title in (("fvu", "FVU"), ("delta_lm_loss", "delta LM loss")):
        anew = Compared(model, metric)
        for place, cell in printed(model, metric):
            if place[0] != "jumprelu":
                counted[metric][place[0], verdict_of(cell)] += 1
                mine = anew.value(("jumprelu", *place[1:]))
                shares[title, place[0], verdict_of(cell)].append(
                    abs(100 * (mine / anew.value(place) - 1))
                )
    cells = 0
    for what, places, lower, undecided, higher in summary:
        title, name = what.split(" against ")
        metric = "fvu" if title == "FVU" else "delta_lm_loss"
        found = {v: counted[metric][COLUMNS[name], v] for v in ("lower", "undecided", "higher")}
        assert int(places) == sum(found.values())
        assert int(undecided) == found["undecided"]
        for verdict, cell in (("lower", lower), ("higher", higher)):
            own = shares[title, COLUMNS[name], verdict]
            said = re.findall(r"[\d.]+", cell)
            at = sorted({f"{min(own):.1f}", f"{max(own):.1f}"}, key=float) if own else []
            assert said == [str(found[verdict]), *at], (what, cell)
        sentence = f"than {name}'s at {found['lower']} of {places} places"
        start = text.index(f"<!--=comparison.counted.{metric}{MODELS[model]}-->")
        assert sentence in text[start : text.index("<!--/-->", start)]
        cells += 4
    assert cells == (40 if model == "demo" else 24)


def test_a_llama_and_a_mistral_say_what_the_demo_says() -> None:
    text = (DOCS / "comparison.md").read_text(encoding="utf-8")
    for model in ("llama", "mistral"):
        start = text.index(f"<!--=comparison.alike_{model}-->")
        said = re.findall(
            r"in (\d+) of the (\d+) comp", text[start : text.index("<!--/-->", start)]
        )
        for (same, both), metric in zip(said, METRICS, strict=True):
            demo = {p: verdict_of(c) for p, c in printed("demo", metric)}
            pairs = [
                (demo[p], verdict_of(c)) for p, c in printed(model, metric) if p[0] != "jumprelu"
            ]
            decided = [pair for pair in pairs if "undecided" not in pair]
            assert int(both) == len(decided)
            assert int(same) == sum(one == other for one, other in decided)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "field"), [("dead", "dead"), ("frequent", "high_frequency")])
def test_shares_of_dead_and_frequent_features(model: str, name: str, field: str) -> None:
    (_, *names), table = marked("comparison.md", f"comparison.{name}{MODELS[model]}")
    found, cells = gathered(model), 0
    for place, *row in table:
        site, target = place.split(", ")
        for each, cell in zip(names, row, strict=True):
            seeds = found[COLUMNS[each], site, int(target)]
            assert cell == percent(sum(r[field] for r in seeds) / len(seeds))
            cells += 1
    assert cells == CELLS[model]


def test_where_the_llama_orders_the_architectures_otherwise() -> None:
    """As a sentence of the page says, which no result makes."""
    higher = {p for p, cell in printed("llama", "fvu") if verdict_of(cell) == "higher"}
    assert higher == {(name, "mlp_out/4", 16) for name in ("gated", "topk")}


def taken(row: Row) -> float:
    """FVU at the L0 that was asked for, as the sweep takes it."""
    return row["fvu"] * (row["l0"] / row["target"]) ** 0.7


def test_tried_settings_and_chosen_rates() -> None:
    (_, _, *sites), table = marked("comparison.md", "comparison.rates")
    cells, chosen = 0, {}
    for name, count, *row in table:
        tried = rows(stage="sweep", architecture=COLUMNS[name])
        assert int(count) == len(tried)
        assert len({r["seed"] for r in tried}) == 1
        for site, cell in zip(sites, row, strict=True):
            for target, shown in zip((16, 64, 128), cell.split(", "), strict=True):
                own = [r for r in tried if (r["site"], r["target"]) == (site, target)]
                own = [r for r in own if 0.25 <= r["l0"] / target <= 4]
                best = min(own, key=taken)["lr"]
                star = "*" if best in (min(DATA["settings"]["rates"]), 0.02) else ""
                assert shown == f"{best:g}{star}"
                chosen[COLUMNS[name], site, target] = best
                cells += 1
    assert cells == 6 * 9
    assert all(
        r["lr"] == chosen[r["architecture"], r["site"], r["target"]]
        for r in rows(stage="report") + rows(stage="other")
    )
    assert not {r["seed"] for r in rows(stage="report")} & {r["seed"] for r in rows(stage="sweep")}


def test_fvu_and_dead_features_over_the_rate() -> None:
    (_, *rates), table = marked("comparison.md", "comparison.trade")
    cells = 0
    for what, *row in table:
        target, name = what.split(", ")
        for rate, cell in zip(rates, row, strict=True):
            (own,) = rows(
                stage="sweep",
                architecture=COLUMNS[name],
                site="attn_out/4",
                target=int(target),
                lr=float(rate),
            )
            assert cell == f"{three(taken(own))}, {percent(own['dead'])}"
            cells += 1
    assert cells == 6 * 5


def three_cells(own: list[Row], none: list[Row]) -> list[str]:
    fvu, before = (
        math.exp(sum(math.log(taken(r)) for r in each) / len(each)) for each in (own, none)
    )
    change = "" if own == none else f" ({100 * (fvu / before - 1):+.1f} %)"
    dead, loss = (sum(r[f] for r in own) / len(own) for f in ("dead", "delta_lm_loss"))
    return [three(fvu) + change, percent(dead), three(loss, 2)]


@pytest.mark.parametrize(("name", "count"), [("cures", 9 * 6), ("elsewhere", 4 * 9)])
def test_changes_against_dead_features(name: str, count: int) -> None:
    (_, *header), table = marked("comparison.md", f"comparison.{name}")
    places = [title.split(": ")[0].split(", ") for title in header[::3]]
    cells = 0
    for cure, *row in table:
        for k, (site, target) in enumerate(places):
            at = {"site": site, "target": int(target)}
            seeds = (1, 2) if name == "cures" else (1,)
            none = [
                r for r in rows(stage="report", architecture="jumprelu", **at) if r["seed"] in seeds
            ]
            none = rows(stage="cure", cure="none", **at) or none
            own = rows(stage="cure", cure=cure, **at) or none
            assert {r["seed"] for r in own} == set(seeds)
            assert row[3 * k : 3 * k + 3] == three_cells(own, none), (cure, at)
            cells += 3
    assert cells == count


def test_twice_the_length() -> None:
    _, table = marked("comparison.md", "comparison.long")
    for what, *row in table:
        ((target, length, rate),) = re.findall(r"(\d+), (one|two) lengths? at ([\d.]+)", what)
        none = rows(stage="cure", cure="none", target=int(target), site="attn_out/4")
        own = rows(stage="long", target=int(target), lr=float(rate))
        own = none if length == "one" else own
        assert what.endswith(", one seed") == (len(own) == 1)
        same = {r["seed"] for r in own}
        assert row == three_cells(own, [r for r in none if r["seed"] in same])
    assert len(table) == 2 + 5


def test_the_page_says_what_its_results_hold() -> None:
    """Sentences that no result makes, and numbers of *What to keep in mind*."""
    text = (DOCS / "comparison.md").read_text(encoding="utf-8")

    def said(name: str) -> str:
        start = text.index(f"<!--={name}-->") + len(f"<!--={name}-->")
        return text[start : text.index("<!--/-->", start)]

    assert said("comparison.count") == str(len(DATA["rows"]))
    reported = rows(stage="report") + rows(stage="other")
    off = [abs(r["l0"] / r["target"] - 1) for r in reported]
    assert percent(max(off)) in said("comparison.missed")
    for far in (r for r in reported if abs(r["l0"] / r["target"] - 1) > 0.1):
        assert f"at `{far['site']}` with an L0 of {far['target']}" in said("comparison.missed")
    names = {value: key for key, value in COLUMNS.items()}
    dead = Counter(
        f"{names[r['architecture']]} at `{r['site']}` with an L0 of {r['target']}"
        + (f" on the {r['family'].title()}" if "family" in r else "")
        for r in reported
        if r["dead"] > 0.5
    )
    for place, count in dead.items():
        assert f"{place} ({count} of 3 seeds)" in said("comparison.broken")
    assert said("comparison.broken").count(" seeds)") == len(dead)
    for part, model in zip(said("comparison.dead_counted").split(";"), MODELS, strict=True):
        own = Counter(
            key[0]
            for key, each in gathered(model).items()
            if sum(r["dead"] for r in each) / len(each) > 0.05
        )
        for name, count in re.findall(r"(\w+) (\d+)(?=[,.;]|$)", part.split(":")[1]):
            assert int(count) == own[COLUMNS[name]]
    anew = Compared("demo", "fvu")
    better = 0
    for place, each in anew.found.items():
        values = np.array([r["fvu"] for r in each]) * anew.factor[place]
        better += values.min() > anew.value(("jumprelu", *place[1:]))
    assert said("comparison.best_seeds").startswith(f"in {better} of 45 comparisons")
    loss = Compared("demo", "delta_lm_loss")
    for place, cell in printed("demo", "delta_lm_loss"):
        if place[0] != "jumprelu" and verdict_of(cell) == "undecided" and "†" not in cell:
            assert place[1] != "resid_post/4"
            assert loss.value(("jumprelu", *place[1:])) < 1 / 50
    assert {len(each["errors"]) for each in reported} == {20}
