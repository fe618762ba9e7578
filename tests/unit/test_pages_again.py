"""Cells of the pages' tables computed a second time from the raw results, in plain Python.

Nothing of `benchmarks` or `app` is imported: selection, interpolation, verdicts and the way numbers
are written are said anew here, so an error in one of both is seen. `test_paper_pages` has those of
bandwidths, kernels and the rest.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOCS, RESULTS = Path("docs"), Path("benchmarks/results")
L0S = (16, 32, 64, 96, 128)
COLUMNS = {
    "JumpReLU": "jumprelu",
    "Gated": "gated",
    "TopK": "topk",
    "ReLU": "standard",
    "SAELens": "saelens",
    "dictionary_learning": "dictionary_learning",
    "penalty 0.1": "frequency_0.1",
    "penalty 0.01": "frequency_0.01",
}
Row = dict[str, Any]


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"), object_hook=with_rows)


def with_rows(result: dict[str, Any]) -> dict[str, Any]:
    """Rows that are stored as tables, as objects."""
    tables = result.get("rows")
    if isinstance(tables, list) and isinstance(tables[0], dict) and "cells" in tables[0]:
        result["rows"] = [
            dict(zip(table["columns"], cells, strict=True))
            for table in tables
            for cells in table["cells"]
        ]
    return result


def tables(text: str) -> list[list[list[str]]]:
    """Every Markdown table of a text: rows of cells, the header first."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        rows = [[c.strip() for c in line[1:-1].split("|")] for line in block.strip().split("\n")]
        found.append([rows[0], *rows[2:]])
    return found


