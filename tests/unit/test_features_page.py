"""The Features page as HTML: the list, one feature, and what is never mixed with markup."""

import json
import re
from html import unescape
from typing import Any

import pytest

from app.web import query
from app.web.feature_view import feature_page, firings_between, telling_source
from app.web.features_view import PAGE_SIZE, list_page
from app.web.pages import PAGES
from app.web.templating import address, render
from sae_core.definitions import SCORE_DEFINITIONS
from tests.tiny import HOSTILE
from tests.unit.page_support import assert_plain, frame
from tests.unit.render_support import Document, context, feature, result

NB = "\N{NO-BREAK SPACE}"
MISSING = {
    "reason": "SAE first has no index yet",
    "command": "jumpscope index --sae 'a b'",
    "does": "builds it from text of yours",
}
QUERY: dict[str, Any] = {
    "sae": "",
    "q": "",
    "sort": "frequency",
    "desc": True,
    "min": 0.0,
    "max": 1.0,
    "page": 2,
}
QUERY |= {"score": 0.0, "effect": None}
[FEATURES] = [page for page in PAGES if page.name == "features"]


def drawn(shown: dict[str, Any]) -> str:
    return render("features.html", **frame("first", "first") | {"page": FEATURES}, **shown)


def feature_html(text: str = "", in_address: str = "", **changed: Any) -> str:
    return drawn(feature_page(feature(**changed), in_address=in_address, text=text))


def listed(data: dict[str, Any] | None = None, **changed: Any) -> Document:
    return Document(drawn(list_page(data or result(), QUERY | changed)))


def unindexed_feature(**changed: Any) -> dict[str, Any]:
    unknown = ("frequency", "max_act", "mean_act", "active_tokens", "tokens", "writes")
    return {
        **dict.fromkeys((*unknown, "activation_histogram", "pre_activation_histogram")),
        "missing": MISSING,
        "signature": "→ sea · ship",
        "groups": [],
        "fires_on": {"tokens": [], "sources": []},
        "norms": {"encoder": 0.92, "decoder": 1.0},
    } | changed


def unindexed_list(**changed: Any) -> dict[str, Any]:
    row = result()["features"][0] | {"frequency": None, "max_act": None, "mean_act": None}
    return result(features=[row], missing=MISSING, scored=False) | changed


def group(name: str, low: float, high: float, *contexts: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "title": name, "low": low, "high": high, "contexts": list(contexts)}


def dead_feature(**changed: Any) -> dict[str, Any]:
    near = context(activations=[0.0] * 5, value=0.8, peak=2)
    return {
        "signature": "never fires in 3,000,000 tokens",
        "frequency": 0.0,
        "active_tokens": 0,
        "max_act": 0.0,
        "groups": [group("near_miss", 0.7, 0.831, near)],
        "activation_histogram": {"edges": [], "counts": []},
        "fires_on": {"tokens": [], "sources": []},
    } | changed


# One feature


def test_the_feature_page_says_what_the_index_holds() -> None:
    html = feature_html()
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
    [steer] = page.all("a", href="steer?edits")
    assert "%22feature%22%3A12" in steer["href"]
    assert len(page.all("h1")) == 1
    assert "<title>#12 said · replied · Jumpscope</title>" in html


def test_what_matters_first_stands_first() -> None:
    html = feature_html()
    order = ["Before the threshold", "What it does to the next token", "Test your own text"]
    order += ["Strongest", "When it fires", "Fires on", "Found in", "Points the same way"]
    places = [html.index(f">{words}") for words in order]
    assert places == sorted(places)


def test_intervals_are_named_by_their_numbers_with_how_often_it_fires() -> None:
    groups = [
        group("top", 7.0, 8.0, context(value=8.0)),
        group("interval_2", 4.0, 8.0, context(value=8.0)),
        group("interval_1", 0.831, 4.0, context(value=1.0)),
        group("near_miss", 0.7, 0.831, context(value=0.8123, activations=[0.0] * 5)),
    ]
    text = re.sub(r"\s+", " ", Document(feature_html(groups=groups)).text)
    assert "Strongest 7.00 to 8.00" in text
    # The histogram's bins end where the intervals do.
    assert "4.00 to 8.00 300 firings" in text
    assert "0.831 to 4.00 18,000 firings" in text
    assert "Near misses 0.8123, below the threshold of 0.8310: it does not fire" in text
    groups[1]["low"] = groups[2]["high"] = 6.0
    text = re.sub(r"\s+", " ", Document(feature_html(groups=groups)).text)
    assert "6.00 to 8.00 about 150 firings" in text
    assert "0.831 to 6.00 about 18,000 firings" in text


