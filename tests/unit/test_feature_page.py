"""The page of one feature as HTML."""

import json
import re
from html import unescape

import pytest

from app.web.feature_view import firings_between, telling_source
from sae_core.definitions import SCORE_DEFINITIONS
from tests.unit.features_page_support import (
    MISSING,
    NB,
    dead_feature,
    feature_html,
    group,
    unindexed_feature,
)
from tests.unit.render_support import Document, context


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
