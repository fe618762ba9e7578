"""HTML from plain dicts: numbers, escaping, addresses, charts, and what each page must say."""

import re
from typing import Any

import pytest

from app.pages import query
from app.render import address, feature_html, link, list_html, overview_html, own_text_html
from app.render.charts import histogram, linear_ticks
from app.render.numbers import count, fixed, number, one_in, percent, signed
from app.render.tokens import heat_map
from tests.tiny import HOSTILE
from tests.unit.render_support import (
    QUERY,
    Document,
    context,
    feature,
    found,
    listed,
    overview,
)

NB = "\N{NO-BREAK SPACE}"


# Numbers


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (number(14.23), "14.2"),
        (number(0.8312), "0.831"),
        (number(1240.4), "1,240"),
        (number(0), "0"),
        (number(-0.7, 1), "−0.7"),
        (number(float("nan")), "–"),
        (number(0.000123), "0.000123"),
        (fixed(0.9519, 3), "0.952"),
        (signed(0.231), "+0.23"),
        (signed(-0.05), "−0.05"),
        (percent(0.38), f"38{NB}%"),
        (percent(0.0523), f"5.2{NB}%"),
        (percent(0.000034), f"0.0034{NB}%"),
        (percent(0), f"0{NB}%"),
        (percent(1), f"100{NB}%"),
        (count(4096), "4,096"),
        (count(3_100_000), f"3.1{NB}M"),
        (count(2_614_000_000), f"2.61{NB}B"),
        (one_in(0.001), "1 in 1,000"),
        (one_in(1 / 1634), "1 in 1,600"),
        (one_in(0), "never"),
    ],
)
def test_numbers_are_written_alike(written: str, expected: str) -> None:
    assert written == expected


def test_addresses_leave_out_defaults_and_escape() -> None:
    assert address("features", sae="", q=None, page=2) == "features?page=2"
    assert address("./") == "./"
    assert link("features", q='a&b"<') == "features?q=a%26b%22%3C"
    assert link("features", q="a", page=2) == "features?q=a&amp;page=2"


# Tokens and charts


def test_tokens_stay_the_text_they_were() -> None:
    tokens = ["He", " said", "\n", "\t<b>", "", " & so\n\n"]
    html = heat_map(tokens, [0, 2.0, 0, 0.5, 0, 0], scale=4.0, label="x", peak=1)
    shown = re.sub(r'<i class="nl">↵</i><br>', "\n", html)
    assert Document(shown).text == "".join(tokens)
    assert 'class="peak" style="--a:0.500" data-v="2.00"' in html
    assert html.count("data-v") == 2


def test_far_tokens_are_folded_not_lost() -> None:
    tokens = [f" {i}" for i in range(30)]
    acts = [0.0] * 30
    acts[15] = 1.0
    html = heat_map(tokens, acts, scale=1.0, label="x", peak=15, near=(3, 2))
    assert Document(html).text == "".join(tokens)
    near = re.sub(r'<span class="far \w+">(<span>[^<]*</span>)*</span>', "", html)
    assert Document(near).text == "".join(tokens[12:18])


def test_a_colour_never_exceeds_the_full_one() -> None:
    html = heat_map(["a", "b"], [9.0, 1.0], scale=3.0, label="x")
    assert re.findall(r"--a:([\d.]+)", html) == ["1.000", "0.333"]


def test_bars_below_the_threshold_are_grey_and_it_is_drawn_where_it_is() -> None:
    html = histogram(
        [0.0, 1.0, 2.0, 3.0, 4.0], [1000, 10, 5, 0], label="x", ticks=[], threshold=3.0
    )
    bars = Document(html).all("rect")
    assert [bar["class"] for bar in bars if bar["class"] != "hit"] == ["bar below"] * 3 + ["bar"]
    assert "left:75.00%" in html
    heights = [float(bar["height"]) for bar in bars if bar["class"] != "hit"]
    assert heights[0] == pytest.approx(97.0)
    assert heights[1] / heights[0] == pytest.approx(
        1.0414 / 3.0004, rel=1e-3
    )  # log10(11), log10(1001)
    assert heights[3] == 0


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 14.1), (0.001, 0.0094), (250, 9000)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    ticks = linear_ticks(low, high, 4)
    assert 2 <= len(ticks) <= 5
    assert all(low <= position <= high for position, _ in ticks)
    assert len({text for _, text in ticks}) == len(ticks)
    for position, text in ticks:
        assert float(text.replace("−", "-").replace(",", "")) == pytest.approx(position)


