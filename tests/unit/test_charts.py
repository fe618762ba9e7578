"""Charts: bars, ticks that never meet, lines, bands, and the one set of colours."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from app.web.charts import (
    STANDALONE_STYLE,
    Line,
    Scale,
    Series,
    band,
    bars,
    curves,
    histogram,
    linear_ticks,
    plot,
    thinned_ticks,
)
from app.web.charts.pareto import Mark
from app.web.numbers import one_in
from tests.tiny import HOSTILE
from tests.unit.render_support import Document

SHEET = Path("app/web/css/colours.css").read_text(encoding="utf-8")


def test_bars_below_the_threshold_are_grey_and_it_is_drawn_where_it_is() -> None:
    html = histogram(
        [0.0, 1.0, 2.0, 3.0, 4.0], [1000, 10, 5, 0], label="x", ticks=[], threshold=3.0
    )
    rects = [bar for bar in Document(html).all("rect") if bar["class"] != "hit"]
    assert [bar["class"] for bar in rects] == ["bar below"] * 3 + ["bar"]
    assert "left:75.00%" in html
    heights = [float(bar["height"]) for bar in rects]
    assert heights[0] == pytest.approx(97.0)
    # log10(11) over log10(1001)
    assert heights[1] / heights[0] == pytest.approx(1.0414 / 3.0004, rel=1e-3)
    assert heights[3] == 0


def test_a_histogram_is_one_stop_whose_bars_have_values() -> None:
    html = histogram([0.0, 1.0, 2.0], [1, 2000], label="x", ticks=[])
    page = Document(html)
    [group] = page.all("svg")
    assert group["tabindex"] == "0"
    assert group["data-steps"] == ".step"
    tips = [bar["data-tip"] for bar in page.all("g")]
    assert tips == ["0 to 1.00: 1 token", "1.00 to 2.00: 2,000 tokens"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 14.1), (0.001, 0.0094), (250, 9000)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    ticks = linear_ticks(low, high, 4)
    assert 2 <= len(ticks) <= 5
    assert all(low <= position <= high for position, _ in ticks)
    assert len({text for _, text in ticks}) == len(ticks)
    for position, text in ticks:
        assert float(text.replace("−", "-").replace(",", "")) == pytest.approx(position)


@pytest.mark.parametrize(("room", "width"), [("narrow", 250), ("wide", 420)])
@pytest.mark.parametrize("last", [0, -1, -3])
def test_labels_neither_meet_nor_leave_their_axis(room: str, width: int, last: int) -> None:
    decades = range(-7, last + 1)
    places = [(100 * (k + 7.3) / (last + 7.6), one_in(10.0**k)) for k in decades]
    shown = [tick for tick in thinned_ticks(places) if tick.room in ("", room)]
    assert len(shown) >= 2
    boxes = []
    for tick in shown:
        # What css/tokens.css makes of --at and --n, at a font size of 12 px.
        size = len(tick.text) * 0.6 * 12
        left = max(0, min(tick.at / 100 * width - size / 2, width - size))
        boxes.append((left, left + size))
    assert all(left >= 0 and right <= width for left, right in boxes)
    assert all(end < start for (_, end), (start, _) in pairwise(boxes))


def test_scales() -> None:
    linear, log = Scale.of([2, 3]), Scale.of([1, 10, 1_000])
    assert (linear.logarithmic, linear.at(2), linear.at(3)) == (False, 0, 100)
    assert log.logarithmic
    assert log.at(1_000) == pytest.approx(100)
    assert log.at(10) == pytest.approx(100 / 3)
    assert log.at(0) == 0
    assert [text for _, text in log.ticks] == ["1", "10", "100", "1,000"]
    assert Scale.of([0.1, 0.9], from_zero=True).low == 0
    assert Scale.of([-0.2, 0.9], from_zero=True).low == -0.2
    assert Scale.of([5, 5]).at(5) == 0
    assert [text for _, text in Scale.of([0, 7e-5]).ticks] == ["0", "2e-5", "4e-5", "6e-5"]


@pytest.mark.parametrize(
    "values", [[-1, -2], [-0.1, 0], [0, -1e-5], [-1e-5, -3e-5], [0, 0], [-5, 1e-4], [-1e-9, 2e-9]]
)
def test_a_scale_of_values_that_are_not_positive_has_ticks(values: list[float]) -> None:
    """A multiplier of a sparsity that was low so far is one: the run's page could not be shown."""
    scale = Scale.of(values)
    assert 2 <= len(scale.ticks) <= 6
    assert all(-1e-9 <= scale.at(at) <= 100 + 1e-9 for at, _ in scale.ticks)
    assert len({text for _, text in scale.ticks}) == len(scale.ticks)