def marked(page: str, name: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table between a page's marks."""
    text = (DOCS / page).read_text(encoding="utf-8")
    start = text.index(f"<!--={name}-->")
    (table,) = tables(text[start : text.index("<!--/-->", start)])
    return table[0], table[1:]


def percent(value: float) -> str:
    """Whole ones from 10 % on."""
    return f"{100 * value:.0f} %" if abs(100 * value) >= 10 else f"{100 * value:.1f} %"


def moved(row: Row) -> float:
    """FVU at the L0 that a row was to have."""
    near = row["l0"] and 0.25 <= row["l0"] / row["target"] <= 4
    return row["fvu"] * (row["l0"] / row["target"]) ** 0.7 if near and row["fvu"] else math.inf


@pytest.fixture(scope="module")
def shown() -> dict[tuple[str, str], list[Row]]:
    """The SAE that is shown of each curve's site, target and seed: lowest FVU, few dead first."""
    tried: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for group in read("pareto_h200.json")["groups"].values():
        for row in group["rows"] if group["stage"] != "sweep" else []:
            tried[row["curve"], row["site"], row["target"], row["seed"]].append(row)
    kept: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for (curve, site, _, _), rows in tried.items():
        few = [row for row in rows if row["dead"] <= 0.05] or rows
        kept[curve, site].append(min(few, key=moved))
    return kept


def line(rows: Sequence[Row], metric: str, l0: float) -> float | None:
    """On straight lines between the logarithms of the points of the first seed."""
    points = sorted((r["l0"], r[metric]) for r in rows if r["seed"] == 0 and (r[metric] or 0) > 0)
    if len(points) < 2 or l0 < points[0][0] / 1.1 or l0 > 1.1 * points[-1][0]:
        return None
    after = next((k for k, point in enumerate(points) if point[0] >= l0), len(points) - 1)
    (x0, y0), (x1, y1) = points[max(after, 1) - 1 : max(after, 1) + 1]
    part = math.log(l0 / x0) / math.log(x1 / x0)
    return math.exp((1 - part) * math.log(y0) + part * math.log(y1))


def test_cells_of_every_sites_curves(shown: dict[tuple[str, str], list[Row]]) -> None:
    text = (DOCS / "pareto.md").read_text(encoding="utf-8")
    cells = 0
    for part in re.split(r"^## (?=\w+/\d)", text, flags=re.MULTILINE)[1:]:
        site, body = part.split("\n", 1)
        body = body.split("\n## ")[0]
        for metric, table in zip(("fvu", "delta_lm_loss"), tables(body)[:2], strict=True):
            assert table[0] == ["", *(f"L0 {l0}" for l0 in L0S)]
            for name, *row in table[1:]:
                for l0, cell in zip(L0S, row, strict=True):
                    value = line(shown[COLUMNS[name], site], metric, l0)
                    mine = line(shown["jumprelu", site], metric, l0)
                    if value is None:
                        assert cell == "-"
                    else:
                        number, _, beside = cell.partition(" ")
                        assert number == f"{value:.4f}", (site, metric, name, l0)
                        if name != "JumpReLU" and mine:
                            change = f"({100 * (value / mine - 1):+.1f} %)".replace("-", "−")
                            assert beside == change, (site, metric, name, l0)
                    cells += 1
    assert cells == 2 * 5 * (9 * 4 + 2)


@pytest.mark.parametrize(("name", "metric"), [("fvu", "fvu"), ("loss", "delta_lm_loss")])
def test_verdicts_counted_over_places(
    shown: dict[tuple[str, str], list[Row]], name: str, metric: str
) -> None:
    noise: float = 0
    for rows in shown.values():
        at_point = [r for r in rows if r["target"] == 64 and (r[metric] or 0) > 0]
        values = [r[metric] * (r["l0"] / 64) ** 0.7 for r in at_point]
        if len(values) > 1:
            noise = max(noise, max(values) / min(values) - 1)
    sites = {site for _, site in shown}
    for against, places, lower, same, higher, _ in marked("paper.md", f"pareto.{name}")[1]:
        by: dict[str, list[float]] = {"lower": [], "same": [], "higher": []}
        for site in sites:
            for l0 in L0S:
                mine, theirs = (
                    line(shown.get((curve, site), []), metric, l0)
                    for curve in ("jumprelu", COLUMNS[against])
                )
                if mine and theirs:
                    difference = mine / theirs - 1
                    small = abs(difference) <= noise
                    by["same" if small else "lower" if difference < 0 else "higher"].append(
                        abs(100 * difference)
                    )
        assert int(places) == sum(map(len, by.values()))
        assert int(same) == len(by["same"])
        for cell, found in ((lower, by["lower"]), (higher, by["higher"])):
            said = [float(n) for n in re.findall(r"[\d.]+", cell)]
            ends = sorted({f"{min(found):.1f}", f"{max(found):.1f}"}, key=float) if found else []
            assert said == [len(found), *map(float, ends)], (against, cell)


@pytest.mark.parametrize(
    ("name", "metric", "there"),
    [("frequent", "high_frequency", 13), ("uniformity", "uniformity", 14)],
)
def test_cells_at_one_l0(
    shown: dict[tuple[str, str], list[Row]], name: str, metric: str, there: int
) -> None:
    (_, *sites), rows = marked("paper.md", f"pareto.{name}")
    cells = 0
    for curve, *row in rows:
        for site, cell in zip(sites, row, strict=True):
            value = line(shown.get((COLUMNS[curve], site), []), metric, 64)
            assert cell == ("" if value is None else percent(value))
            cells += value is not None
    assert cells == there  # ReLU has none at one site, and peers are at one alone


def test_shares_of_frequent_features_counted_in_the_histograms() -> None:
    data = read("paper_frequencies.json")
    rows = {(r["site"], r["target"], r["architecture"]): r for r in data["rows"]}
    cells = 0
    for name, bound in (("many", -1.0), ("some", -2.0)):
        (_, *kinds), table = marked("frequent.md", f"frequent.{name}")
        for place, *row in table:
            site, target = place.split(", ")
            for kind, cell in zip(kinds, row, strict=True):
                found = rows[site, float(target), COLUMNS[kind]]
                counted = [
                    sum(n for n, low in zip(each, data["edges"], strict=False) if low >= bound)
                    / data["settings"]["d_sae"][0]
                    for each in found["histogram"]
                ]
                assert cell.split(" (")[0] == percent(sum(counted) / len(counted))
                cells += 1
    assert cells == 2 * 6 * (len(kinds))


def columns() -> dict[tuple[str, str, int], Row]:
    data = read("paper_frequent.json")
    return {
        (site, kind, int(target)): dict(zip(data["columns"], values, strict=True))
        for site, kind, target, _, *values in data["rows"]
    }


def points(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("uniformity", "uniformity"),
        ("detection", "scores.detection"),
        ("intruder", "scores.intruder"),
    ],
)
def test_cells_of_what_each_kind_scores(name: str, field: str) -> None:
    found, (header, table) = columns(), marked("frequent.md", f"frequent.{name}")
    for place, *row in table:
        site, target = place.split(", ")
        for kind, cell in zip(header[1:], row, strict=True):
            value, low, high = map(points, found[site, COLUMNS[kind], int(target)][field][:3])
            assert cell == f"{value} ({low} to {high})"
    assert len(table) == 6


