"""Previous and next on a feature's page walk the list that it was opened from."""

import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlencode, urlsplit

from playwright.sync_api import Page, expect

from app.web.list_query import PAGE_SIZE
from tests.browser.conftest import Site

Opened = Callable[..., Page]
MODEL_WAIT = 120_000  # ms


def heading(page: Page) -> int:
    """The number of the feature whose page this is."""
    words = page.locator("h1[data-feature-name] .id").inner_text()
    return int(words.removeprefix("#"))


def expect_feature(page: Page, number: int) -> None:
    expect(page.locator("h1[data-feature-name] .id")).to_have_text(f"#{number}")


def listed(page: Page, links: str) -> list[int]:
    """The features that links on a page lead to, each once."""
    numbers = []
    for href in page.locator(links).evaluate_all("all => all.map((each) => each.href)"):
        numbers.append(int(parse_qs(urlsplit(href).query)["feature"][0]))
    return list(dict.fromkeys(numbers))


def test_a_search_is_walked_over_its_pages_and_a_reload(site: Site, opened: Opened) -> None:
    query = {"query": "the", "sort": "frequency", "descending": False, "min_frequency": 1e-4}
    told = site.api.search_features(**query, limit=PAGE_SIZE + 3)
    numbers = [row["feature"] for row in told["features"]]
    assert told["total"] > PAGE_SIZE + 2
    address = urlencode({"q": "the", "sort": "frequency", "desc": "0", "min": 0.0001})
    page = opened(f"{site.url}/features?{address}")
    page.locator("td.id a").nth(PAGE_SIZE - 2).click()
    expect_feature(page, numbers[PAGE_SIZE - 2])
    place = page.get_by_role("navigation", name="Where it was opened from")
    expect(place).to_contain_text(f"{PAGE_SIZE - 1} of {told['total']:,}")
    page.get_by_role("link", name="Next feature").click()
    expect_feature(page, numbers[PAGE_SIZE - 1])
    # By a key, over the end of the list's page.
    page.keyboard.press("j")
    expect_feature(page, numbers[PAGE_SIZE])
    page.reload()
    expect(place).to_contain_text(f"{PAGE_SIZE + 1} of {told['total']:,}")
    page.keyboard.press("j")
    expect_feature(page, numbers[PAGE_SIZE + 1])
    page.keyboard.press("k")
    expect_feature(page, numbers[PAGE_SIZE])
    # Not while somebody types.
    page.get_by_label("Test your own text").press_sequentially("jk")
    expect(page.get_by_label("Test your own text")).to_have_value("jk")
    expect_feature(page, numbers[PAGE_SIZE])
    tip = page.get_by_role("link", name="Next feature").get_attribute("data-tip")
    assert tip == "Next in the search for “the”: → or j"
    # Back to the page of the list that has it.
    place.get_by_role("link").click()
    expect(page.locator("td.id a").first).to_have_text(f"#{numbers[PAGE_SIZE]}")
    assert parse_qs(urlsplit(page.url).query)["sort"] == ["frequency"]


def test_what_no_longer_matches_goes_by_number_and_back(site: Site, opened: Opened) -> None:
    rows = site.api.search_features(query="the", limit=1)["features"]
    other = rows[0]["feature"]
    page = opened(f"{site.url}/features?feature={other}&from=features%3Fq%3Dno%2Bsuch%2Bthing&at=4")
    place = page.get_by_role("navigation", name="Where it was opened from")
    expect(place).to_contain_text("no longer among its features")
    expect(page.get_by_role("link", name="Next feature")).to_contain_text(str(other + 1))
    # Addresses of other places are none to go back to.
    for foreign in (
        "https://example.org/features",
        "//example.org",
        "javascript:alert(1)",
        "nowhere",
    ):
        page.goto(f"{site.url}/features?{urlencode({'feature': other, 'from': foreign})}")
        expect_feature(page, other)
        expect(place).to_have_count(0)


