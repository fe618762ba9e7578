"""What holds on every page: it fits, it is named, it is readable, it stays on this machine."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site

Opened = Callable[..., Page]
CONTRAST = Path(__file__).with_name("contrast.js")
EDITS = quote('[{"feature":3,"mode":"ablate","positions":"all"}]')
ADDRESSES = {
    "overview": ("/", ".card"),
    "list": ("/features", "table.features"),
    "feature": ("/features?feature=random&text=The%20captain", ".result .tokens"),
    "prompt": ("/prompt?text=The%20old%20man%20said%3A%20%22no%22&token=3", "#tokens span"),
    "empty prompt": ("/prompt", "#prompt-text"),
    "steer": (f"/steer?prompt=The&tokens=5&edits={EDITS}", "#run-status:has-text('Done')"),
}


def shown(site: Site, opened: Opened, name: str, **how: object) -> Page:
    address, ready = ADDRESSES[name]
    page = opened(site.url + address, **how)
    expect(page.locator(ready).first).to_be_visible()
    return page


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_phone_shows_it_without_scrolling_sideways(site: Site, opened: Opened, name: str) -> None:
    page = shown(site, opened, name, phone=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("name", ADDRESSES)
def test_one_heading_one_main_region_and_every_field_named(
    site: Site, opened: Opened, name: str
) -> None:
    page = shown(site, opened, name)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    expect(page.get_by_role("main")).to_have_count(1)
    expect(page.get_by_role("navigation", name="Pages", exact=True)).to_have_count(1)
    assert page.title().endswith("Jumpscope")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('#jumpscope :is(input,select,textarea,button,a)')]
        .filter(e => e.type !== 'hidden' && !e.closest('[role=img]'))
        .filter(e => !e.labels?.length && !e.ariaLabel && !e.textContent.trim())
        .map(e => e.outerHTML.slice(0, 120))"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ADDRESSES)
def test_text_stands_out_from_what_is_behind_it(
    site: Site, opened: Opened, name: str, scheme: str
) -> None:
    page = shown(site, opened, name, scheme=scheme)
    assert page.evaluate(CONTRAST.read_text()) == []


def test_nothing_of_gradio_is_seen(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "overview")
    expect(page.locator("footer:visible")).to_have_count(1)
    expect(page.locator(".nav-holder")).to_be_hidden()
    assert "gradio" not in page.locator("body").inner_text().lower()


def test_the_api_is_documented_from_every_page(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "list")
    page.get_by_role("link", name="API").click()
    expect(page.get_by_text("/delta_loss").first).to_be_visible()


def test_the_theme_can_be_chosen_and_is_kept(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "overview", scheme="light")
    root = page.locator("html")
    expect(root).to_have_attribute("data-dark", "false")
    button = page.get_by_role("button", name="Colours")
    button.click()
    button.click()
    expect(button).to_have_attribute("aria-label", "Colours: dark")
    expect(root).to_have_attribute("data-dark", "true")
    page.reload()
    expect(page.locator(".card").first).to_be_visible()
    expect(root).to_have_attribute("data-dark", "true")


def test_an_unknown_page_says_so_and_leads_back(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "overview")
    answer = page.request.get(f"{site.url}/nowhere", headers={"accept": "text/html"})
    assert answer.status == 404
    assert "<h1>There is no such page</h1>" in answer.text()
    assert '<a href="/features">Features</a>' in answer.text()
    assert page.request.get(f"{site.url}/nowhere").json() == {"detail": "Not Found"}


def test_the_skip_link_and_the_keyboard_reach_the_content(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "overview")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator(".stats button").first).to_be_focused()


def test_hostile_corpus_is_shown_as_text(hostile_site: Site, opened: Opened) -> None:
    found = hostile_site.service.search_features(limit=64)["features"]
    alive = [row["feature"] for row in found if row["frequency"] > 0]
    page = opened(hostile_site.url)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    seen = ""
    for feature in alive[:8]:
        page.goto(f"{hostile_site.url}/features?feature={feature}")
        expect(page.get_by_role("heading", level=1)).to_contain_text(f"#{feature}")
        seen += page.locator("#content").inner_text()
        assert page.locator("#content img").count() == 0
    assert "onerror" in seen, "the tiny corpus's hostile text is in none of these contexts"