def test_cells_of_the_very_frequent_features_part() -> None:
    found, (_, table) = columns(), marked("frequent.md", "frequent.part")
    fields = ("of_active", "of_mass", "of_effect", "of_top_10", "of_top_1")
    for site, kind, count, *row in table:
        each = found[site, COLUMNS[kind], 64]
        mean, *seeds = map(float, re.findall(r"[\d.]+", count))
        assert mean == pytest.approx(each["very"], abs=0.5)
        assert sum(seeds) == pytest.approx(len(seeds) * mean)
        for field, cell in zip(fields, row, strict=True):
            value = each[field] if isinstance(each[field], list) else [each[field]]
            shown = [percent(v) for v in value[:3]]
            ends = f" ({shown[1][:-2]} to {shown[2][:-2]})" if len(set(shown)) > 1 else ""
            assert cell == shown[0] + ends
    assert len(table) % 3 == 0


def test_quotients_of_draws() -> None:
    """From the shown values of both sides, whose two digits leave a tenth open."""
    found, (_, table) = columns(), marked("frequent.md", "frequent.draws")
    for place, kind, _, *row in table:
        site, target = place.split(", ")
        each = found[site, COLUMNS[kind], int(target)]
        assert each["very"] >= 5
        for by, (very, others, quotient) in (("activity", row[:3]), ("mass", row[3:])):
            keys = [f"draws.{g}_by_{by}.kl" for g in ("very", "ordinary")]
            values = [each[key][0] for key in keys]
            low, high = (
                each[f"{keys[0]}_{one}"] / each[f"{keys[1]}_{other}"]
                for one, other in (("least", "most"), ("most", "least"))
            )
            assert quotient == f"{values[0] / values[1]:.1f} ({low:.1f} to {high:.1f})"
            for value, cell in zip(values, (very, others), strict=True):
                assert float(cell.split(" (")[0]) == pytest.approx(value, rel=0.05)


def test_what_the_penalty_costs() -> None:
    found = columns()
    text = (DOCS / "frequent.md").read_text(encoding="utf-8")
    marks = re.findall(r"<!--=frequent\.costs\.(\w+)\.(\d+)-->(.*?)<!--/-->", text)
    assert len(marks) == 6
    for site, target, shown_cost in marks:
        both = [found[f"{site}/4", k, int(target)]["fvu"] for k in ("frequency_0.1", "jumprelu")]
        assert shown_cost == percent(both[0] / both[1] - 1)


GROUPS = {"very frequent": "very", "next to them": "next", "others": "others"}


def wilson(passed: int, runs: int) -> list[float]:
    """Ends of the interval: the roots of (p - passed / runs)^2 = z^2 p (1 - p) / runs."""
    z = 1.959963984540054**2 / runs
    share = passed / runs
    roots = np.roots([1 + z, -(2 * share + z), share**2])
    return sorted(np.clip(roots.real, 0, 1))


def separate(passed: list[int], runs: int) -> bool:
    highest = max(wilson(each, runs)[1] for each in passed[1:])
    return wilson(passed[0], runs)[0] > highest + 1e-9