def test_long_lines_are_thinned_and_keep_their_end() -> None:
    points = [(float(x), float(x)) for x in range(1, 5_001)]
    html = curves([Series("a", 0, points)], title="T", definition="d")
    (path,) = re.findall(r'class="line c0" d="M([^"]*)"', html)
    assert 200 <= path.count("L") <= 301
    assert path.endswith("100.00 0.00")
    assert curves([Series("a", 0, [(1, None)])], title="T", definition="d") == ""


def test_bands_and_bars() -> None:
    html = band([(1, (1, 2, 3)), (2, (2, 3, 4))], title="T", definition="d", colour=9)
    assert html.count('class="band c1"') == 1
    assert html.count('class="line c1"') == 1
    html = bars([0, 9], ["never", ""], title="T", definition="d", colour=0)
    assert html.count("<rect") == 2
    assert 'height="96.00"' in html
    assert "never: 0" in html


def test_a_picture_of_its_own_has_the_pages_colours() -> None:
    line = Line("topk", [(16.0, 0.4), (64.0, 0.2)])
    drawn = plot([line], title="a < b", y_name="FVU", standalone=True)
    ET.fromstring(drawn)
    assert STANDALONE_STYLE in drawn
    light, dark = STANDALONE_STYLE.split("@media")
    pairs = re.findall(r"(--[\w-]+): light-dark\((#\w+), (#\w+)\);", SHEET)
    assert len(pairs) > 20
    for name in ("--c0", "--c5", "--ink", "--line"):
        [(first, second)] = [pair[1:] for pair in pairs if pair[0] == name][:1]
        assert f"{name}:{first};" in light
        assert f"{name}:{second};" in dark


def test_a_point_beside_the_lines_is_marked_and_named() -> None:
    line = Line("topk", [(16.0, 0.4), (64.0, 0.2)])
    marked = plot([line], title="t", y_name="y", own=Mark("this SAE", (32.0, 0.1)))
    assert "<title>this SAE: L0 32.0, 0.100</title>" in marked
    assert "this SAE 0.100 at 32.0" in marked
    # It may lie outside of the lines: the scale holds it.
    [(x, y)] = re.findall(r'class="own".*?d="M(\d+\.\d) (\d+\.\d)l', marked)
    assert 58 <= float(x) <= 428
    assert 26 <= float(y) <= 250


def test_words_of_charts_are_escaped() -> None:
    line = Line("topk", [(16.0, 0.4), (64.0, 0.2)])
    for html in (
        histogram([0.0, 1.0], [1], label=HOSTILE, ticks=[(0.0, HOSTILE)], unit=HOSTILE),
        histogram([0.0, 1.0], [1], label="", ticks=[], bar_link=lambda *_: HOSTILE),
        plot([line], title=HOSTILE, y_name=HOSTILE, own=Mark(HOSTILE, (1.0, 1.0))),
        curves([Series(HOSTILE, 0, [(1, 1)])], title=HOSTILE, definition=HOSTILE),
        bars([1], [HOSTILE], title=HOSTILE, definition=HOSTILE, colour=0),
    ):
        assert not Document(html).all("img")
