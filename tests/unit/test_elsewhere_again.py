"""Cells of the bandwidths at other widths and on other language models computed a second time.

As in `test_pages_again`, nothing of `benchmarks` or `app` is imported.
"""

import math
import re
from collections import defaultdict
from typing import Any

import pytest

from tests.unit.test_pages_again import DOCS, Row, marked, percent, read

PAGE = "bandwidth.md"
FIRST, DATA = read("paper_bandwidth.json"), read("paper_elsewhere.json")
GROUPS = ("raw", "relative")
NAMES = {"demo": "demo", "llama": "Llama", "mistral": "Mistral"}
RULES = {
    "Scott": "scott",
    "Silverman": "silverman",
    "plug-in": "plug_in",
    "least-squares cross-validation": "lscv",
    "least error of the threshold's gradient": "gradient",
}
SUFFIX = {"raw": "", "relative": "_relative"}
Place = tuple[str, str, int]
"""Setting as the page names it, site and L0."""


def setting(r: Row) -> str:
    return f"{NAMES[r.get('model', 'demo')]}, {r.get('d_sae', 2_048):,}"


def two(value: float) -> str:
    """Two significant digits, without an exponent."""
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"


def logs_of(group: str) -> dict[Place, dict[int, dict[float, float]]]:
    """By place and seed, over the bandwidth: the logarithm of FVU at the L0 that was asked for; of
    seeds with all seven bandwidths.
    """
    found: dict[Place, dict[int, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for r in FIRST["rows"] + DATA["rows"]:
        if r["group"] == group:
            value = math.log(r["fvu"]) + 0.7 * math.log(r["l0"] / r["target"])
            found[setting(r), r["site"], r["target"]][r["seed"]][r["epsilon"]] = value
    return {
        place: {seed: line for seed, line in seeds.items() if len(line) == 7}
        for place, seeds in found.items()
    }


def means(seeds: dict[int, dict[float, float]]) -> dict[float, float]:
    epsilons = sorted(next(iter(seeds.values())))
    return {e: sum(line[e] for line in seeds.values()) / len(seeds) for e in epsilons}


def settings_of(group: str) -> list[str]:
    order = list(NAMES.values())
    there = {place[0] for place in logs_of(group)}
    return sorted(
        there,
        key=lambda n: (order.index(n.split(", ")[0]), int(n.split(", ")[1].replace(",", ""))),
    )


def regret(seeds: dict[int, dict[float, float]], epsilon: float) -> float:
    """Of a place: the mean over seeds of what is lost against the best of the mean."""
    mean = means(seeds)
    best = min(mean, key=lambda e: mean[e])
    lost = []
    for line in seeds.values():
        known = sorted(line)
        e = min(max(epsilon, known[0]), known[-1])
        high = next(k for k in known if k >= e * (1 - 1e-12))
        low = max([k for k in known if k <= e * (1 + 1e-12)])
        part = 0.0 if high == low else math.log(e / low) / math.log(high / low)
        lost.append(math.exp(line[low] + part * (line[high] - line[low]) - line[best]) - 1)
    return sum(lost) / len(lost)


def told(values: list[float]) -> str:
    return f"{percent(sum(values) / len(values))} ({percent(max(values))})"


@pytest.mark.parametrize("group", GROUPS)
def test_every_place(group: str) -> None:
    held = {p: seeds for p, seeds in logs_of(group).items() if p[0] != "demo, 2,048"}
    _, table = marked(PAGE, f"elsewhere.fvu{SUFFIX[group]}")
    assert len(table) == len(held)
    for name, seeds, best, *row in table:
        model, width, site, target = name.split(", ")
        cell = held[f"{model}, {width}", site, int(target)]
        mean = means(cell)
        least = min(mean.values())
        assert seeds == str(len(cell))
        assert best == f"{math.exp(least):.4f}"
        above = [math.exp(v - least) - 1 for v in mean.values()]
        for value, shown in zip(above, row, strict=False):
            assert shown == ("**best**" if value == 0 else f"{100 * value:.1f}")
        at = above.index(0)
        low = next(k for k in range(at + 1) if all(a <= 0.02 for a in above[k : at + 1]))
        high = max(k for k in range(at, 7) if all(a <= 0.02 for a in above[at : k + 1]))
        epsilons = list(mean)
        assert row[7] == f"{two(epsilons[low])} to {two(epsilons[high])}"
        there = [line[epsilons[at]] for line in cell.values()]
        spread = percent(math.exp(max(there) - min(there)) - 1) if len(cell) > 1 else ""
        assert row[8] == spread


@pytest.mark.parametrize("group", GROUPS)
def test_the_largest_distances_from_the_best(group: str) -> None:
    held = logs_of(group)
    _, table = marked(PAGE, f"elsewhere.summary{SUFFIX[group]}")
    assert [row[0] for row in table] == settings_of(group)
    for name, places, seeds, *shown in table:
        cells = [each for place, each in held.items() if place[0] == name]
        assert places == str(len(cells))
        counts = {len(each) for each in cells}
        assert seeds == (f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{min(counts)}")
        for last, cell in zip((2, 3, 6), shown, strict=True):
            above = []
            for each in cells:
                values = list(means(each).values())
                above.append(math.exp(max(values[: last + 1]) - min(values)) - 1)
            assert cell == percent(max(above))


def rules_at(name: str) -> dict[tuple[str, int], dict[str, Any]]:
    """By site and L0, the rules' bandwidths of a setting."""
    return {
        (each["site"], int(float(target))): rules
        for each in FIRST["rules"] + DATA["rules"]
        for target, rules in each["targets"].items()
        if setting(each) == name and rules
    }


@pytest.mark.parametrize("group", GROUPS)
def test_regrets_of_rules_and_of_one_bandwidth_for_all(group: str) -> None:
    held = logs_of(group)
    (_, *names, together), table = marked(PAGE, f"elsewhere.rules{SUFFIX[group]}")
    assert names == [n for n in settings_of(group) if rules_at(n)]
    assert together == "all together"
    every: dict[str, list[float]] = defaultdict(list)
    for column, name in enumerate(names):
        cells = {place[1:]: seeds for place, seeds in held.items() if place[0] == name}
        chosen = rules_at(name)
        by_row = {row[0]: row[1 + column] for row in table}
        for words, rule in RULES.items():
            values = {at: chosen[at][rule][group][1] for at in chosen if at in cells}
            middle = math.exp(sum(math.log(v) for v in values.values()) / len(values))
            lost = [regret(cells[at], e) for at, e in values.items()]
            assert by_row[words] == f"{two(middle)}: {told(lost)}", (name, words)
            every[words] += lost
        fixed = {
            e: [regret(each, e) for each in cells.values()]
            for e in means(next(iter(cells.values())))
        }
        for epsilon, lost in fixed.items():
            assert by_row[f"{two(epsilon)} for all"] == told(lost)
            every[f"{two(epsilon)} for all"] += lost
        best = min(fixed, key=lambda e: sum(fixed[e]))
        words = "one for all, the best afterwards"
        assert by_row[words] == f"{two(best)}: {told(fixed[best])}"
        every[words] += fixed[best]
    assert {row[0]: row[-1] for row in table} == {
        words: told(lost) for words, lost in every.items()
    }
    if group == "raw":
        text = sentence("ruled")
        assert text.startswith(f"Over all {len(held)} places ")
        rule, value = (
            min(names_of, key=lambda words: sum(every[words]))
            for names_of in (RULES, [words for words in every if words.endswith(" for all")])
        )
        assert f"the best rule, {rule}, has a mean regret of {told(every[rule])}," in text
        assert f"and {value} one of {told(every[value])};" in text


def sentence(name: str) -> str:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    return text.split(f"<!--=elsewhere.{name}-->")[1].split("<!--/-->")[0]


def test_what_else_changes() -> None:
    fields = {"delta LM loss, nats": "delta_lm_loss", "dead": "dead"}
    fields["threshold noise"] = "threshold_noise"
    _, table = marked(PAGE, "elsewhere.other")
    for name, what, *row in table:
        own = [r for r in FIRST["rows"] + DATA["rows"] if setting(r) == name]
        own = [r for r in own if r["group"] == "raw"]
        for epsilon, shown in zip(sorted({r["epsilon"] for r in own}), row, strict=True):
            by_place = defaultdict(list)
            for r in own:
                if r["epsilon"] == epsilon:
                    by_place[r["site"], r["target"]].append(r[fields[what]])
            values = [sum(each) / len(each) for each in by_place.values()]
            mean = sum(values) / len(values)
            three = f"{mean:.{2 - math.floor(math.log10(mean))}f}"
            right = three if what.startswith("delta") else percent(mean)
            assert shown == right, (name, what, epsilon)


def test_sentences() -> None:
    said = sentence
    raw, relative = (logs_of(group) for group in GROUPS)
    others = {place: each for place, each in raw.items() if place[0] != "demo, 2,048"}
    assert said("flat").startswith(f"At {len(others)} more places ")
    above = []
    for last in (3, 2):
        lines = [list(means(each).values()) for each in others.values()]
        above.append(max(math.exp(max(v[: last + 1]) - min(v)) - 1 for v in lines))
    assert [percent(each) for each in above] == re.findall(r"at most ([\d.]+ %)", said("flat"))
    gaps = []
    for place in others:
        if place in relative:
            seeds = raw[place].keys() & relative[place].keys()
            best = [
                min(means({s: each[place][s] for s in seeds}).values()) for each in (raw, relative)
            ]
            gaps.append(100 * (math.exp(best[1] - best[0]) - 1))
    assert f"by {min(gaps):+.1f} to {max(gaps):+.1f} %" in said("gain")
    assert said("size").startswith(f"{len(DATA['rows'])} SAEs (")


def test_it_is_the_first_sweep_but_for_width_and_model() -> None:
    """So that its 2,048 features on the demo stand beside them."""
    same = ("bundle", "corpus", "validation", "context_size", "d_sae", "batch", "steps", "recipe")
    assert [DATA["settings"][name] for name in same] == [FIRST["settings"][name] for name in same]
    assert DATA["measured_tokens"] == FIRST["measured_tokens"]
    assert DATA["models"]["demo"]["weights"] == FIRST["settings"]["bundle"]
    texts = read("paper_comparison.json")["texts"]
    for family in DATA["models"]:
        assert DATA["models"][family]["weights"] == texts[family]["weights"]
    assert {r["model"] for r in DATA["rows"]} == DATA["models"].keys()
    for each in DATA.get("left_out", {}).values():
        assert each["nats_per_token"] > 5
        assert each["weights"] not in {text["weights"] for text in texts.values()}