@pytest.mark.parametrize("rule", ["largest", "push"])
def test_proofs_of_steering(rule: str) -> None:
    data = read("paper_proofs.json")
    rows = {row["kind"]: row[rule] for row in data["rows"]}
    seeds, fewer = data["settings"]["seeds"], data["settings"]["fewer_seeds"]
    _, table = marked("frequent.md", f"proofs.{rule}")
    text = (DOCS / "frequent.md").read_text(encoding="utf-8")
    shown: dict[str, list[int]] = {name: [0, 0, 0] for name in GROUPS.values()}
    for kind, name, separated, could, passes, of_controls, without, more, nats in table:
        each = rows[COLUMNS[kind]][GROUPS[name]]
        passed, of_fewer, fires, nll = zip(*(feature[4:] for feature in each), strict=True)
        count = sum(separate(p, seeds) for p in passed)
        low, high = wilson(count, len(each))
        assert separated == f"{count} of {len(each)} ({percent(low)[:-2]} to {percent(high)})"
        assert int(could) == sum(separate([seeds, *p[1:]], seeds) for p in passed)
        share = float(np.mean([p[0] for p in passed])) / seeds
        assert passes.split(" (")[0] == percent(share)
        assert of_controls.split(" (")[0] == percent(
            float(np.mean([p[1:] for p in passed])) / seeds
        )
        assert without == percent(float(np.mean([f[0] for f in fires])))
        excess = np.mean([f[1] for f in fires]) - np.mean([f[2:] for f in fires])
        assert float(more.split(" %")[0]) == pytest.approx(100 * excess, abs=0.051)
        name_of_more = f"<!--=proofs.more.{rule}.{COLUMNS[kind]}.{GROUPS[name]}-->"
        if name_of_more in text:
            assert f"{name_of_more}{more.split(' (')[0]}<!--/-->" in text
        assert float(nats) == pytest.approx(np.mean([n[1] - n[0] for n in nll]), abs=0.0051)
        shown[GROUPS[name]][0] += count
        shown[GROUPS[name]][1] += sum(separate(p, fewer) for p in of_fewer)
        shown[GROUPS[name]][2] += len(each)
    assert len(table) == 9
    marks = re.findall(rf"<!--=proofs.separate.{rule}.(\w+)(.fewer)?-->(.*?)<!--/-->", text)
    assert marks
    for group, of_few, said in marks:
        assert said == f"{shown[group][bool(of_few)]} of {shown[group][2]}"


def test_which_l0_are_not_matched() -> None:
    text = (DOCS / "frequent.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!--=frequent.matched-->(.*?)<!--/-->", text)
    off: dict[str, float] = {}
    for row in read("paper_frequencies.json")["rows"]:
        far = max(abs(l0 / row["target"] - 1) for l0 in row["l0"])
        if far > 0.05:
            name = {kind: name for name, kind in COLUMNS.items()}[row["architecture"]]
            key = f"{name} at `{row['site']}`"
            off[key] = max(far, off.get(key, 0))
    assert off
    said = " and ".join(f"{key} ({percent(far)} off)" for key, far in off.items())
    assert shown == f"within a twentieth of it but for {said}"


def test_the_page_of_frequent_features_says_what_its_results_hold() -> None:
    """Sentences that no result makes, and that another go makes untrue."""
    text = (DOCS / "frequent.md").read_text(encoding="utf-8")
    data = read("paper_frequent.json")
    kinds = {row[1] for row in data["rows"]}
    said: dict[str, Callable[[], bool]] = {
        "TopK is not here": lambda: "topk" not in kinds,
        "- **Two seeds** of each kind": lambda: (
            all(row[3] == [0, 1] for row in data["rows"])
            and len(data["rows"]) == 6 * len(kinds) == 36
        ),
        "Loss and KL of the spliced models were not measured": lambda: (
            "spliced.kl" not in data["columns"]
        ),
    }
    found = columns().values()
    said |= {
        "of one SAE one at most, mostly of TopK's": lambda: (
            max(each["over_half"] for each in found) == 1
            and sum(each["over_half"] for (_, kind, _), each in columns().items() if kind == "topk")
            > sum(each["over_half"] for each in found) / 2
        ),
        "worse on them than on other features, beyond doubt with JumpReLU and TopK": lambda: all(
            each["very_features.detection"][2] < each["ordinary_features.detection"][1]
            for (_, kind, _), each in columns().items()
            if kind in ("jumprelu", "topk")
        ),
    }
    short = (DOCS / "paper.md").read_text(encoding="utf-8")
    for sentence, true in said.items():
        assert (sentence in text) == true(), sentence
    assert "their study for TopK" not in short
