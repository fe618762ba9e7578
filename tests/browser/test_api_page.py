"""The API page: forms that ask, errors at their fields, examples that name the real address."""

import json
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from app.endpoints import ENDPOINTS
from tests.browser.conftest import Site
from tests.unit.service_support import as_json

Opened = Callable[..., Page]


def endpoint(page: Page, name: str) -> Locator:
    """An endpoint's panel with its form unfolded."""
    panel = page.locator(f"section#{name}")
    panel.locator("details.try > summary").click()
    return panel


def run(panel: Locator) -> None:
    panel.get_by_role("button", name="Run", exact=True).click()


def answer(panel: Locator) -> object:
    """What the form was answered, which is unfolded by itself."""
    expect(panel.locator("[role=status]")).to_have_text("Answered.")
    expect(panel.locator("[data-answer] pre")).to_be_visible()
    return json.loads(panel.locator("[data-answer] pre").inner_text())


@pytest.mark.parametrize("name", ["feature", "search_features", "delta_loss", "check", "reproduce"])
def test_a_form_asks_its_endpoint_with_what_it_is_filled_with(
    site: Site, opened: Opened, name: str
) -> None:
    page = opened(f"{site.url}/api")
    panel = endpoint(page, name)
    run(panel)
    (example,) = [each.example for each in ENDPOINTS if each.name == name]
    assert answer(panel) == as_json(getattr(site.api, name)(**example))


def test_what_is_typed_is_sent(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/api")
    panel = endpoint(page, "search_features")
    panel.get_by_label("Sort order").select_option("max_act")
    panel.get_by_label("Descending").uncheck()
    panel.get_by_label("Limit").fill("3")
    run(panel)
    assert answer(panel) == as_json(
        site.api.search_features(sort="max_act", descending=False, limit=3)
    )


@pytest.mark.parametrize(
    ("name", "label", "typed", "sentence"),
    [
        ("feature", "Feature", "five", "Feature must be a whole number, 0 or more, not “five”."),
        ("feature", "Feature", "", "Feature is missing: give a whole number, 0 or more."),
        (
            "steer",
            "Edits",
            '[{"feature": 12, "strength": 500}]',
            "The strength of edit 1 must be a number from -100 to 100, not 500.",
        ),
        (
            "steer",
            "Edits",
            "[{",
            "Edits must be one or more edits, each with a feature and what to do with it, "
            "not “[{”.",
        ),
        ("delta_loss", "Text", "", "The prompt is empty: type some text first."),
    ],
)
def test_a_mistake_is_said_and_its_field_is_marked(
    site: Site, opened: Opened, name: str, label: str, typed: str, sentence: str
) -> None:
    page = opened(f"{site.url}/api")
    panel = endpoint(page, name)
    field = panel.get_by_label(re.compile(f"^{label}"))
    field.fill(typed)
    run(panel)
    expect(panel.get_by_role("alert")).to_have_text(sentence)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    described = field.get_attribute("aria-describedby")
    expect(panel.locator(f"#{described}")).to_contain_text(sentence)
    # It is gone with the next try.
    if label == "Feature":
        field.fill("7")
        run(panel)
        expect(panel.locator("[role=status]")).to_have_text("Answered.")
        expect(panel.get_by_role("alert")).to_have_count(0)
        expect(field).not_to_have_attribute("aria-invalid", "true")


def test_a_run_grows_and_can_be_stopped(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/api")
    panel = endpoint(page, "steer")
    panel.get_by_label("New tokens").fill("200")
    panel.get_by_label("Temperature").fill("2")
    run(panel)
    expect(panel.locator("[data-answer] pre")).to_contain_text('"done": false')
    # Who folds it away while it grows is left alone; the next run unfolds it again.
    panel.locator("[data-answer] > summary").click()
    length = panel.locator("[data-answer] > summary").text_content() or ""
    expect(panel.locator("[data-answer] > summary")).not_to_have_text(length)
    expect(panel.locator("[data-answer] pre")).to_be_hidden()
    panel.get_by_role("button", name="Stop").click()
    expect(panel.locator("[role=status]")).to_have_text("Stopped.")
    expect(panel.get_by_role("button", name="Stop")).to_be_hidden()
    run(panel)
    expect(panel.locator("[data-answer] pre")).to_be_visible()
    panel.get_by_role("button", name="Stop").click()


def test_examples_name_the_address_that_the_browser_has(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url.replace('127.0.0.1', 'localhost')}/api")
    here = site.url.replace("127.0.0.1", "localhost")
    for code in page.locator("code[data-snippet]").all():
        text = code.text_content() or ""
        assert here in text
        assert "127.0.0.1" not in text
    panel = page.locator("section#feature")
    panel.get_by_text("In a shell, with curl").click()
    panel.get_by_role("button", name="Copy").click()
    expect(panel.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == panel.locator("code[data-snippet=curl]").text_content()


def test_a_long_answer_stays_within_a_phone(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/api", phone=True)
    panel = endpoint(page, "prompt_features")
    run(panel)
    expect(panel.locator("[role=status]")).to_have_text("Answered.")
    panel.get_by_text("In a shell, with curl").click()
    page.locator("section#reproduce details.snippet > summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for inner in panel.locator("pre:visible, table, form").all():
        box = inner.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