def test_firings_are_shared_out_by_width_and_only_then_a_guess() -> None:
    edges, counts = [1.0, 2.0, 3.0, 3.5], [100, 40, 6]
    assert firings_between(edges, counts, 1.0, 3.0) == (140, True)
    assert firings_between(edges, counts, 3.0, 3.5) == (6, True)
    assert firings_between(edges, counts, 1.25, 2.5) == (95.0, False)
    assert firings_between(edges, [0, 40, 6], 1.5, 3.0) == (40, True)
    # All of what the last bin holds may be the largest activation.
    assert firings_between([1.0, 2.0, 2.0], [5, 1], 1.0, 2.0) == (6, True)


def test_an_interval_never_says_fewer_firings_than_it_shows() -> None:
    chart = {"edges": [0.831, 4.0, 8.0], "counts": [18_000, 2]}
    contexts = [context(value=value) for value in (8.0, 7.9)]
    groups = [group("interval_2", 7.5, 8.0, *contexts)]
    text = Document(feature_html(groups=groups, activation_histogram=chart)).text
    assert "about 2 firings" in text


def test_the_telling_source_is_the_one_with_the_highest_lift() -> None:
    common = {"source": "books", "share": 0.78, "lift": 0.9}
    telling = {"source": "physics", "share": 0.12, "lift": 23.0}
    rare = {"source": "rust", "share": 0.01, "lift": 300.0}
    assert telling_source([common, telling, rare]) == telling
    assert telling_source([common | {"share": 0.09}, rare]) == rare
    assert telling_source([]) is None
    # What has less of the firing than of the corpus tells nothing.
    assert telling_source([common, rare]) is None
    page = feature_html(fires_on={"tokens": [], "sources": [common, telling]})
    assert f"12{NB}% of its firing is in physics (23x its share)" in page


def test_a_near_miss_shows_its_pre_activation_uncoloured() -> None:
    assert '<span class="peak" data-v="0.8000">no</span>' in feature_html()


@pytest.mark.parametrize(
    ("threshold", "value", "said"),
    [
        (2.2601, 2.2519, "2.252, below the threshold of 2.260"),
        (2.2523, 2.2519, "2.2519, below the threshold of 2.2523"),
        (2.25231, 2.25229, "2.25229, below the threshold of 2.25231"),
        (0.831, 0.831, "0.8310, below the threshold of 0.8310"),  # it must be above it to fire
    ],
)
def test_a_near_miss_is_told_from_the_threshold(threshold: float, value: float, said: str) -> None:
    near = context(value=value, activations=[0.0] * 5)
    misses = group("near_miss", value, threshold, near)
    html = feature_html(threshold=threshold, groups=[misses])
    assert f"{said}: it does not fire" in html
    assert f'data-v="{said.partition(",")[0]}"' in html
    dead = feature_html(**dead_feature(threshold=threshold, groups=[misses]))
    value_said, threshold_said = said.split(", below the threshold of ")
    assert f"threshold {threshold_said} · comes no closer than {value_said}" in dead


def test_contexts_are_one_stop_of_the_tab_key() -> None:
    page = Document(feature_html())
    [groups] = page.all("div", **{"class": "groups"})
    assert groups["tabindex"] == "0"
    assert groups["data-steps"] == "[data-v]"
    assert not [tokens for tokens in page.all("div", **{"class": "tokens"}) if "tabindex" in tokens]


def test_numbers_of_contexts_can_be_reproduced() -> None:
    page = Document(feature_html())
    [button] = page.all("button", **{"data-reproduce": "{"})
    written = json.loads(unescape(button["data-reproduce"]))
    assert written["asked"] == {"sae": "first", "feature": 12}
    assert written["choices"][0] == {
        "words": "4.00, A book",
        "asked": {"group": "top", "context": 0},
        "group": "Strongest",
    }
    assert [choice["asked"]["group"] for choice in written["choices"]] == ["top", "near_miss"]


def test_tokens_without_a_character_say_their_bytes_and_cannot_be_searched_for() -> None:
    broken = {"token": "\N{REPLACEMENT CHARACTER}", "id": 1, "bytes": "F0 9F"}
    html = feature_html(
        logits={"raises": [broken | {"logit": 1.0}], "lowers": []},
        fires_on={"tokens": [broken | {"share": 0.1, "lift": 2.0}], "sources": []},
        groups=[
            group(
                "top",
                3.0,
                4.0,
                context(tokens=["He", "", " no", ".", "x"], bytes=["", "F0", "", "", ""]),
            )
        ],
    )
    assert html.count("⟨F0 9F⟩") == 2
    assert 'data-v="4.00"><i class="bytes">⟨F0⟩</i></span>' in html
    assert not Document(html).all("a", href="features?q=")


def test_text_may_run_from_right_to_left() -> None:
    page = Document(feature_html())
    [field] = page.all("input", id="test-text")
    assert field["dir"] == "auto"
    hebrew = feature_html(
        signature="שלום",
        fires_on={"tokens": [], "sources": [{"source": "ספרים", "share": 1.0, "lift": 1.0}]},
    )
    assert "<bdi>שלום</bdi>" in hebrew
    assert "<bdi>ספרים</bdi>" in hebrew


