"""The blind test in a browser: by keyboard alone, left and come back to, both kinds to their end;
and a feature explained by a model that answers by rule.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from sae_core.bundle import Bundle
from sae_core.explain import PROMPT_VERSION
from tests.browser.conftest import Site, served
from tests.chat_endpoint import Endpoint, endpoint
from tests.unit.service_support import FIRING

Opened = Callable[..., Page]

LONG = 60_000  # ms


@pytest.fixture(scope="module")
def model() -> Iterator[Endpoint]:
    with endpoint() as state:
        yield state


@pytest.fixture(scope="module")
def rated(
    tiny_bundle: Bundle, model: Endpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The tiny bundle with notes of its own and somebody who explains."""
    notes = tmp_path_factory.mktemp("rated") / "notes.duckdb"
    with served(
        tiny_bundle,
        notes=str(notes),
        check_tokens=0,
        explain_endpoint=model.url,
        explain_model="rule",
    ) as running:
        yield running


def test_a_meaning_is_rated_by_keyboard_and_one_comes_back(rated: Site, opened: Opened) -> None:
    page = opened(rated.url + "/blind")
    page.get_by_label("Your name").fill("Ann")
    page.get_by_label("Features of each").fill("2")
    page.get_by_label("Features of each").press("Enter")
    status = page.get_by_role("status").filter(has_text="rated")
    expect(status).to_have_text("0 of 2 rated", timeout=LONG)
    expect(page.locator("ol.contexts > li").first).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("Answer both questions.")
    page.keyboard.press("3")
    expect(page.get_by_label("YES")).to_be_checked()
    page.keyboard.press("2")
    expect(page.get_by_label("most")).to_be_checked()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(status).to_have_text("1 of 2 rated", timeout=LONG)
    # Who comes back by the same address goes on, and may rate the last one again.
    again = opened(page.url)
    expect(again.get_by_role("status").filter(has_text="rated")).to_have_text("1 of 2 rated")
    again.get_by_role("link", name="Back").click()
    expect(again.get_by_role("status").filter(has_text="rated")).to_have_text(
        "1 of 2 rated; this one again"
    )
    again.keyboard.press("1")
    again.keyboard.press("1")
    again.keyboard.press("Enter")
    expect(again.get_by_role("link", name="Back")).to_be_visible(timeout=LONG)
    expect(again.get_by_role("status").filter(has_text="rated")).to_have_text("1 of 2 rated")
    again.locator("label", has_text="MAYBE").click()
    again.locator("label", has_text="all").click()
    again.get_by_role("button", name="Next").click()
    expect(again.get_by_role("status").filter(has_text="rated")).to_contain_text(
        "All 2 items are rated", timeout=LONG
    )
    [sae] = rated.api.ratings()["meaning"]["saes"]
    assert {row["verdict"]: row["count"] for row in sae["verdicts"]} == {
        "YES": 0,
        "MAYBE": 1,
        "NO": 1,
    }


def test_three_intruders_are_marked_and_the_score_stands_beside_chance(
    rated: Site, opened: Opened
) -> None:
    page = opened(rated.url + "/blind?rater=Ben&kind=intruders&per_sae=1", phone=True)
    marks = page.get_by_role("checkbox")
    expect(marks).to_have_count(12)
    for n in (0, 1):
        marks.nth(n).check()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("alert")).to_have_text("Mark 3 contexts.")
    marks.nth(2).focus()
    page.keyboard.press("Space")
    expect(page.locator("#marks")).to_have_text("3 of 3 marked")
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".end")).to_contain_text("of 3 intruders in 1 test;", timeout=LONG)
    expect(page.locator(".end")).to_contain_text("names 0.8 of them on average")
    assert rated.api.ratings()["intruders"]["ratings"] == 1


def test_a_refusal_stands_under_the_answers(rated: Site, opened: Opened) -> None:
    page = opened(rated.url + "/blind?rater=Cy&per_sae=2")
    page.evaluate("document.getElementById('rate').dataset.at = '77'")
    for key in ("1", "2", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_role("alert")).to_contain_text("There is no item 77", timeout=LONG)


def test_an_explanation_on_its_way_keeps_no_other_feature_waiting(
    rated: Site, opened: Opened
) -> None:
    page = opened(f"{rated.url}/features?feature={FIRING}")
    held: list[Route] = []

    def hold(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/gradio_api/queue/join", hold)
    ask = page.locator("[data-explain]").get_by_role("button", name="What would rule say?")
    ask.click()
    expect(ask).to_have_attribute("aria-busy", "true")
    page.locator("#next").click()
    expect(page.locator(f"[data-view][data-feature='{FIRING + 1}']")).to_be_attached()
    ask.click()
    part = page.locator("[data-explain]")
    expect(part.get_by_role("status")).to_have_text(re.compile("is sent contexts|contexts"))
    held[0].continue_()


def test_a_feature_is_explained_after_its_cost_was_said(
    rated: Site, model: Endpoint, opened: Opened, tmp_path: Path
) -> None:
    page = opened(f"{rated.url}/features?feature={FIRING}")
    part = page.locator("[data-explain]")
    expect(part).to_contain_text("No model has explained this feature yet.")
    part.get_by_role("button", name="What would rule say?").click()
    expect(part.get_by_role("status")).to_contain_text("is sent contexts", timeout=LONG)
    expect(part.get_by_role("status")).to_contain_text("requests, about")
    assert model.requests == []
    part.get_by_role("button", name="Ask rule").click()
    expect(part.locator("[data-explanations]")).to_contain_text(
        f"explained by rule (prompt v{PROMPT_VERSION}", timeout=LONG
    )
    expect(part.locator("[data-explanations]")).to_contain_text("tokens: ")
    assert model.requests
    page.reload()
    expect(part).to_contain_text(f"explained by rule (prompt v{PROMPT_VERSION}")
    expect(part.get_by_role("button", name="What would")).to_have_count(0)
