"""Features are gathered on any page, and steered with or put into a list together."""

import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.conftest import Site

Opened = Callable[..., Page]


def tray(page: Page) -> Locator:
    return page.get_by_role("complementary", name="Features that you gather")


def chips(page: Page) -> list[str]:
    return tray(page).get_by_role("listitem").locator("a").all_inner_texts()


def test_shift_and_a_click_gathers_for_steering_with_all(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features?q=ship")
    links = page.locator("td.id a")
    numbers = [links.nth(row).inner_text() for row in (0, 2)]
    for row in (0, 2):
        links.nth(row).click(modifiers=["Shift"])
    expect(tray(page)).to_contain_text("2 features gathered")
    assert chips(page) == numbers
    # What the tray says and what it holds begin under each other.
    says = (
        tray(page)
        .get_by_role("button")
        .first.evaluate(
            "(node) => { const words = document.createRange(); words.selectNodeContents(node);"
            " return words.getBoundingClientRect().left; }"
        )
    )
    holds = tray(page).get_by_role("list").bounding_box()
    assert holds is not None
    assert abs(says - holds["x"]) <= 1
    assert len(page.context.pages) == 1
    # It is there on other pages, after a reload, and for this SAE alone.
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Prompt").click()
    expect(tray(page)).to_contain_text("2 features gathered")
    page.goto(f"{site.url}/features?q=ship&sae={site.workbench.bundle.sae_names[1]}")
    expect(page.locator("td.id a").first).to_be_visible()
    expect(tray(page)).to_have_count(0)
    page.go_back()
    steer = tray(page).get_by_role("link", name="Steer with them")
    edits = json.loads(parse_qs(urlsplit(steer.get_attribute("href") or "").query)["edits"][0])
    assert [f"#{each['feature']}" for each in edits] == numbers
    steer.click()
    fields = page.get_by_label("Feature: number, or words")
    expect(fields).to_have_count(2)
    # Each has a strength to begin with, as if it were steered with alone.
    for place in range(2):
        amount = page.get_by_label("Strength", exact=True).nth(place)
        assert float(amount.input_value()) > 0


def test_the_keyboard_and_the_cards_and_the_features_button_gather(
    site: Site, opened: Opened
) -> None:
    page = opened(f"{site.url}/features?q=ship")
    link = page.locator("td.id a")
    link.first.focus()
    page.keyboard.press("Shift+Enter")
    expect(tray(page)).to_contain_text("1 feature gathered")
    link.nth(1).hover()
    card = page.locator("#glance")
    card.get_by_role("button", name="Gather").click()
    expect(tray(page)).to_contain_text("2 features gathered")
    number = link.nth(1).inner_text()
    page.mouse.move(2, 2)
    link.nth(1).click()
    expect(page.locator("h1[data-feature-name]")).to_contain_text(number)
    own = page.locator("main").get_by_role("button", name="Gather")
    expect(own).to_have_attribute("aria-pressed", "true")
    # Pressed again it is let go; the next feature's button says what that one is.
    own.click()
    expect(own).to_have_attribute("aria-pressed", "false")
    expect(tray(page)).to_contain_text("1 feature gathered")
    page.keyboard.press("k")
    expect(page.locator("h1[data-feature-name]")).to_contain_text(chips(page)[0])
    expect(own).to_have_attribute("aria-pressed", "true")
    tray(page).get_by_role("button", name="Clear").click()
    expect(tray(page)).to_have_count(0)
    expect(own).to_have_attribute("aria-pressed", "false")


def test_a_finger_gathers_and_nothing_is_covered(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features?q=ship", phone=True)
    page.set_viewport_size({"width": 320, "height": 640})
    number = page.locator("td.id a").first.inner_text()
    page.locator("td.id a").first.tap()
    expect(page.locator("h1[data-feature-name]")).to_contain_text(number)
    page.locator("main").get_by_role("button", name="Gather").tap()
    head = tray(page).get_by_role("button").first
    # Folded where there is little room.
    expect(head).to_have_attribute("aria-expanded", "false")
    head.tap()
    tray(page).get_by_label("every click on a feature gathers it").check()
    page.locator("#neighbours-title").scroll_into_view_if_needed()
    near = page.locator("section[aria-labelledby=neighbours-title] td.id a").first
    other = near.inner_text()
    near.tap()
    expect(tray(page)).to_contain_text("2 features gathered")
    assert chips(page) == [number, other]
    expect(page.locator("h1[data-feature-name]")).to_contain_text(number)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    # The end of the page stands above the tray.
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    ends = page.evaluate(
        """() => [".foot", ".tray"].map((each) => document.querySelector(each))
        .map((each) => each.getBoundingClientRect()).map((box) => [box.top, box.bottom])"""
    )
    assert ends[0][1] <= ends[1][0] + 1
    assert ends[1][1] <= 641


def test_all_go_into_a_list_and_their_numbers_can_be_copied(own_site: Site, opened: Opened) -> None:
    page = opened(f"{own_site.url}/features?q=ship")
    for row in (0, 1, 2):
        page.locator("td.id a").nth(row).click(modifiers=["Shift"])
    expect(tray(page)).to_contain_text("3 features gathered")
    numbers = chips(page)
    tray(page).get_by_role("button", name="Copy numbers").click()
    expect(tray(page).get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == " ".join(numbers)
    tray(page).get_by_role("button", name="Add to a list").click()
    tray(page).get_by_label("Name of the new list").fill("of the sea")
    asked: list[str] = []
    page.on("request", lambda each: asked.append(each.url) if "queue/join" in each.url else None)
    page.keyboard.press("Enter")
    expect(tray(page).get_by_role("status")).to_have_text("3 in of the sea.")
    assert len(asked) == 2, "the list is made, and all are put into it together"
    told = own_site.api.lists()["lists"]
    assert [(each["name"], each["size"]) for each in told] == [("of the sea", 3)]
    # Into one that is there, where those that are in it stay in place.
    page.locator("td.id a").nth(3).click(modifiers=["Shift"])
    tray(page).get_by_role("button", name="Add to a list").click()
    tray(page).get_by_label("Add to").select_option("of the sea")
    tray(page).get_by_role("button", name="Add", exact=True).click()
    expect(tray(page).get_by_role("status")).to_have_text("4 in of the sea.")
    numbers = chips(page)
    tray(page).get_by_role("link", name="of the sea").click()
    expect(page.locator("[data-entry] .names a")).to_have_text(numbers)
    # Of another SAE than the page's: the tray says of which.
    other = own_site.workbench.bundle.sae_names[1]
    told = own_site.api.lists()["lists"][0]["id"]
    own_site.api.lists(action="add", list_id=told, feature=5, sae=other)
    page.reload()
    page.locator("[data-entry] .names a").last.click(modifiers=["Shift"])
    expect(tray(page)).to_contain_text("1 feature gathered · layer")
    assert chips(page) == ["#5"]


def test_without_storage_it_lasts_as_long_as_the_page(site: Site, opened: Opened) -> None:
    page = opened(site.url)
    page.add_init_script(
        """Object.defineProperty(window, 'sessionStorage', {
          get() { throw new DOMException('denied', 'SecurityError'); } });"""
    )
    page.goto(f"{site.url}/features?q=ship")
    page.locator("td.id a").first.click(modifiers=["Shift"])
    expect(tray(page)).to_contain_text("1 feature gathered")
    page.reload()
    expect(page.locator("td.id a").first).to_be_visible()
    expect(tray(page)).to_have_count(0)


def test_another_sae_of_the_name_has_a_tray_of_its_own(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features?q=ship")
    page.locator("td.id a").first.click(modifiers=["Shift"])
    expect(tray(page)).to_contain_text("1 feature gathered")
    digest = site.workbench.bundle.content_hash(site.workbench.sae_name())

    def other_weights(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace(digest, "0" * 64))

    # As when another bundle is served at the address, or the weights are others.
    page.route("**/features?*", other_weights)
    page.reload()
    expect(page.locator("td.id a").first).to_be_visible()
    expect(tray(page)).to_have_count(0)
    page.locator("td.id a").nth(1).click(modifiers=["Shift"])
    expect(tray(page)).to_contain_text("1 feature gathered")
    page.unroute("**/features?*")
    page.reload()
    expect(tray(page)).to_contain_text("1 feature gathered")
    assert chips(page) == [page.locator("td.id a").first.inner_text()]


def test_what_was_gathered_before_the_weights_were_read_stays(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features?q=ship")
    digest = site.workbench.bundle.content_hash(site.workbench.sae_name())

    def unread(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace(digest, ""))

    page.route("**/features?*", unread)
    page.reload()
    page.locator("td.id a").first.click(modifiers=["Shift"])
    expect(tray(page)).to_contain_text("1 feature gathered")
    page.unroute("**/features?*")
    page.reload()
    expect(tray(page)).to_contain_text("1 feature gathered")
