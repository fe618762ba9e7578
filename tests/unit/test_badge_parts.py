"""The badge, the line of doubt and the panel: words beside colours, nothing unescaped."""

import re
from typing import Any

import pytest
from torch import nn

from app.web.templating import part
from sae_core.check.conventions import Convention
from sae_core.check.judge import Declared, Outcome
from sae_core.check.measure import Numbers
from sae_core.check.verdict_sentence import sentence
from sae_core.config import SAEConfig, Site
from sae_core.metrics import DEFINITIONS
from tests.tiny import HOSTILE
from tests.unit.render_support import Document

WORDS = {
    "green": "checked",
    "amber": "unclear",
    "red": "wrong",
    "checking": "checking",
    "failed": "unchecked",
}


def badge_html(state: dict[str, Any], *, sae: str) -> str:
    return part("badge.html", "badge", state, sae)


def doubt_html(state: dict[str, Any], *, sae: str, label: str = "") -> str:
    return part("badge.html", "doubt", state, sae, label)


def panel_html(state: dict[str, Any]) -> str:
    return part("badge.html", "panel", state, DEFINITIONS)


def check(verdict: str, **changed: Any) -> dict[str, Any]:
    tried = {"reading": "resid_post/4, minus b_dec", "l0": 300.0, "fvu": 0.5, "tokens": 512}
    return {
        "verdict": verdict,
        "sentence": "At resid_post/4 L0 is 36.6.",
        "site": "resid_post/4",
        "l0": 36.6,
        "fvu": 0.1284,
        "declared_l0": 32.06,
        "declared_fvu": None,
        "tokens": 4144,
        "reading": None,
        "tried": [tried | {"fits": True}, tried | {"fvu": 1e13, "l0": None, "fits": False}],
        "content_hash": "ab" * 32,
        "model_dtype": "float32",
    } | changed


def state(name: str, **changed: Any) -> dict[str, Any]:
    if name in ("green", "amber", "red"):
        result = check(name, **changed)
        return {"sae": "a", "state": name, "sentence": result["sentence"], "check": result}
    sentence = "The model is not there." if name == "failed" else None
    return {"sae": "a", "state": name, "sentence": sentence, "check": None}


@pytest.mark.parametrize("name", WORDS)
def test_every_verdict_is_a_word_and_leads_to_the_overview(name: str) -> None:
    [badge] = Document(badge_html(state(name), sae="a")).all("a")
    assert badge["class"] == f"badge {name}"
    assert badge["href"] == "./?sae=a"
    assert WORDS[name] in Document(badge_html(state(name), sae="a")).text.split()
    assert badge.get("data-tip") == state(name)["sentence"]


@pytest.mark.parametrize("name", ["off", "unchecked"])
def test_nothing_is_said_before_there_is_a_check(name: str) -> None:
    result = state(name)
    assert badge_html(result, sae="") == panel_html(result) == doubt_html(result, sae="") == ""


def test_red_alone_casts_doubt_on_other_pages() -> None:
    for name in WORDS:
        line = Document(doubt_html(state(name), sae="")).text
        expected = "These numbers may be wrong: At resid_post/4 L0 is 36.6. See the check"
        assert line == (expected if name == "red" else "")
    other = Document(doubt_html(state("red"), sae="b", label="layer 6")).text
    assert other.startswith("The numbers of layer 6 may be wrong:")


def test_the_panel_has_the_numbers_beside_the_declared_ones_and_the_conventions() -> None:
    page = Document(panel_html(state("red", date="2026-01-31")))
    assert "Verdict: red. Measured on 4,144 tokens, saved on 2026-01-31." in page.text
    for words in ("36.6", "0.128", "declared", "32.1", "–", "minus b_dec", "fits"):
        assert words in page.text
    assert "10,000,000,000,000" in page.text
    assert "None" not in page.text
    definitions = {term["data-tip"].split(":")[0] for term in page.all("button")}
    assert {"L0", "FVU, fraction of variance unexplained"} < definitions
    bare = panel_html(state("green", declared_l0=None, tried=[]))
    assert "declared" not in bare
    assert "<details" not in bare
    assert "It could not be checked: The model is not there." in panel_html(state("failed"))


@pytest.mark.parametrize(
    ("l0", "fvu", "words"),
    [
        (36.64, 0.1284, "L0 is 36.6 and FVU 0.128"),
        (32.0, 0.0625, "L0 is 32.0 and FVU 0.063"),
        (7.0, 0.99960, "L0 is 7.00 and FVU 1.000"),
        (1234.5, 12.345, "L0 is 1,235 and FVU 12.3"),
        (0.25, 0.5, "L0 is 0.250 and FVU 0.500"),
    ],
)
def test_sentence_and_table_have_the_same_digits(l0: float, fvu: float, words: str) -> None:
    site = Site("resid_post", 4)
    outcome = Outcome(
        declared=Declared(l0=None, fvu=None, d_model=8, d_sae=4096),
        here=Convention(site=site, target=site),
        numbers=Numbers(l0=l0, fvu=fvu, tokens=4000),
        fitting=None,
        nearest=None,
        others=0,
    )
    cfg = SAEConfig(architecture="standard", d_model=8, d_sae=4096)
    said = sentence(nn.Identity(), cfg, outcome)
    assert f"At resid_post/4 {words}" in said
    html = panel_html(state("amber", l0=l0, fvu=fvu, tried=[], sentence=said))
    cells = re.findall(r'<td class="n">([^<]+)</td>', html)
    assert words == f"L0 is {cells[0]} and FVU {cells[1]}"


def test_the_panel_says_that_a_sink_was_left_out() -> None:
    assert "attention sink" not in panel_html(state("green", sink_tokens=0))
    page = Document(panel_html(state("green", sink_tokens=41)))
    assert "4,144 tokens, without 41 first ones, which are attention sinks." in page.text


def test_hostile_words_of_a_check_are_escaped() -> None:
    tried = check("red")["tried"][0] | {"reading": HOSTILE}
    result = state("red", sentence=HOSTILE, site=HOSTILE, date=HOSTILE, tried=[tried])
    for html in (
        badge_html(result, sae=HOSTILE),
        doubt_html(result, sae=HOSTILE, label=HOSTILE),
        panel_html(result),
        panel_html(state("failed") | {"sentence": HOSTILE}),
    ):
        assert not Document(html).all("img")
        assert "<img" not in html
