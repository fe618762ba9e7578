"""The overview's sentence: what a bundle names, and what there is where it names nothing."""

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.engine.workbench import Workbench
from app.web.living import NEW_TOKENS, SENTENCE, living
from sae_core.bundle import Bundle
from tests.unit.page_support import assert_plain, overview_html
from tests.unit.render_support import Document, overview


def of(examples: Mapping[str, Any], tiny_bundle: Bundle) -> dict[str, Any]:
    """What stands on the page of a bundle with these examples."""
    bundle = dataclasses.replace(tiny_bundle, examples=dict(examples))
    return living(cast(Workbench, SimpleNamespace(bundle=bundle)), overview())


RUN = {
    "prompt": "The",
    "edits": [{"feature": 1, "mode": "ablate"}],
    "max_new_tokens": 60,
    "title": "Off",
}


def test_a_bundle_names_its_sentence_and_the_first_run_is_shortened(tiny_bundle):
    named = {"text": "A ship", "token": 1}
    chat = {"messages": [], "edits": []}
    shown = of({"sentence": named, "prompts": ["no"], "steer": [chat, RUN]}, tiny_bundle)
    assert shown == named | {"run": RUN | {"max_new_tokens": NEW_TOKENS}}
    assert of({"steer": [RUN | {"max_new_tokens": 5}]}, tiny_bundle)["run"]["max_new_tokens"] == 5


def test_without_one_its_first_prompt_and_its_telling_features_serve(tiny_bundle):
    shown = of({"prompts": ["A prompt"]}, tiny_bundle)
    assert (shown["text"], shown["token"]) == ("A prompt", None)
    assert shown["run"]["edits"] == [{"feature": 7, "mode": "set", "strength": 1.0}]
    assert of({}, tiny_bundle)["text"] == SENTENCE


@pytest.mark.parametrize("wrong", ["text", {"text": 3, "token": 1}, {"token": 2}, None])
def test_what_is_no_sentence_is_none(wrong, tiny_bundle):
    shown = of({"sentence": wrong}, tiny_bundle)
    assert (shown["text"], shown["token"]) == (SENTENCE, None)


def test_its_words_and_titles_are_text(monkeypatch):
    hostile = "</script><img src=x onerror=alert(1)>"
    run = RUN | {"prompt": hostile, "title": hostile}
    shown = {"text": hostile, "token": None, "run": run}
    monkeypatch.setattr("tests.unit.page_support.SENTENCE", shown)
    page = Document(overview_html(overview()))
    assert_plain(page)
    assert page.text.count(hostile) >= 3
