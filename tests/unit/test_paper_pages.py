"""The pages of the paper's studies: every number and figure is what the results give."""

import json
import math
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper import pages
from benchmarks.paper.figures import FIGURES
from benchmarks.paper.pages import GIVEN, unmarked
from benchmarks.paper.results import read
from benchmarks.paper.shown_text import digits, load, share
from sae_core.bundle import Bundle
from sae_core.index.store import Index
from sae_core.threshold_place import places_of, tokens_per_count

DOCS, RESULTS = Path("docs"), Path("benchmarks/results")


def test_the_pages_are_what_the_results_give() -> None:
    assert pages.wrong() == []


def test_a_changed_digit_fails_wherever_it_stands(tmp_path: Path) -> None:
    """In a table, in a sentence, outside of the marks, and in a figure; nothing else is named."""
    for page in pages.pages_of(load()):
        shutil.copy(DOCS / page, tmp_path / page)
    shutil.copytree(DOCS / "pictures", tmp_path / "pictures")

    def change(path: str, pattern: str, new: str) -> None:
        text = (tmp_path / path).read_text(encoding="utf-8")
        changed, times = re.subn(pattern, new, text, count=1, flags=re.DOTALL)
        assert times == 1
        assert changed != text
        (tmp_path / path).write_text(changed, encoding="utf-8")

    change("bandwidth.md", r"(<!--=bandwidth.raw-->.*?\| 0\.\d{3})\d", r"\g<1>x")
    change("threshold.md", r"(<!--=slope.true-->).*?<!--/-->", r"\g<1>7<!--/-->")
    change("paper.md", r"minutes, and what came out", "minutes (0.123 better), and what came out")
    change("pictures/paper-bandwidth-fvu.svg", r'points="\d', 'points="1')
    named = pages.wrong(tmp_path)
    assert len(named) == 4, named
    for start in (
        "bandwidth.md: bandwidth.raw is",
        "threshold.md: slope.true is",
        "paper.md: 0.123",
    ):
        assert any(sentence.startswith(start) for sentence in named), named
    assert "paper-bandwidth-fvu.svg is not the figure that the results give." in named


def test_what_is_wrong_in_a_long_table_is_shown(tmp_path: Path) -> None:
    for page in pages.pages_of(load()):
        shutil.copy(DOCS / page, tmp_path / page)
    shutil.copytree(DOCS / "pictures", tmp_path / "pictures")
    text = (tmp_path / "threshold.md").read_text(encoding="utf-8")
    cell = rows_of("threshold.md", "rest.table")[-1][2]
    (tmp_path / "threshold.md").write_text(text.replace(cell, "77 of 99"), encoding="utf-8")
    (sentence,) = pages.wrong(tmp_path)
    said, must = sentence.split(" but must be ")
    assert "| 77 of 99 |" in said
    assert f"| {cell} |" in must


def test_nobodys_numbers_are_those_that_stand_on_a_page() -> None:
    """One that has gone would let the same number pass as a result that is in no mark."""
    for page, given in GIVEN.items():
        path = pages.TEXT if page == pages.MADE else DOCS / page
        assert given <= set(unmarked(path.read_text(encoding="utf-8"))), page


def test_no_line_of_prose_begins_with_a_mark() -> None:
    """It would be HTML to a renderer, which leaves its code and links as they are written."""
    for path in (*DOCS.glob("*.md"), pages.TEXT):
        begun = re.findall(
            r"^<!--=[\w./-]+-->(?!<!--/-->$).+", path.read_text("utf-8"), re.MULTILINE
        )
        assert begun == [], path


def test_numbers_outside_of_marks_are_found() -> None:
    text = "FVU is 0.5 (<!--=a-->0.7<!--/-->), 12 %, 1,000 of 3; `0.9`, [x](y-0.4.svg) and 4."
    assert unmarked(text) == ["0.5", "12 %", "1,000"]


def test_figures_are_small_and_follow_the_readers_colours() -> None:
    for name in FIGURES:
        path = DOCS / "pictures" / f"paper-{name}.svg"
        text = path.read_text(encoding="utf-8")
        root = ET.fromstring(text)
        assert len(text) < 20_000
        assert "prefers-color-scheme:dark" in text
        assert root.get("viewBox", "").split()[2] == "380"
        title = root.find("{http://www.w3.org/2000/svg}title")
        assert title is not None
        assert title.text
        shown = [(DOCS / page).read_text(encoding="utf-8") for page in pages.pages_of(load())]
        assert any(path.name in text for text in shown)


def rows_of(page: str, name: str) -> list[list[str]]:
    """The cells of a marked table, without its header."""
    text = (DOCS / page).read_text(encoding="utf-8")
    inside = re.search(rf"<!--={re.escape(name)}-->(.*?)<!--/-->", text, re.DOTALL)
    assert inside is not None
    lines = inside[1].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def sweep() -> dict[str, Any]:
    return read("bandwidth", RESULTS)


