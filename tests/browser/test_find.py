"""Features by example, from both boxes to a feature and to Steer, and a feature's neighbours."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode, urlparse

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site

Opened = Callable[..., Page]
MODEL_WAIT = 120_000
"""Milliseconds: a model that may still be loaded, on a machine that does other things too."""
HAVE = ["The ship sailed into the harbour.", "A ship lay at the pier.", "Two ships sank at night."]
HAVE_NOT = ["The oven was still warm.", "A child lay in the grass.", "Two men talked at night."]


@pytest.fixture(scope="module")
def answer(site: Site) -> dict[str, Any]:
    return site.api.find(positives=HAVE, negatives=HAVE_NOT)


def listed(page: Page) -> list[str]:
    expect(page.locator(".by-example li").first).to_be_visible(timeout=MODEL_WAIT)
    return page.locator(".by-example a.id").all_inner_texts()


def query_of(page: Page) -> dict[str, str]:
    return {name: each[0] for name, each in parse_qs(urlparse(page.url).query).items()}


def test_two_boxes_find_features_and_lead_on(
    site: Site, opened: Opened, answer: dict[str, Any]
) -> None:
    page = opened(f"{site.url}/features")
    page.get_by_role("main").get_by_role("link", name="Find by example").click()
    page.get_by_label("Texts that have it").fill("\n\n".join(HAVE))
    negatives = page.get_by_label("Texts that do not")
    negatives.fill("\n".join(HAVE_NOT))
    negatives.press("Control+Enter")
    assert listed(page) == [f"#{row['feature']}" for row in answer["features"]]
    expect(page.locator("#found")).to_contain_text(answer["chance"]["sentence"])
    first, row = page.locator(".by-example li").first, answer["features"][0]
    expect(first).to_contain_text(f"AUROC {row['auroc']:.3f}")
    strongest = row["positive"]["tokens"][row["positive"]["peak"]].strip()
    expect(first.locator("u").first).to_have_text(strongest)
    assert query_of(page) == {"positives": "\n".join(HAVE), "negatives": "\n".join(HAVE_NOT)}
    expect(first.get_by_role("link", name="Steer")).to_have_attribute(
        "href", re.compile(rf"^steer\?.*feature%22%3A{row['feature']}%2C")
    )
    # The address alone brings all of it again, also by the way back.
    first.locator("a.id").click()
    expect(page.locator("h1")).to_contain_text(f"#{row['feature']}")
    page.go_back()
    assert listed(page) == [f"#{row['feature']}" for row in answer["features"]]
    expect(page.get_by_label("Texts that do not")).to_have_value("\n".join(HAVE_NOT))


def test_a_box_that_is_refused_is_marked_and_has_the_focus(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/find")
    page.get_by_role("button", name="Find", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text(
        "Add at least one text that has it.", timeout=MODEL_WAIT
    )
    expect(page.get_by_label("Texts that have it")).to_be_focused()
    expect(page.get_by_label("Texts that have it")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Texts that have it").fill(HAVE[0])
    page.get_by_role("button", name="Find", exact=True).click()
    expect(page.locator("#found")).to_contain_text(
        "passages of the check’s text", timeout=MODEL_WAIT
    )
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_label("Texts that have it")).not_to_have_attribute("aria-invalid", "true")


def test_a_selection_on_prompt_goes_into_the_first_box(site: Site, opened: Opened) -> None:
    text = f"{HAVE[0]}  And\nso on."
    page = opened(f"{site.url}/prompt?{urlencode({'text': text})}")
    link = page.locator("#find-like")
    expect(link).to_have_text("Find features for this text")
    field = page.get_by_label("Text to analyse")
    field.evaluate("field => { field.focus(); field.setSelectionRange(4, 8); }")
    expect(link).to_have_text("Find features for this selection")
    link.click()
    expect(page.get_by_label("Texts that have it")).to_have_value("ship")
    page.go_back()
    expect(link).to_have_text("Find features for this text")
    link.click()
    expect(page.get_by_label("Texts that have it")).to_have_value(f"{HAVE[0]} And so on.")


def test_neighbours_are_measured_and_lead_to_the_other_sae(site: Site, opened: Opened) -> None:
    [row] = site.api.search_features(sort="frequency", limit=1, offset=20)["features"]
    told = site.api.co_activation(feature=row["feature"])
    page = opened(f"{site.url}/features?feature={row['feature']}")
    page.get_by_role("button", name="Measure on the check’s text").last.click()
    part = page.locator("[data-together-answer]")
    expect(part.locator("table")).to_have_count(2, timeout=MODEL_WAIT)
    expect(part).to_contain_text(f"of {told['tokens']:,} tokens of the check’s text: an estimate.")
    for table, rows in zip(
        part.locator("table").all(),
        (told["together"], told["other"]["features"]),
        strict=True,
    ):
        numbers = [f"#{each['feature']}" for each in rows]
        assert table.locator("td.id").all_inner_texts() == numbers
    expect(part).to_contain_text(told["other"]["sentence"])
    part.locator("table").last.locator("td.id a").first.click()
    expect(page.locator("h1")).to_contain_text(f"#{told['other']['features'][0]['feature']}")
    assert query_of(page)["sae"] == told["other"]["sae"]
