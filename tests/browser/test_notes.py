"""Star, label, verdict and note on a feature's page: kept at once, by pointer, keyboard, phone."""

from collections.abc import Callable

import pytest
from playwright.sync_api import APIResponse, Page, Route, expect

from tests.browser.conftest import Site
from tests.waiting import wait_until

Opened = Callable[..., Page]
FEATURE = 12


def test_a_feature_is_labelled_with_the_keyboard_alone(clean: Site, opened: Opened) -> None:
    page = opened(f"{clean.url}/features?feature={FEATURE}")
    signature = clean.api.feature(FEATURE)["signature"]
    heading = page.get_by_role("heading", level=1)
    expect(page.locator("[data-own-signature]")).to_be_hidden()
    page.get_by_role("button", name="Star").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Star")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Your label")).to_be_focused()
    page.keyboard.type("ships <b>at</b> sea")
    page.keyboard.press("Enter")
    expect(heading).to_have_text(f"#{FEATURE} ships <b>at</b> sea")
    expect(page.locator("[data-own-signature]")).to_contain_text(signature.split(" · ")[0])
    expect(page).to_have_title(f"#{FEATURE} ships <b>at</b> sea · Jumpscope")
    page.keyboard.press("Tab")
    page.keyboard.type("poly")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("first line")
    page.keyboard.press("Tab")
    expect(page.locator("[data-kept]")).to_have_text("Kept.")
    kept = clean.api.notes(FEATURE)
    assert (kept["starred"], kept["label"]) == (True, "ships <b>at</b> sea")
    assert (kept["verdict"], kept["note"]) == ("polysemantic", "first line")
    page.reload()
    expect(heading).to_have_text(f"#{FEATURE} ships <b>at</b> sea")
    expect(page.get_by_role("button", name="Star")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Verdict")).to_have_value("polysemantic")
    expect(page.get_by_label("Your note")).to_have_value("first line")


def test_taking_a_label_away_brings_the_signature_back(clean: Site, opened: Opened) -> None:
    clean.api.notes(FEATURE, label="to be removed")
    page = opened(f"{clean.url}/features?feature={FEATURE}")
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text(f"#{FEATURE} to be removed")
    page.get_by_label("Your label").fill("")
    page.get_by_label("Your label").press("Enter")
    expect(heading).not_to_contain_text("to be removed")
    expect(page.locator("[data-own-signature]")).to_be_hidden()
    expect(page.locator("[data-kept]")).to_have_text("Kept.")
    assert clean.api.notes(FEATURE)["label"] is None


def test_what_cannot_be_kept_is_said_and_the_star_goes_back(clean: Site, opened: Opened) -> None:
    page = opened(f"{clean.url}/features?feature={FEATURE}")
    path = clean.workbench.notes.file.path
    assert path is not None
    path.write_text("damaged")
    page.get_by_role("button", name="Star").click()
    expect(page.locator("[data-kept]")).to_contain_text("is damaged")
    expect(page.get_by_role("button", name="Star")).to_have_attribute("aria-pressed", "false")


def test_labels_stand_in_prompts_and_steering(clean: Site, opened: Opened) -> None:
    text = "The ship sailed over the sea."
    strongest = clean.api.prompt_features(text, limit=1)["features"][0]["feature"]
    clean.api.notes(strongest, label="my own words")
    page = opened(f"{clean.url}/prompt?text={text.replace(' ', '+')}")
    expect(page.get_by_text("my own words").first).to_be_visible(timeout=60_000)
    page.goto(f"{clean.url}/features?feature={strongest}")
    page.get_by_role("link", name="Steer with it").click()
    expect(page.locator(".signature").first).to_contain_text("my own words", timeout=60_000)


@pytest.mark.parametrize("width", [1440, 390, 320])
def test_no_page_becomes_wider_than_its_window(clean: Site, opened: Opened, width: int) -> None:
    clean.api.notes(FEATURE, label="x" * 200, note="y" * 300)
    page = opened(clean.url)
    page.set_viewport_size({"width": width, "height": 800})
    for where in (f"features?feature={FEATURE}", f"features?q={FEATURE}"):
        page.goto(f"{clean.url}/{where}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, (where, width)


def test_rows_of_the_list_are_starred_with_the_keyboard_and_filtered(
    clean: Site, opened: Opened
) -> None:
    page = opened(f"{clean.url}/features?q={FEATURE}")
    link = page.get_by_role("link", name=f"#{FEATURE}", exact=True)
    star = page.get_by_role("button", name=f"Star #{FEATURE}", exact=True)
    link.focus()
    page.keyboard.press("Shift+Tab")
    expect(star).to_be_focused()
    page.keyboard.press("Space")
    expect(star).to_have_attribute("aria-pressed", "true")
    expect(page).to_have_url(f"{clean.url}/features?q={FEATURE}")  # the row's link was not followed
    page.get_by_label("show").select_option("starred")
    expect(page.locator("[data-row-star]")).to_have_count(1)
    expect(page).to_have_url(f"{clean.url}/features?q={FEATURE}&kept=starred")
    expect(star).to_have_attribute("aria-pressed", "true")
    assert clean.api.notes(FEATURE)["starred"]
    star.click()
    expect(star).to_have_attribute("aria-pressed", "false")
    wait_until(lambda: not clean.api.notes(FEATURE)["starred"])


def test_a_star_of_a_row_that_cannot_be_kept_goes_back(clean: Site, opened: Opened) -> None:
    page = opened(f"{clean.url}/features?q={FEATURE}")
    path = clean.workbench.notes.file.path
    assert path is not None
    path.write_text("damaged")
    star = page.get_by_role("button", name=f"Star #{FEATURE}", exact=True)
    expect(star).to_have_attribute("aria-pressed", "false")
    star.click()
    expect(page.locator("[data-row-kept]")).to_contain_text("is damaged")
    expect(star).to_have_attribute("aria-pressed", "false")


def test_a_star_given_while_the_list_is_on_its_way_stays(clean: Site, opened: Opened) -> None:
    page = opened(f"{clean.url}/features?q={FEATURE}")
    star = page.get_by_role("button", name=f"Star #{FEATURE}", exact=True)
    answered: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        if answered:
            route.continue_()
        else:
            answered.append((route, route.fetch()))

    page.route("**/features?*sort=*", hold)
    page.locator("#sort-max_act").click()
    for _ in range(200):
        if answered:
            break
        page.wait_for_timeout(50)
    star.click()
    wait_until(lambda: clean.api.notes(FEATURE)["starred"])
    [(route, answer)] = answered
    route.fulfill(response=answer)
    expect(page.locator("th[aria-sort] #sort-max_act")).to_be_visible()
    expect(star).to_have_attribute("aria-pressed", "true")
