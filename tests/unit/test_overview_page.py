"""The overview as HTML: what it must say of an SAE with an index, without one, and of one that
cannot be read.
"""

import re
from typing import Any

import pytest

from app.engine.facts import unread_facts
from tests.tiny import HOSTILE
from tests.unit.page_support import assert_plain, overview_document, overview_html
from tests.unit.render_support import Document, context, overview

NB = "\N{NO-BREAK SPACE}"
MISSING = {
    "reason": "SAE first has no index yet",
    "command": "jumpscope index --sae 'a b'",
    "does": "builds it from text of yours",
}
SHA = "0123456789abcdef" * 4
POINT = {"l0": 16.0, "fvu": 0.4, "delta_lm_loss": 0.3}


def unindexed(**changed: Any) -> dict[str, Any]:
    """An overview's changes for an SAE without an index."""
    first, second = overview()["saes"]
    facts = {
        "declared_l0": 71.0,
        "repository": "google/gemma-scope-2b-pt-res",
        "folder": "layer_20/width_16k/average_l0_71",
        "revision": "f" * 40,
        "content_hash": SHA,
    }
    return {
        "missing": MISSING,
        "index": None,
        "measured": {},
        "frequency_histogram": None,
        "highlights": [],
        "saes": [first | facts, second],
    } | changed


def compared(*sites: str) -> dict[str, Any]:
    """A comparison with one curve at each site."""
    curves = [
        {"site": site, "curve": "topk", "points": [POINT, POINT | {"l0": 64.0}], "seeds": []}
        for site in sites
    ]
    return {"curves": curves, "d_sae": 4096, "tokens": 20_480_000}


def test_every_number_has_its_definition() -> None:
    page = overview_document()
    for words in ("32.8", "0.166", "+0.230", "0.952", f"0.20{NB}%", f"11.4{NB}M parameters"):
        assert words in page.text
    assert page.all("button", **{"data-tip": "Mean number of active features."})
    assert page.all("a", href="./?sae=second")
    assert page.all("a", href="features?feature=7")
    assert "80 % of its firing is on 2 words" in page.text
    assert len(page.all("h1")) == 1
    # A bar leads to the features in it; the empty one leads nowhere.
    assert page.all("a", href="features?min=0.01&max=0.1")
    assert not page.all("a", href="features?min=0.001")


def test_an_sae_without_measurements_says_so() -> None:
    assert "Nothing has been measured" in overview_document(measured={}, index=None).text
    page = overview_document(measured={})
    assert f"Measured on 3{NB}M tokens of the index's text." in page.text
    assert "31.0" in page.text


def test_another_sae_stays_in_links_to_features() -> None:
    page = overview_document(sae="second")
    links = [a["href"] for a in page.all("a", href="features") if "data-page-link" not in a]
    assert links
    assert all("sae=second" in href for href in links)
    assert page.all("tr", **{"aria-current": "true"})


def test_architectures_are_compared_only_where_the_sae_reads() -> None:
    assert "Architectures compared" not in overview_document().text
    page = overview_document(comparison=compared("resid_post/4", "mlp_out/1"))
    assert "Architectures compared at layer 4 · resid_post" in page.text
    assert "mlp_out/1" not in page.text
    assert len(page.all("svg", **{"class": "pareto"})) == 2
    elsewhere = overview_document(comparison=compared("mlp_out/1"))
    assert "Architectures compared" not in elsewhere.text


def test_a_plot_is_not_titled_by_what_stands_at_its_axis() -> None:
    html = overview_html(overview(comparison=compared("resid_post/4")))
    titles = re.findall(r'<text class="name"[^>]*y="14">([^<]+)</text>', html)
    axes = re.findall(r"<text transform=[^>]*rotate[^>]*>([^<]+)</text>", html)
    assert len(titles) == len(axes) == 2
    for title, axis in zip(titles, axes, strict=True):
        assert title.casefold() != axis.casefold()


def test_the_sae_itself_is_marked_among_them() -> None:
    html = overview_html(overview(comparison=compared("resid_post/4")))
    assert html.count('class="own"') == 2
    assert "this SAE: L0 32.8, 0.166" in html
    first, second = overview()["saes"]
    unmeasured = first | {"l0": None, "fvu": None, "delta_lm_loss": None}
    data = overview(comparison=compared("resid_post/4"), saes=[unmeasured, second])
    assert 'class="own"' not in overview_html(data)


def test_without_an_index_it_says_what_is_loaded_instead() -> None:
    page = overview_document(**unindexed())
    for words in (
        "resid_post/4",
        "JumpReLU SAE",
        "320 → 4,096 features → 320",
        "71",
        "google/gemma-scope-2b-pt-res",
        "layer_20/width_16k/average_l0_71",
        SHA[:12],
        "SAE first has no index yet, so what its features fire on is not known.",
        "jumpscope index --sae 'a b'",
    ):
        assert words in page.text
    assert page.all("button", **{"data-tip": SHA})
    assert page.all("button", **{"data-copy": MISSING["command"]})
    assert "None" not in page.text
    assert "How often features fire" not in page.text


def test_what_was_measured_stays_beside_it() -> None:
    page = overview_document(**unindexed(measured={"l0": 30.5}))
    assert "30.5" in page.text
    assert "What is loaded" in page.text


def test_a_transcoder_is_called_one() -> None:
    first, second = unindexed()["saes"]
    transcoder = first | {"reads": "mlp_in/4", "writes": "mlp_out/4", "d_out": 64, "skip": True}
    page = overview_document(**unindexed(saes=[transcoder, second]))
    assert "mlp_in/4 → mlp_out/4" in page.text
    assert "JumpReLU transcoder, with a skip connection" in page.text
    assert "320 → 4,096 features → 64" in page.text


def test_what_cannot_be_read_says_why_and_the_others_are_listed() -> None:
    _, second = overview()["saes"]
    unread = unread_facts("first", "weights.npz is cut off.")
    model = {"name": "google/gemma-2-2b", "problem": "The hub asks for a login."}
    page = overview_document(**unindexed(saes=[unread, second], missing=None, model=model))
    assert len(page.all("p", role="alert")) == 2
    for words in ("weights.npz is cut off.", "The hub asks for a login.", "layer 5 · mlp_out"):
        assert words in page.text
    assert "None" not in page.text


@pytest.mark.parametrize(
    "data",
    [
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
        overview(
            **unindexed(
                missing={"reason": HOSTILE, "command": HOSTILE, "does": HOSTILE},
                saes=[
                    unindexed()["saes"][0]
                    | {
                        "trained_on": HOSTILE,
                        "repository": HOSTILE,
                        "revision": HOSTILE,
                        "reads": HOSTILE,
                    }
                ],
                model={"name": HOSTILE, "problem": HOSTILE},
            )
        ),
    ],
    ids=["with an index", "without"],
)
def test_hostile_text_adds_no_element_and_no_attribute(data: dict[str, Any]) -> None:
    page = Document(overview_html(data))
    assert HOSTILE in page.text
    assert_plain(page)
