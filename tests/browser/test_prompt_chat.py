"""Conversations on the prompt page."""

import json
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, quote, urlparse

import pytest
from playwright.sync_api import Page, expect

from sae_core.bundle import Bundle
from tests.browser.conftest import Site, query, served
from tests.tiny_chat import END, START

Opened = Callable[..., Page]
USER = {"role": "user", "content": "Where does the river go?"}


@pytest.fixture(scope="module")
def chat_site(chat_bundle: Bundle) -> Iterator[Site]:
    with served(chat_bundle) as running:
        running.workbench.load()
        yield running


@pytest.mark.parametrize("phone", [False, True])
def test_a_conversation_is_analysed(chat_site: Site, opened: Opened, phone: bool) -> None:
    page = opened(f"{chat_site.url}/prompt", phone=phone)
    page.locator(".segments").get_by_text("Chat", exact=True).click()
    page.get_by_label("User, turn 1").fill(USER["content"])
    page.get_by_role("button", name="Analyse").click()
    tokens = page.locator("#tokens")
    expect(tokens).to_contain_text(f"<bos>{START}user↵{USER['content']}{END}↵{START}model↵")
    assert json.loads(query(page)["messages"]) == [USER]
    assert "text" not in query(page)
    expected = chat_site.api.prompt_features(messages=[USER])
    expect(page.locator("#totals dd").first).to_have_text(str(expected["totals"]["tokens"]))
    # The address brings it back, a text takes its place, and back goes back.
    page.reload()
    expect(page.get_by_label("User, turn 1")).to_have_value(USER["content"])
    expect(tokens).to_contain_text(f"{START}model↵")
    page.locator(".segments").get_by_text("Text", exact=True).click()
    page.get_by_label("Text to analyse").fill("The river")
    page.get_by_role("button", name="Analyse").click()
    expect(tokens).to_have_text("<bos>The river")
    assert "messages" not in query(page)
    page.go_back()
    expect(tokens).to_contain_text(f"{START}model↵")
    page.locator("#text-features [data-feature]").first.click()
    steer = page.get_by_role("link", name="Steer with it").get_attribute("href") or ""
    assert json.loads(parse_qs(urlparse(steer).query)["messages"][0]) == [USER]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("[1", "read: it may have been cut off"),
        ("7", "used: it has no turns"),
        ('[{"role":"tool","content":"x"}]', "used: turn 1 is by “tool”"),
        ('[{"role":"user"}]', "used: turn 1 has no text"),
    ],
)
def test_a_link_that_cannot_be_read_says_so(
    chat_site: Site, opened: Opened, messages: str, words: str
) -> None:
    page = opened(f"{chat_site.url}/prompt?messages={quote(messages)}")
    alert = page.locator("#problem").get_by_role("alert")
    expect(alert).to_contain_text(f"The conversation in this link cannot be {words}")
    expect(page.get_by_label("Text to analyse")).to_be_visible()


def test_the_turn_to_blame_is_marked(chat_site: Site, opened: Opened) -> None:
    turns = [USER, {"role": "model", "content": " "}, {"role": "user", "content": "Oh?"}]
    page = opened(f"{chat_site.url}/prompt?messages={quote(json.dumps(turns))}")
    field = page.get_by_label("Model, turn 2")
    expect(field).to_have_attribute("aria-invalid", "true")
    alert = page.get_by_role("alert").filter(visible=True)
    expect(alert).to_contain_text("empty")
    assert alert.get_attribute("id") in (field.get_attribute("aria-describedby") or "").split()
    for turn in ("User, turn 1", "User, turn 3"):
        assert page.get_by_label(turn).get_attribute("aria-invalid") is None
    field.fill("To the harbour.")
    page.get_by_role("button", name="Analyse").click()
    expect(page.locator("#tokens")).to_contain_text("To the harbour.")
    expect(alert).to_have_count(0)