# Pages


def test_the_feature_page_says_what_the_index_knows() -> None:
    html = feature_html(feature(), default_sae="first")
    page = Document(html)
    for words in (f"#12 said{NB}· replied", f"fires on 0.61{NB}% of tokens", "threshold 0.831"):
        assert words in page.text
    assert f"97{NB}% of its firing is in books (2.1x its share)" in page.text
    assert f"2{NB}M further below" in page.text
    assert "Strongest" in page.text
    assert "Weak" not in page.text  # a group without contexts
    assert "None" not in page.text
    assert page.all("a", href="features?feature=11")
    assert page.all("a", href="features?feature=random")
    assert page.all("a", href="features?q=said")
    assert page.all("a", href="features?feature=40")
    assert page.all("span", **{"aria-disabled": "true"})  # there is no next one
    [steer] = page.all("a", href="steer?")
    assert "%22feature%22%3A12" in steer["href"]
    assert len(page.all("h1")) == 1


def test_a_near_miss_shows_its_pre_activation_uncoloured() -> None:
    html = feature_html(feature(), default_sae="first")
    assert '<span class="peak" data-v="0.8000"> no</span>' in html


def test_another_sae_stays_in_every_link() -> None:
    page = Document(feature_html(feature(sae="second"), default_sae="first"))
    own = [a["href"] for a in page.all("a") if a["href"].startswith(("features", "steer"))]
    assert own
    assert all("sae=second" in href for href in own)


def test_a_dead_feature_has_a_page() -> None:
    nothing: dict[str, Any] = {"edges": [], "counts": []}
    dead = feature(
        frequency=0.0,
        active_tokens=0,
        max_act=0.0,
        groups=[],
        activation_histogram=nothing,
        logits={"raises": [], "lowers": []},
        fires_on={"tokens": [], "sources": []},
        neighbours=[],
    )
    page = Document(feature_html(dead, default_sae="first"))
    # Without logits, the page says why there are none.
    assert "Nothing directly: this SAE writes what the MLP reads" in page.text
    assert f"never fired on 3{NB}M tokens" in page.text
    assert "holds no context" in page.text


def test_a_tested_text_says_where_and_how_strongly() -> None:
    tested = {
        "sae": "first",
        "feature": 12,
        "tokens": ["<bos>", "He", " said"],
        "special": [True, False, False],
        "activations": [0.0, 0.0, 4.0],
        "pre_activations": [None, -1.0, 4.0],
        "threshold": 0.8,
        "max_act": 8.0,
    }
    page = Document(own_text_html(tested, "He said"))
    assert f"Fires on 1 token, at most 4.00 (50{NB}% of its largest)." in page.text
    assert page.all("span", **{"class": "special"})
    silent = tested | {"activations": [0.0] * 3, "pre_activations": [None, -1.0, 0.5]}
    assert (
        "Closest: 0.500, against a threshold of 0.800."
        in Document(own_text_html(silent, "He")).text
    )


def test_the_overview_has_every_number_with_its_definition() -> None:
    page = Document(overview_html(overview(), default_sae="first"))
    for words in ("32.8", "0.166", "+0.230", "0.952", f"0.20{NB}%", f"11.4{NB}M parameters"):
        assert words in page.text
    assert page.all("button", **{"data-tip": "Mean number of active features."})
    assert page.all("a", href="./?sae=second")
    assert page.all("a", href="features?feature=7")
    assert "80 % of its firing is on 2 words" in page.text
    # A bar leads to the features in it; the empty one leads nowhere.
    assert page.all("a", href="features?min=0.01&max=0.1")
    assert not page.all("a", href="features?min=0.001")


