"""The tour: each step stands beside what it speaks of and covers nothing, and its control works."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from app.web.tour_view import STEPS
from tests.browser.conftest import Site

Opened = Callable[..., Page]
MODEL_WAIT = 120_000  # ms


def panel(page: Page) -> Locator:
    return page.locator("#tour")


def expect_step(page: Page, number: int) -> None:
    """The panel is that of the step, right before what it speaks of, in sight, and over nothing."""
    expect(panel(page)).to_contain_text(f"step {number} of {len(STEPS)}", timeout=MODEL_WAIT)
    beside = page.locator(".toured")
    expect(beside).to_be_visible(timeout=MODEL_WAIT)
    anchors = STEPS[number - 1].anchors
    wanted = ", ".join(anchors[:-1] or anchors)  # the last is for what is missing
    page.wait_for_function(
        "(wanted) => document.querySelector('.toured')?.matches(wanted)"
        " && document.querySelector('#tour').nextElementSibling.matches('.toured')",
        arg=wanted,
        timeout=MODEL_WAIT,
    )
    boxes = page.evaluate(
        """() => ["#tour", ".toured"].map((each) => {
          const box = document.querySelector(each).getBoundingClientRect();
          return { left: box.left, right: box.right, top: box.top, bottom: box.bottom };
        })"""
    )
    own, other = boxes
    size = page.viewport_size
    assert size is not None
    assert own["bottom"] <= other["top"] + 0.5, boxes
    assert 0 <= own["top"] <= size["height"], boxes
    # What it speaks of can be seen with it.
    assert other["top"] < size["height"] - 40, boxes
    assert own["left"] >= 0, boxes
    assert own["right"] <= size["width"], boxes
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def go_on(page: Page) -> None:
    panel(page).get_by_role("link", name="Next").click()


@pytest.mark.parametrize("phone", [False, True], ids=["1440", "390"])
def test_six_steps_from_the_overview_to_the_end(site: Site, opened: Opened, phone: bool) -> None:
    page = opened(site.url, phone=phone)
    page.get_by_role("link", name="A tour in six steps").click()
    expect_step(page, 1)
    expect(panel(page).get_by_role("heading")).to_be_focused()
    words = page.locator("#living-text [role=button]")
    expect(page.locator("#living-answer li").first).to_be_visible(timeout=MODEL_WAIT)
    words.nth(2).click()
    expect(words.nth(2)).to_have_attribute("aria-pressed", "true")
    expect(panel(page)).to_be_visible()

    go_on(page)
    expect_step(page, 2)
    feature = page.locator("h1 .id").inner_text()
    expect(page.locator(".groups .context").first).to_be_visible()
    page.locator(".strip a").last.click()
    expect(page.locator("details.group[open]").last).to_be_visible()

    go_on(page)
    expect_step(page, 3)
    expect(page.locator("h1 .id")).to_have_text(feature)
    expect(page.locator("[data-reading]")).not_to_be_empty()
    before = page.locator("[data-reading]").inner_text()
    page.get_by_label("Threshold", exact=True).focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    expect(page.locator("[data-reading]")).not_to_have_text(before)

    go_on(page)
    expect_step(page, 4)
    page.locator("#tokens [role=button]").nth(3).click()
    expect(page.locator(".next .effects tbody tr").first).to_be_visible(timeout=MODEL_WAIT)
    expect(panel(page)).to_be_attached()
    # The address keeps the step through what is chosen, and a reload.
    page.reload()
    expect(panel(page)).to_contain_text("step 4 of 6")
    if phone:
        page.locator("#selection [data-sheet-close]").click()

    go_on(page)
    expect_step(page, 5)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#run-status")).to_contain_text("Done", timeout=MODEL_WAIT)
    texts = page.locator("#base, #with-edits").all_inner_texts()
    assert texts[0] != texts[1]

    go_on(page)
    expect_step(page, 6)
    expect(page.locator("h1 .id")).to_have_text(feature)
    star = page.locator(".own-notes [data-star]")
    star.click()
    expect(star).to_have_attribute("aria-pressed", "true")
    star.click()
    expect(star).to_have_attribute("aria-pressed", "false")
    panel(page).get_by_role("link", name="Previous").click()
    expect_step(page, 5)
    panel(page).get_by_role("button", name="Leave the tour").click()
    expect(panel(page)).to_have_count(0)
    assert "tour" not in page.url
    page.reload()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    expect(panel(page)).to_have_count(0)


def test_by_keyboard_alone_and_escape_leaves(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features")
    page.get_by_role("contentinfo").get_by_role("link", name="Tour").focus()
    page.keyboard.press("Enter")
    expect_step(page, 1)
    expect(panel(page).get_by_role("heading")).to_be_focused()
    page.keyboard.press("Tab")
    expect(panel(page).get_by_role("link", name="Next")).to_be_focused()
    page.keyboard.press("Enter")
    expect_step(page, 2)
    expect(panel(page).get_by_role("heading")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(panel(page)).to_have_count(0)
    assert "tour" not in page.url
    # The focus is on what it spoke of.
    expect(page.locator(".contexts .groups")).to_be_focused()


def test_the_other_sae_has_its_own_and_what_is_missing_is_said(
    site: Site, unindexed_site: Site, opened: Opened
) -> None:
    other = site.workbench.bundle.sae_names[1]
    page = opened(f"{site.url}/?sae={other}&tour=1")
    for number in range(1, len(STEPS) + 1):
        expect_step(page, number)
        if number < len(STEPS):
            assert f"sae={other}" in (page.locator("#tour-next").get_attribute("href") or "")
            go_on(page)
    page = opened(f"{unindexed_site.url}/?tour=1")
    expect(panel(page)).to_contain_text("step 1 of 6")
    go_on(page)
    expect(panel(page)).to_contain_text("they are not known yet")
    expect(page.locator(".toured")).to_contain_text("jumpscope index")
    go_on(page)
    expect(panel(page)).to_contain_text("With an index there is a picture of it")
    expect(page.locator(".toured")).to_contain_text("threshold")


def test_no_tour_where_the_address_names_none(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features?tour=1")
    expect(page.locator("table.features")).to_be_visible()
    expect(panel(page)).to_have_count(0)
    for wrong in ("0", "7", "x", "1.5"):
        page.goto(f"{site.url}/?tour={wrong}")
        expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("inside"))
        expect(panel(page)).to_have_count(0)
