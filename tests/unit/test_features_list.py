"""The list of features as HTML, and what its address means."""

import pytest

from app.web import query
from app.web.features_view import PAGE_SIZE, list_page
from app.web.marked_matches import marked_signature
from app.web.templating import address
from tests.unit.features_page_support import (
    MISSING,
    NB,
    QUERY,
    drawn,
    feature_html,
    listed,
    unindexed_list,
)
from tests.unit.render_support import Document, result


def test_the_list_sorts_pages_and_filters_by_links() -> None:
    page = listed(min=0.01)
    assert f"{PAGE_SIZE + 1} to {PAGE_SIZE + 1} of 120" in page.text
    [head] = page.all("th", **{"aria-sort": "descending"})
    assert head["class"] == "n"
    assert page.all("a", href="features?desc=0&min=0.01")  # the same column turns round
    assert page.all("a", href="features?sort=max_act&min=0.01")
    assert page.all("a", href="features?min=0.01&page=3")
    assert page.all("a", id="previous-above", href="features?min=0.01")
    assert [o["value"] for o in page.all("option") if o.get("selected") == ""][-1] == "0.01"


def test_how_often_a_feature_fires_is_a_number_beside_a_bar() -> None:
    html = drawn(list_page(result(), QUERY))
    assert f'<span class="value">1.0{NB}%</span>' in html
    assert 'style="width:66.7%"' in html
    # That two bars of which one is twice as long are not twice as often is said beside them.
    assert "Bars are logarithmic: from 1 in 1,000,000 tokens, empty, to every token, full." in html
    assert "Bars are" not in listed(unindexed_list(), sort="", page=1).text


def test_an_empty_list_says_so() -> None:
    assert "No feature matches" in listed(result(total=0, features=[]), page=1).text


def test_an_unusual_filter_stays_among_the_choices() -> None:
    chosen = [o for o in listed(max=0.0178).all("option") if "selected" in o]
    assert "0.0178" in [option["value"] for option in chosen]


def test_the_list_has_no_columns_or_filters_that_need_an_index() -> None:
    page = listed(unindexed_list(), sort="", page=1)
    assert "makes the model expect" in page.text
    assert "fires on" not in page.text[page.text.index("Number") :]
    assert not page.all("select", name="min")
    [form] = page.all("form")
    assert "data-jump" in form
    [head] = page.all("th", **{"aria-sort": "ascending"})
    assert page.all("a", href="features?sort=id")  # the other way round
    assert page.all("a", href="features?sort=threshold")
    assert MISSING["command"] in page.text
    assert head
    turned = listed(unindexed_list(), sort="threshold", page=1)
    assert turned.all("a", href="features?sort=threshold&desc=0")
    # Back to the list's own order is an address without one.
    assert any(a["href"] == "features" for a in turned.all("a", id="sort-id"))


def test_what_was_searched_for_stays_where_the_search_is_refused() -> None:
    shown = list_page(unindexed_list(features=[], total=0), QUERY | {"q": "river", "page": 1})
    page = Document(drawn(shown | {"refused": "Features are found by number alone."}))
    [field] = page.all("input", name="q")
    assert field["value"] == "river"
    assert page.all("p", role="alert")
    assert "found by number alone" in page.text


def test_an_index_without_scores_says_what_adds_them() -> None:
    command = "jumpscope index --bundle b --add-output-scores"
    changed = {"writes": None, "unscored": command, "output_score": None, "side_effect": None}
    page = Document(feature_html(**changed))
    assert "Writes:" not in page.text
    assert "Reads:" not in page.text
    assert command in page.text
    assert page.all("button", **{"data-copy": command})
    listed_page = listed(result(scored=False))
    assert not listed_page.all("a", id="sort-output_score")
    assert not listed_page.all("select", name="score")


def test_the_list_sorts_and_filters_by_what_features_write() -> None:
    page = listed(score=0.1, effect=0.42)
    assert page.all("a", href="features?sort=output_score&score=0.1&effect=0.42")
    assert page.all("a", href="features?sort=side_effect&score=0.1&effect=0.42")
    chosen = [o["value"] for o in page.all("option") if "selected" in o]
    assert chosen[-2:] == ["0.1", "0.42"]
    for words in ("writes", "side effect", "0.0425", "0.310"):
        assert words in page.text
    assert len(page.all("button", **{"class": "term"})) == 2
    assert query.positive({"effect": "0.42"}, "effect") == 0.42
    assert query.positive({}, "effect") is None
    for text in ("much", "nan", "-1", "inf"):
        with pytest.raises(ValueError, match=r"effect in this link is .*, not a number of 0 or"):
            query.positive({"effect": text}, "effect")


def test_addresses_leave_out_defaults() -> None:
    assert address("features", sae="", q=None, page=2) == "features?page=2"
    assert address("./") == "./"
    assert address("features", q='a&b"<') == "features?q=a%26b%22%3C"


def test_a_query_is_read_or_refused_with_its_name() -> None:
    asked = {"a": "2", "b": "x y", "empty": ""}
    assert query.whole(asked, "a", 0) == 2
    assert query.whole({"feature": "#12"}, "feature", 0) == 12
    assert query.whole(asked, "missing", 7) == 7
    assert query.share({"min": "0.01"}, "min", 0.0) == 0.01
    with pytest.raises(ValueError, match="b in this link is 'x y', not a whole number"):
        query.whole(asked, "b", 0)
    for text in ("much", "nan", "-1", "2"):
        with pytest.raises(ValueError, match="not a share from 0 to 1"):
            query.share({"min": text}, "min", 0.0)


def test_what_matched_is_bold_in_words_alone() -> None:
    assert marked_signature("many tokens, such as token · door", ["token"]) == [
        ("many tokens", False), (", such as ", False), ("token", True), (" · ", False),
        ("door", False),
    ]  # fmt: skip
    row = result()["features"][0] | {
        "signature": "<i>sea</i> · ship",
        "matches": [{"word": "sea", "share": 0.25}],
        "context": {"tokens": ["<b>the", " sea", "\n\n"], "bytes": [""] * 3, "peak": 1},
    }
    data = result(features=[row], marks=["sea"], phrases=["sea lion"])
    html = drawn(list_page(data, QUERY | {"q": "sea", "sort": "", "page": 1}))
    assert "&lt;i&gt;<b>sea</b>&lt;/i&gt; · ship" in html
    assert "&lt;b&gt;the <u>sea</u>↵↵" in html
    assert f"<b>sea</b></bdi> 25{NB}%" in html
    assert "No token is “sea lion”" in html
    assert "Best match first" in html


def test_words_that_no_feature_has_are_named_where_nothing_is_found() -> None:
    wanted = QUERY | {"q": "sea <b>", "sort": "", "page": 1}
    nothing = {"total": 0, "features": []}
    html = drawn(list_page(result(**nothing, nowhere=["<b>", "zq"]), wanted))
    assert "No feature matches: none has “&lt;b&gt;” or “zq”." in html
    assert "No feature matches." in drawn(list_page(result(**nothing), wanted))


def test_a_search_has_its_own_order_and_the_columns_are_a_click_away() -> None:
    page = listed(q="sea", sort="", page=1)
    assert not [head for head in page.all("th") if "aria-sort" in head]
    assert page.all("a", href="features?q=sea&sort=frequency")
    by_column = listed(q="sea", sort="frequency", page=1)
    assert by_column.all("th", **{"aria-sort": "descending"})
    assert by_column.all("a", href="features?q=sea")