def test_an_sae_without_measurements_says_so() -> None:
    page = Document(overview_html(overview(measured={}, index=None), default_sae="first"))
    assert "Nothing has been measured" in page.text
    page = Document(overview_html(overview(measured={}), default_sae="first"))
    assert f"Measured on 3{NB}M tokens of the index's text." in page.text
    assert "31.0" in page.text


def test_the_list_sorts_pages_and_filters_by_links() -> None:
    page = listed(found(), min=0.01)
    assert "51 to 51 of 120" in page.text
    [head] = page.all("th", **{"aria-sort": "descending"})
    assert head["class"] == "n"
    assert page.all("a", href="features?desc=0&min=0.01")  # the same column turns round
    assert page.all("a", href="features?sort=max_act&min=0.01")
    assert page.all("a", href="features?min=0.01&page=3")
    assert page.all("a", id="previous-above", href="features?min=0.01")
    assert [o["value"] for o in page.all("option") if "selected" in o] == ["0.01"]


def test_an_empty_list_says_so() -> None:
    assert "No feature matches" in listed(found(total=0, features=[]), page=1).text


def test_an_unusual_filter_stays_among_the_choices() -> None:
    chosen = [o for o in listed(found(), max=0.0178).all("option") if "selected" in o]
    assert [option["value"] for option in chosen] == ["0.0178"]


@pytest.mark.parametrize(
    "html",
    [
        feature_html(
            feature(
                signature=HOSTILE,
                sae=HOSTILE,
                groups=[
                    {
                        "name": "top",
                        "title": HOSTILE,
                        "low": 1.0,
                        "high": 2.0,
                        "contexts": [
                            context(
                                tokens=[HOSTILE] * 5, title=HOSTILE, license=HOSTILE, source=HOSTILE
                            )
                        ],
                    }
                ],
                logits={
                    "raises": [{"token": HOSTILE, "id": 1, "logit": 1.0}],
                    "lowers": [{"token": HOSTILE, "id": 1, "logit": -1.0}],
                },
                fires_on={
                    "tokens": [{"token": HOSTILE, "id": 1, "share": 0.1, "lift": 2.0}],
                    "sources": [{"source": HOSTILE, "share": 0.1, "lift": 2.0}],
                },
                neighbours=[{"feature": 1, "cosine": 0.1, "signature": HOSTILE}],
            ),
            default_sae="first",
            text=HOSTILE,
        ),
        list_html(
            found(features=[found()["features"][0] | {"signature": HOSTILE}], sae=HOSTILE),
            QUERY | {"q": HOSTILE, "sort": HOSTILE},
            default_sae="first",
            page_size=50,
        ),
        overview_html(
            overview(
                bundle={"name": HOSTILE, "title": HOSTILE},
                definitions={"l0": HOSTILE, "frequency": HOSTILE},
                highlights=[
                    overview()["highlights"][0]
                    | {
                        "signature": HOSTILE,
                        "rule": HOSTILE,
                        "context": context(tokens=[HOSTILE] * 5),
                    }
                ],
            ),
            default_sae="first",
        ),
    ],
    ids=["feature", "list", "overview"],
)
def test_hostile_text_adds_no_element_and_no_attribute(html: str) -> None:
    page = Document(html)
    assert HOSTILE in page.text
    assert not page.all("img")
    assert not page.all("script")
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)


# Addresses


def test_a_query_is_read_or_refused_with_its_name() -> None:
    asked = query.parsed("?a=1&b=x%20y&a=2&empty=")
    assert asked == {"a": "2", "b": "x y"}
    assert query.whole(asked, "a", 0) == 2
    assert query.whole({"feature": "#12"}, "feature", 0) == 12
    assert query.whole(asked, "missing", 7) == 7
    assert query.share({"min": "0.01"}, "min", 0.0) == 0.01
    with pytest.raises(ValueError, match="b in this link is 'x y', not a whole number"):
        query.whole(asked, "b", 0)
    for text in ("much", "nan", "-1", "2"):
        with pytest.raises(ValueError, match="not a share from 0 to 1"):
            query.share({"min": text}, "min", 0.0)