@pytest.mark.parametrize(("name", "group"), [("raw", "raw"), ("relative", "relative")])
def test_cells_of_the_sweep_again(sweep: dict[str, Any], name: str, group: str) -> None:
    """FVU moved to the target, averaged over seeds, above the best: without the studies' code."""
    cells = 0
    for row in rows_of("bandwidth.md", f"bandwidth.{name}"):
        site, target = row[0].split(", ")
        mine = [
            r
            for r in sweep["rows"]
            if (r["group"], r["site"], r["target"]) == (group, site, int(target))
        ]
        seeds = {r["seed"] for r in mine}
        assert row[1] == str(len(seeds))
        means = {}
        for e in sorted({r["epsilon"] for r in mine}):
            logs = [
                math.log(r["fvu"]) + 0.7 * math.log(r["l0"] / r["target"])
                for r in mine
                if r["epsilon"] == e
            ]
            means[e] = math.exp(sum(logs) / len(logs))
        best = min(means.values())
        assert row[2] == f"{best:.4f}"
        for value, shown in zip(means.values(), row[3:], strict=False):
            right = "**best**" if value == best else f"{100 * (value / best - 1):.1f}"
            assert shown == right
            cells += 1
    assert cells == 63


def test_cells_of_what_else_the_sweep_measured_again(sweep: dict[str, Any]) -> None:
    fields = {
        "delta LM loss, nats": "delta_lm_loss",
        "dead": "dead",
        "threshold noise": "threshold_noise",
        "in the window": "in_window",
    }
    cells = 0
    for row in rows_of("bandwidth.md", "bandwidth.other"):
        site, target = row[0].split(", ")
        for e, shown in zip(
            sorted({r["epsilon"] for r in sweep["rows"] if r["group"] == "raw"}),
            row[2:],
            strict=True,
        ):
            values = [
                r[fields[row[1]]]
                for r in sweep["rows"]
                if (r["group"], r["site"], r["target"], r["epsilon"])
                == ("raw", site, int(target), e)
            ]
            mean = sum(values) / len(values)
            assert shown == (digits(mean, 2) if row[1].startswith("delta") else share(mean))
            cells += 1
    assert cells == 168


def test_cells_of_the_kernels_again() -> None:
    """Bias at two bandwidths, from the sums over features by hand."""
    data = json.loads((RESULTS / "paper_kernels.json").read_text(encoding="utf-8"))
    names = ("rectangle", "triangular", "epanechnikov", "gaussian", "fourth_order", "own_jump")
    for name, row in zip(names, rows_of("bandwidth.md", "kernels.bias"), strict=True):
        for k, result in enumerate(data["saes"].values()):
            unit = sum((result["lambda"] * p) ** 2 for p in result["density"])
            for at, shown in ((6, row[3 * k + 1]), (12, row[3 * k + 2])):
                squares = sum(result[name]["squared_bias"][at])
                assert shown.split(" (")[0] == share(math.sqrt(max(squares, 0) / unit))


def test_cells_of_the_rest_again() -> None:
    """Quantiles and what lies within two standard errors, counted from the sorted ratios."""
    data = json.loads((RESULTS / "paper_threshold.json").read_text(encoding="utf-8"))
    for each, row in zip(data["rest"].values(), rows_of("threshold.md", "rest.table"), strict=True):
        assert row[0] == each["site"]
        assert row[2] == f"{len(each['features']):,} of {each['d_sae']:,}"
        ranked = sorted(each["ratio"])
        quantiles = []
        for share_below in (0.05, 0.25, 0.5, 0.75, 0.95):
            place = share_below * (len(ranked) - 1)
            low, part = int(place), place - int(place)
            quantiles.append(
                ranked[low] + part * (ranked[min(low + 1, len(ranked) - 1)] - ranked[low])
            )
        assert row[3] == ", ".join(f"{q:.2f}" for q in quantiles)
        near = [abs(r - 1) <= 2 * e for r, e in zip(each["ratio"], each["error"], strict=True)]
        assert row[5] == share(sum(near) / len(near))


def test_the_lab_puts_the_features_of_the_figure_where_the_page_says() -> None:
    data = json.loads((RESULTS / "paper_threshold.json").read_text(encoding="utf-8"))
    assert [each["place"] for each in data["figure"]] == ["valley", "slope"]
    index = Index.open(Bundle.open(Path("app/demo")).index_path(data["sae"]))
    for each in data["figure"]:
        told = index.feature(each["feature"])
        chart = told["pre_activation_histogram"]
        edge = chart["edges"].index(chart["threshold"])
        places = places_of(
            chart["counts"], per_count=tokens_per_count(told["tokens"]), exact_from=edge
        )
        assert places[edge] == "slope"