def test_another_sae_stays_in_every_link() -> None:
    page = Document(feature_html(sae="second", in_address="second"))
    own = [a["href"] for a in page.all("a") if a["href"].startswith(("features?", "steer?"))]
    assert own
    assert all("sae=second" in href for href in own)


def test_a_dead_feature_says_so_once_and_offers_no_steering() -> None:
    page = Document(feature_html(**dead_feature()))
    text = page.text[page.text.index("#12", 20) :]
    assert text.count("never") == 1
    assert "threshold 0.8310 · comes no closer than 0.8000" in text
    assert "Where it comes closest" in text
    assert "What it would do to the next token" in text
    assert not page.all("a", href="steer?edits")
    assert "drawn at random" not in text
    bare = Document(feature_html(**dead_feature(groups=[], neighbours=[]))).text
    assert "holds no context" not in bare


def test_a_feature_whose_contexts_were_not_kept_says_so() -> None:
    assert "The index holds no context for this feature." in feature_html(groups=[])


def test_a_feature_that_writes_what_the_mlp_reads_says_why_it_has_no_logits() -> None:
    html = feature_html(logits={"raises": [], "lowers": []})
    assert "Nothing directly: this SAE writes what the MLP reads" in html


def test_a_feature_page_without_an_index() -> None:
    page = Document(feature_html(**unindexed_feature()))
    for words in ("threshold 0.831", "0.920 in the encoder", "raises", "cried"):
        assert words in page.text
    assert MISSING["command"] in page.text
    assert "None" not in page.text
    assert "Before the threshold" not in page.text
    [steer] = page.all("a", href="steer?edits")
    # The steering page begins with a value of its own.
    assert "strength" not in steer["href"]


# The list


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


# What it writes


def test_what_a_feature_reads_and_writes_stands_in_its_heading() -> None:
    page = Document(feature_html())
    text = re.sub(r"\s+", " ", page.text)
    assert "Reads: fires on 0.61 % of tokens" in text
    assert (
        "Writes: output score 0.0425 (rank 5 of 4,096) · "
        "side effect 0.310 nats (rank 2,000 of 4,096)"
    ) in text
    definitions = [button["data-tip"] for button in page.all("button", **{"class": "term"})]
    assert definitions == list(SCORE_DEFINITIONS.values())
    assert "--add-output-scores" not in text


def test_a_score_that_is_not_defined_is_a_dash_without_a_standing() -> None:
    html = feature_html(output_score=None, writes={"side_effect": {"rank": 1, "of": 9}})
    text = re.sub(r"\s+", " ", Document(html).text)
    assert "output score – · side effect 0.310" in text.replace("—", "–")
    assert "None" not in text


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


# Whatever comes from a model, a corpus or a user stays text


def hostile_feature(**changed: Any) -> str:
    contexts = context(tokens=[HOSTILE] * 5, title=HOSTILE, license=HOSTILE, source=HOSTILE)
    token = {"token": HOSTILE, "id": 1, "bytes": ""}
    return feature_html(
        text=HOSTILE,
        **{
            "signature": HOSTILE,
            "sae": HOSTILE,
            "groups": [group("top", 1.0, 2.0, contexts)],
            "logits": {
                "raises": [token | {"logit": 1.0}],
                "lowers": [token | {"logit": -1.0}],
            },
            "fires_on": {
                "tokens": [token | {"share": 0.1, "lift": 2.0}],
                "sources": [{"source": HOSTILE, "share": 0.1, "lift": 2.0}],
            },
            "neighbours": [{"feature": 1, "cosine": 0.1, "signature": HOSTILE}],
        }
        | changed,
    )


HOSTILE_MISSING = {"reason": HOSTILE, "command": HOSTILE, "does": HOSTILE}


@pytest.mark.parametrize(
    "html",
    [
        hostile_feature(),
        feature_html(**unindexed_feature(missing=HOSTILE_MISSING)),
        drawn(
            list_page(
                result(features=[result()["features"][0] | {"signature": HOSTILE}], sae=HOSTILE),
                QUERY | {"q": HOSTILE, "sort": HOSTILE, "sae": HOSTILE},
            )
        ),
        drawn(list_page(unindexed_list(missing=HOSTILE_MISSING), QUERY)),
        drawn(list_page(result(features=[]), QUERY) | {"refused": HOSTILE}),
    ],
    ids=["feature", "unindexed feature", "list", "unindexed list", "refused"],
)
def test_hostile_text_adds_no_element_and_no_attribute(html: str) -> None:
    page = Document(html)
    assert HOSTILE in page.text
    assert_plain(page)


# Addresses


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
