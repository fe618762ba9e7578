"""The threshold lab and the strip of evidence in the page of a feature."""

import json
import math

import pytest

from app.web.evidence_view import effective_number, folded, peak_word
from app.web.threshold_view import threshold_lab
from tests.unit.features_page_support import dead_feature, feature_html, group, unindexed_feature
from tests.unit.render_support import Document, context, feature


def test_the_lab_has_all_that_the_script_computes_with() -> None:
    page = Document(feature_html())
    [lab] = page.all("div", **{"data-lab": "{"})
    script = json.loads(lab["data-lab"])
    assert script["threshold"] == 0.831
    assert script["counts"] == [100, 10, 5]
    assert (script["below"], script["above"], script["tokens"]) == (2_000_000, 0, 3_000_000)
    assert script["active"] == 18_300
    assert script["mass"] == pytest.approx(18_300 * 2.5)
    assert len(script["places"]) == len(script["edges"]) == 4
    assert set(script["places"]) <= set(script["sentences"])
    [slider] = page.all("input", type="range")
    assert float(slider["min"]) == 0.0  # no threshold is below 0
    assert float(slider["max"]) == 1.831
    assert float(slider["value"]) == 0.831
    assert slider["aria-label"] == "Threshold"
    [slide] = page.all("div", **{"class": "slide"})
    assert slide["style"] == f"--from:{100 * 1.169 / 3:.3f}"
    assert [each["value"] for each in page.all("input", name="function")] == [
        "",
        "relu",
        "shifted",
    ]


def test_a_feature_without_a_threshold_or_a_histogram_has_no_lab() -> None:
    chart = feature()["pre_activation_histogram"] | {"threshold": 0.0}
    page = Document(feature_html(threshold=0.0, pre_activation_histogram=chart))
    assert not page.all("div", **{"data-lab": ""}) or not page.all("input", type="range")
    assert "Pre-activations on" in page.text
    assert threshold_lab(feature(**unindexed_feature())) is None


def test_a_dead_feature_has_a_lab_without_mass() -> None:
    shown = threshold_lab(feature(**dead_feature(mean_act=None)))
    assert shown is not None
    assert shown["script"]["mass"] == 0.0


def test_words_at_peaks_are_whole() -> None:
    assert peak_word([" He", " rais", "ed", " it"], 1) == "raised"
    assert peak_word([" He", " rais", "ed", " it"], 2) == "raised"
    assert peak_word([" He", " Said", ","], 1) == "said"
    assert peak_word([" He", ",", " no"], 1) == ","
    assert peak_word([" He", "\n", "no"], 1) == "\n"
    assert peak_word(["one"], 4) == ""


def test_the_spread_is_an_effective_number() -> None:
    assert effective_number(["a"] * 7) == pytest.approx(1)
    assert effective_number(list("abcde")) == pytest.approx(5)
    assert effective_number(["a", "a", "b", "b"]) == pytest.approx(2)
    assert effective_number(["a", "a", "a", "b"]) == pytest.approx(4 / 27**0.25)
    assert math.isnan(effective_number([]))


def test_a_document_or_a_text_that_comes_again_is_folded_under_the_first() -> None:
    contexts = [
        context(document=1, tokens=["a", "b"]),
        context(document=2, tokens=["c", "d"]),
        context(document=1, tokens=["e", "f"]),
        context(document=3, tokens=["c", "d"]),
        context(document=3, tokens=["g", "h"]),
    ]
    first, second = folded(contexts)
    assert [each["index"] for each in (first, second)] == [0, 1]
    assert [each["index"] for each in first["copies"]] == [2]
    # A document that came as a copy of a text goes with that one.
    assert [each["index"] for each in second["copies"]] == [3, 4]


def test_the_strip_leads_to_its_groups_with_their_spread() -> None:
    said = [
        context(document=k, tokens=["He", word, f" {k}"], activations=[0.0, 1.0, 0.0])
        for k, word in enumerate([" said", " Said", " told", " told"])
    ]
    near = context(activations=[0.0] * 5, value=0.8, peak=2, document=9)
    html = feature_html(
        groups=[group("interval_2", 0.9, 8.0, *said), group("near_miss", 0.7, 0.831, near)]
    )
    page = Document(html)
    links = page.all("a", **{"data-group": "group-"})
    assert [each["href"] for each in links] == ["#group-interval_2", "#group-near_miss"]
    for each in links:
        assert page.all("details", id=each["data-group"])
        assert each["tabindex"] == "-1"  # the strip is one stop, arrow keys walk within it
        assert "effective number of" in each["data-tip"]
    assert "2.0 words in 4" in page.text
    assert "does not fire" in page.text


def test_copies_are_counted_and_the_card_names_contexts_by_their_place() -> None:
    contexts = [context(document=1), context(document=1), context(document=2, tokens=["x"] * 5)]
    page = Document(feature_html(groups=[group("top", 3.0, 4.0, *contexts)]))
    assert "1 more of the same document or text" in page.text
    [button] = page.all("button", **{"data-reproduce": "context"})
    choices = json.loads(button["data-reproduce"])["choices"]
    assert [each["asked"]["context"] for each in choices] == [0, 2]
    assert len(page.all("div", **{"data-value": "4.0"})) == 3