def test_a_list_of_ones_own_is_walked_also_into_the_other_sae(
    own_site: Site, opened: Opened
) -> None:
    other = own_site.workbench.bundle.sae_names[1]
    list_id = own_site.api.lists(action="make", name="walked")["list"]["id"]
    stops = [(7, ""), (3, other), (9, "")]
    for feature, sae in stops:
        own_site.api.lists(action="add", list_id=list_id, feature=feature, sae=sae)
    page = opened(f"{own_site.url}/lists?list={list_id}")
    page.locator("[data-entry] a").first.click()
    place = page.get_by_role("navigation", name="Where it was opened from")
    for number, (feature, sae) in enumerate(stops, 1):
        expect_feature(page, feature)
        expect(place).to_contain_text(f"{number} of 3")
        expect(page.locator("[data-view]")).to_have_attribute(
            "data-sae", sae or own_site.workbench.sae_name()
        )
        if number < 3:
            page.get_by_role("link", name="Next feature").click()
    expect(page.get_by_role("link", name="Next feature")).to_have_count(0)
    # The order is asked for again: what is moved since stands where it is now.
    own_site.api.lists(action="move", list_id=list_id, feature=9, place=0)
    page.reload()
    expect(place).to_contain_text("1 of 3")
    place.get_by_role("link", name="Back to “walked”").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("walked")


def test_what_was_found_by_example_is_walked(site: Site, opened: Opened) -> None:
    texts = urlencode({"positives": "The ship sailed.", "negatives": "He slept."})
    page = opened(f"{site.url}/find?{texts}")
    expect(page.locator(".by-example li").first).to_be_visible(timeout=MODEL_WAIT)
    numbers = listed(page, ".by-example a.id")
    page.locator(".by-example a.id").nth(1).click()
    expect_feature(page, numbers[1])
    place = page.get_by_role("navigation", name="Where it was opened from")
    expect(place).to_contain_text(f"2 of {len(numbers)}")
    page.get_by_role("link", name="Next feature").click()
    expect_feature(page, numbers[2])
    page.reload()
    page.keyboard.press("k")
    expect_feature(page, numbers[1])
    place.get_by_role("link", name="Back to what was found").click()
    expect(page.get_by_label("Texts that have it")).to_have_value("The ship sailed.")


def test_the_effects_of_a_prompt_are_walked(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/prompt?{urlencode({'text': 'The old man said', 'token': 4})}")
    effects = page.locator("table.effects [data-feature]")
    expect(effects.first).to_be_visible(timeout=MODEL_WAIT)
    order = effects.evaluate_all("all => all.map((each) => Number(each.dataset.feature))")
    numbers = list(dict.fromkeys(order))
    effects.first.click()
    page.get_by_role("link", name="Open its page").click()
    expect_feature(page, numbers[0])
    page.get_by_role("link", name="Next feature").click()
    expect_feature(page, numbers[1])
    place = page.get_by_role("navigation", name="Where it was opened from")
    expect(place).to_contain_text(f"2 of {len(numbers)}")
    place.get_by_role("link", name="Back to Prompt").click()
    expect(page.get_by_label("Text to analyse")).to_have_value("The old man said")


def test_a_finger_takes_the_list_along_too_and_the_card_does(site: Site, opened: Opened) -> None:
    phone = opened(f"{site.url}/features?q=ship", phone=True)
    numbers = listed(phone, "td.id a")
    phone.locator("td.id a").nth(1).tap()
    expect_feature(phone, numbers[1])
    place = phone.get_by_role("navigation", name="Where it was opened from")
    expect(place).to_contain_text(re.compile(rf"2 of {len(numbers)}\b"))
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    page = opened(f"{site.url}/features?q=ship")
    page.locator("td.id a").nth(2).hover()
    page.locator("#glance").get_by_role("link", name="Open").click()
    expect_feature(page, numbers[2])
    page.keyboard.press("ArrowLeft")
    expect_feature(page, numbers[1])
    # Somewhere else is by number again.
    page.goto(f"{site.url}/features?feature={numbers[1]}")
    expect(page.get_by_role("link", name="Next feature")).to_contain_text(str(numbers[1] + 1))
