"""HTML from plain dicts: escaping, addresses, and what the pages of features must say."""

import re
from typing import Any

import pytest

from app.render import address, feature_html, link, list_html, own_text_html
from app.render.tokens import heat_map
from app.web import query
from tests.tiny import HOSTILE
from tests.unit.render_support import (
    QUERY,
    Document,
    context,
    feature,
    found,
    listed,
)

NB = "\N{NO-BREAK SPACE}"


def test_addresses_leave_out_defaults_and_escape() -> None:
    assert address("features", sae="", q=None, page=2) == "features?page=2"
    assert address("./") == "./"
    assert link("features", q='a&b"<') == "features?q=a%26b%22%3C"
    assert link("features", q="a", page=2) == "features?q=a&amp;page=2"


# Tokens


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
    ],
    ids=["feature", "list"],
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
