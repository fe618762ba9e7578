"""HTML of pages on an SAE without an index, one that cannot be read, or a model that cannot."""

from typing import Any

import pytest

from app.render import feature_html, list_html, own_text_html
from tests.tiny import HOSTILE
from tests.unit.render_support import QUERY, Document, feature, found

MISSING = {"reason": "SAE first has no index yet", "command": "jumpscope index --sae 'a b'"}


def unindexed_feature(**changed: Any) -> dict[str, Any]:
    unknown = ("frequency", "max_act", "mean_act", "active_tokens", "tokens")
    return (
        feature(
            **dict.fromkeys((*unknown, "activation_histogram", "pre_activation_histogram")),
            missing=MISSING,
            signature="→ sea · ship",
            groups=[],
            fires_on={"tokens": [], "sources": []},
            norms={"encoder": 0.92, "decoder": 1.0},
        )
        | changed
    )


def page_of(found: dict[str, Any], **query: Any) -> Document:
    return Document(list_html(found, QUERY | query, default_sae="first", page_size=50))


def unindexed_list(**changed: Any) -> dict[str, Any]:
    row = found()["features"][0] | {"frequency": None, "max_act": None, "mean_act": None}
    return found(features=[row], missing=MISSING) | changed


def test_a_feature_page_without_an_index() -> None:
    page = Document(feature_html(unindexed_feature(), default_sae="first"))
    for words in ("threshold 0.831", "0.920 in the encoder", "raises", "cried"):
        assert words in page.text
    assert MISSING["command"] in page.text
    assert "None" not in page.text
    assert "Before the threshold" not in page.text
    [steer] = page.all("a", href="steer?")
    # The steering page begins with a value of its own.
    assert "strength" not in steer["href"]


def test_a_tested_text_is_measured_by_itself() -> None:
    tested = {
        "sae": "first",
        "feature": 12,
        "tokens": ["He", " said"],
        "special": [False, False],
        "activations": [1.0, 4.0],
        "pre_activations": [1.0, 4.0],
        "threshold": 0.8,
        "max_act": None,
    }
    html = own_text_html(tested, "He said")
    assert "Fires on 2 tokens, at most 4.00." in Document(html).text
    assert "--a:0.250" in html
    assert "--a:1.000" in html


def test_the_list_has_no_columns_or_filters_that_need_an_index() -> None:
    page = page_of(unindexed_list(), sort="", page=1)
    assert "makes the model expect" in page.text
    assert "fires on" not in page.text
    assert not page.all("select")
    [form] = page.all("form")
    assert "data-jump" in form
    [head] = page.all("th", **{"aria-sort": "ascending"})
    assert page.all("a", href="features?sort=id")  # the other way round
    assert page.all("a", href="features?sort=threshold")
    assert MISSING["command"] in page.text
    assert head
    turned = page_of(unindexed_list(), sort="threshold", page=1)
    assert turned.all("a", href="features?sort=threshold&desc=0")
    # Back to the list's own order is an address without one.
    assert {"href": "features", "id": "sort-id"} in turned.all("a", id="sort-id")


@pytest.mark.parametrize(
    "html",
    [
        feature_html(
            unindexed_feature(missing={"reason": HOSTILE, "command": HOSTILE}), default_sae="first"
        ),
        list_html(
            unindexed_list(missing={"reason": HOSTILE, "command": HOSTILE}),
            QUERY,
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
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
