"""The badge, the line of doubt, the panel and the card: words beside colours, nothing unescaped."""

import json
from typing import Any

import pytest

from app.render.badge import badge_html, doubt_html, panel_html
from app.render.card import card_html, reproduce_button, words_of
from app.reproduce import QUANTITIES
from tests.tiny import HOSTILE
from tests.unit.render_support import Document

WORDS = {
    "green": "checked",
    "amber": "unclear",
    "red": "wrong",
    "checking": "checking",
    "failed": "unchecked",
}


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
        found = check(name, **changed)
        return {"sae": "a", "state": name, "sentence": found["sentence"], "check": found}
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
    found = state(name)
    assert badge_html(found, sae="") == panel_html(found) == doubt_html(found, sae="") == ""


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


def test_hostile_words_of_a_check_are_escaped() -> None:
    tried = check("red")["tried"][0] | {"reading": HOSTILE}
    found = state("red", sentence=HOSTILE, site=HOSTILE, date=HOSTILE, tried=[tried])
    for html in (
        badge_html(found, sae=HOSTILE),
        doubt_html(found, sae=HOSTILE, label=HOSTILE),
        panel_html(found),
        panel_html(state("failed") | {"sentence": HOSTILE}),
    ):
        assert not Document(html).all("img")
        assert "<img" not in html


# The card


def card(**changed: Any) -> dict[str, Any]:
    sae = {
        "name": "a",
        "source": "google/gemma-scope-2b-pt-res/layer_20@c0ffee",
        "content_hash": "ab" * 32,
        "site": "mlp_in/20",
        "site_out": "mlp_out/20",
    }
    return {
        "quantity": "activation",
        "value": 1 / 3,
        "feature": 12,
        "token": 4,
        "model": "google/gemma-2-2b@5eed",
        "dtype": "bfloat16",
        "device": "cuda:0",
        "attention": "auto",
        "saes": [sae],
        "token_ids": [2, 1044, 5],
        "script": "print(1 < 2)\n",
    } | changed


def test_the_card_says_what_the_number_came_from() -> None:
    page = Document(card_html(card(), 1 / 3))
    for words in (
        "0.33333333 activation of feature #12 on token 4",
        "google/gemma-2-2b",
        "5eed",
        "google/gemma-scope-2b-pt-res/layer_20",
        "c0ffee",
        "ab" * 32,
        "mlp_in/20 → mlp_out/20",
        "2, 1044, 5",
        "bfloat16",
        "cuda:0, attention auto",
        "print(1 < 2)",
        "python script.py where",
    ):
        assert words in page.text
    assert "not defined" in card_html(card(), None)


def test_a_run_s_card_has_its_edits_and_a_context_s_card_its_document() -> None:
    edits = [
        {"feature": 3, "mode": "set", "value": 2.5, "positions": "generated"},
        {"feature": 4, "mode": "ablate", "value": 0.0, "positions": (2, 4)},
    ]
    run = card(arm="steered", edits=edits, temperature=0.7, seed=3, max_new_tokens=5)
    text = Document(card_html(run, 1.0)).text
    assert "#3 set 2.5 on new tokens; #4 ablate on tokens 2, 4" in text
    assert "temperature 0.7, seed 3" in text
    place = {"document": 1170, "title": "A book", "source": "", "row": 2, "context_size": 512}
    text = Document(card_html(card(token_ids=None, within=0.00025, **place), 1.0)).text
    assert "number 1,170 of the corpus · A book" in text
    assert "2 of its tokens, 512 to a row" in text
    assert "± 0.00025" in text
    assert "python script.py CORPUS" in text


@pytest.mark.parametrize("quantity", [*QUANTITIES, "pre-activation", "activation after the edit"])
def test_every_quantity_has_words(quantity: str) -> None:
    assert len(words_of(card(quantity=quantity))) > 10


def test_hostile_words_of_a_card_are_escaped() -> None:
    hostile = card(script=HOSTILE, model=HOSTILE, document=1, title=HOSTILE, source=HOSTILE)
    hostile |= {"token_ids": None, "row": 0, "context_size": 8, "within": 0.1}
    assert not Document(card_html(hostile, 1.0)).all("img")
    button = reproduce_button({"text": HOSTILE}, [(HOSTILE, {"token": 1})], of=HOSTILE)
    assert "<img" not in button
    [found] = Document(button).all("button")
    assert json.loads(found["data-reproduce"]) == {
        "asked": {"text": HOSTILE},
        "choices": [{"words": HOSTILE, "asked": {"token": 1}}],
    }
