"""Browsing: overview, list, one feature; all of it in the address."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from app.service.overview import overview
from tests.browser.conftest import Site, query
from tests.demo_features import of_first_bytes, of_the_sea

Opened = Callable[..., Page]


def frequent(site: Site, count: int = 50) -> list[int]:
    """The features that fire most often, in the list's order."""
    return [row["feature"] for row in site.api.search_features(limit=count)["features"]]


def status(page: Page) -> Locator:
    """What the list says of its matches; another one says what is kept of a row."""
    return page.locator("#results [role=status]:not([data-row-kept])")


def test_from_the_overview_to_a_feature_and_on_to_steering(site: Site, opened: Opened) -> None:
    page = opened(site.url)
    first = overview(site.workbench, "")["highlights"][0]
    expect(page.get_by_role("heading", level=1)).to_have_text("What is inside this model")
    expect(page.locator(".card")).to_have_count(len(overview(site.workbench, "")["highlights"]))
    page.locator(".card a").first.click()
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_contain_text(f"#{first['feature']}")
    expect(heading).to_contain_text(first["signature"])
    expect(page).to_have_title(re.compile(rf"^#{first['feature']} "))
    expect(page.locator(".context").first).to_be_visible()
    expect(page.locator(".threshold")).to_contain_text("threshold")
    page.get_by_role("link", name="Steer with it").click()
    expect(page.get_by_label("Feature: number, or words")).to_have_value(f"#{first['feature']}")
    expect(page.locator(".signature")).to_contain_text(first["signature"])


def test_numbers_explain_themselves_to_pointer_keyboard_and_touch(
    site: Site, opened: Opened
) -> None:
    definition = overview(site.workbench, "")["definitions"]["fvu"]
    page = opened(site.url)
    # What the sentence is answered moves all below it away from under the pointer.
    expect(page.locator("#living-answer .living-next li")).to_have_count(4)
    page.get_by_role("button", name="variance unexplained").hover()
    expect(page.locator("#tip")).to_have_text(definition)
    page.mouse.move(5, 400)
    expect(page.locator("#tip")).to_be_hidden()
    page.get_by_role("button", name="variance unexplained").focus()
    page.keyboard.press("Shift")
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#tip")).to_have_text(definition)
    phone = opened(site.url, phone=True)
    expect(phone.locator("#living-answer .living-next li")).to_have_count(4)
    # The page has come to rest there: a tip goes with scrolling.
    phone.get_by_role("button", name="variance unexplained").scroll_into_view_if_needed()
    expect(phone.get_by_role("button", name="variance unexplained")).to_be_in_viewport()
    phone.get_by_role("button", name="variance unexplained").tap()
    expect(phone.locator("#tip")).to_have_text(definition)


def test_a_bar_of_the_frequency_histogram_opens_its_features(site: Site, opened: Opened) -> None:
    page = opened(site.url)
    bars = page.locator("#content a.step")
    bars.nth(bars.count() // 2).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Features")
    asked = query(page)
    actual = site.api.search_features(
        min_frequency=float(asked["min"]), max_frequency=float(asked["max"])
    )
    assert actual["total"] > 0
    expect(status(page)).to_contain_text(f"of {actual['total']:,}")


def test_search_filter_sort_and_pages_stand_in_the_address(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features")
    rows = page.locator("table.features tbody tr")
    expect(rows).to_have_count(50)
    assert [int(text[1:]) for text in page.locator("td.id a").all_inner_texts()] == frequent(site)

    page.get_by_role("link", name="largest").click()
    expect(page.locator("th[aria-sort]")).to_contain_text("largest")
    expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "descending")
    assert query(page)["sort"] == "max_act"
    page.get_by_role("link", name="largest").click()
    expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "ascending")

    page.get_by_role("link", name="Next").first.click()
    expect(status(page)).to_contain_text("51 to 100")
    assert query(page)["page"] == "2"

    page.get_by_label("fires on at least").select_option(label="1.0\N{NO-BREAK SPACE}%")
    expect(status(page)).to_have_text(re.compile("^1 to "))
    assert query(page)["min"] == "0.01"
    shown = status(page).inner_text()

    page.reload()
    expect(status(page)).to_have_text(shown)
    expect(page.get_by_label("fires on at least")).to_have_value("0.01")
    expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "ascending")
    page.go_back()
    expect(status(page)).to_contain_text("51 to 100")
    expect(page.get_by_label("fires on at least")).to_have_value("")
    page.go_forward()
    expect(status(page)).to_have_text(shown)


def test_searching_keeps_the_field_and_finds_by_number_and_by_token(
    site: Site, opened: Opened
) -> None:
    page = opened(f"{site.url}/features")
    expect(page.locator("table.features")).to_be_visible()
    page.keyboard.press("/")
    field = page.get_by_role("searchbox")
    expect(field).to_be_focused()
    page.keyboard.type("#12")
    expect(page.locator("td.id a")).to_have_text(["#12"])
    expect(field).to_be_focused()
    expect(field).to_have_value("#12")
    field.fill("the")
    total = site.api.search_features(query="the")["total"]
    expect(status(page)).to_contain_text(f"of {total:,}")
    field.fill("no feature could ever be called this")
    expect(status(page)).to_contain_text("No feature matches")
    page.get_by_role("link", name="Show all").click()
    expect(field).to_have_value("")
    expect(page.locator("table.features tbody tr")).to_have_count(50)


def test_stepping_through_features_and_back(site: Site, opened: Opened) -> None:
    feature = frequent(site)[0]
    while not 2 < feature < 4000:
        feature += 7
    page = opened(f"{site.url}/features?feature={feature}")
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_contain_text(f"#{feature}")
    page.get_by_role("link", name="Next feature").click()
    expect(heading).to_contain_text(f"#{feature + 1}")
    expect(page.get_by_role("link", name="Next feature")).to_be_focused()
    page.keyboard.press("Enter")
    expect(heading).to_contain_text(f"#{feature + 2}")
    page.get_by_role("heading", level=1).click()
    page.keyboard.press("ArrowLeft")
    expect(heading).to_contain_text(f"#{feature + 1}")
    page.go_back()
    expect(heading).to_contain_text(f"#{feature + 2}")
    page.go_back()
    expect(heading).to_contain_text(f"#{feature + 1}")
    before = page.url
    page.get_by_role("link", name="Random feature").click()
    expect(page).not_to_have_url(before)
    expect(page).to_have_url(re.compile(r"feature=\d+"))
    expect(heading).to_contain_text(f"#{query(page)['feature']}")


def test_contexts_are_read_with_pointer_and_arrow_keys_and_unfold(
    site: Site, opened: Opened
) -> None:
    feature = frequent(site)[5]
    page = opened(f"{site.url}/features?feature={feature}")
    context = page.locator(".context .tokens").first
    peak = context.locator(".peak")
    peak.hover()
    value = peak.get_attribute("data-v")
    assert value
    expect(page.locator("#tip")).to_contain_text(value)
    page.mouse.move(5, 5)
    # All contexts are one stop of the Tab key; the arrow keys walk from one to the next.
    page.locator(".groups").focus()
    tokens = page.locator(".groups span[data-v]:visible")
    last_of_first = context.locator("span[data-v]:visible").count() - 1
    for _ in range(last_of_first + 2):
        page.keyboard.press("ArrowRight")
    expect(tokens.nth(last_of_first + 1)).to_be_focused()
    expect(page.locator("#tip")).to_contain_text(
        tokens.nth(last_of_first + 1).get_attribute("data-v") or "?"
    )
    page.keyboard.press("End")
    expect(tokens.last).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()
    short = context.inner_text()
    page.get_by_role("button", name="More of each context").click()
    assert len(context.inner_text()) > len(short)
    page.get_by_role("link", name="Next feature").click()
    expect(page.locator("h1")).not_to_contain_text(f"#{feature}")
    expect(page.get_by_role("button", name="Less of each context")).to_be_visible()
    page.go_back()
    expect(page.locator("h1")).to_contain_text(f"#{feature}")
    page.get_by_role("button", name="Less of each context").click()
    assert context.inner_text() == short


def test_a_token_without_a_character_is_seen_and_says_its_value(site: Site, opened: Opened) -> None:
    """Its peaks are first bytes of characters, which have no text of their own."""
    page = opened(f"{site.url}/features?feature={of_first_bytes()}")
    peaks = page.locator(".context .peak")
    expect(peaks.first).to_have_text("⟨C3⟩")
    widths = peaks.evaluate_all(
        """(peaks) => peaks.filter((peak) => peak.getClientRects().length)
                           .map((peak) => peak.getBoundingClientRect().width)"""
    )
    assert len(widths) > 20
    assert min(widths) > 4
    peaks.first.hover()
    expect(page.locator("#tip")).to_contain_text("⟨C3⟩")
    page.get_by_label("Test your own text").fill("a \N{GRINNING FACE}")
    expect(page.locator(".result .bytes").first).to_have_text("⟨F0⟩")


def test_hebrew_reads_from_the_right(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features?feature={of_the_sea()}")
    field = page.get_by_label("Test your own text")
    field.fill("ספינה בים")
    result = page.locator(".result .tokens")
    expect(result).to_contain_text("ם")
    assert field.evaluate("(field) => getComputedStyle(field).direction") == "rtl"
    places = result.evaluate(
        """(tokens) => [...tokens.querySelectorAll("span:not(.special)")]
          .filter((token) => !token.querySelector(".bytes") && token.textContent.trim())
          .map((token) => token.getBoundingClientRect().left)"""
    )
    assert places[0] > places[-1]


def test_no_coloured_sliver_hangs_at_the_end_of_a_line(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features?feature={frequent(site)[0]}")
    page.get_by_role("button", name="More of each context").click()
    pieces = page.locator(".context .tokens span[style]").evaluate_all(
        """(tokens) => tokens.filter((token) => token.textContent.trim())
          .flatMap((token) => [...token.getClientRects()].map((piece) => piece.width))"""
    )
    assert len(pieces) > 100
    assert min(pieces) > 2
    # The space before a word stands outside of its colour.
    starts = page.locator(".context .tokens span[style]").all_text_contents()
    assert not [text for text in starts if text.strip() and text.startswith(" ")]


def test_a_dead_feature_offers_no_steering(site: Site, opened: Opened) -> None:
    never = site.api.search_features(max_frequency=0.0)["features"]
    # Of which no word that it would write, or neighbour, is "never" itself.
    said = {row["feature"]: str(site.api.feature(row["feature"])).lower() for row in never}
    dead = next(feature for feature, words in said.items() if words.count("never") == 1)
    page = opened(f"{site.url}/features?feature={dead}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("never fires")
    expect(page.get_by_role("main").get_by_text("never")).to_have_count(1)
    expect(page.get_by_role("link", name="Steer with it")).to_have_count(0)
    expect(page.get_by_role("link", name="Random feature")).to_be_visible()


def test_intervals_say_their_numbers_and_how_often_it_fires(site: Site, opened: Opened) -> None:
    known = site.api.feature(of_the_sea())
    page = opened(f"{site.url}/features?feature={of_the_sea()}")
    heads = page.locator(".group h3").all_inner_texts()
    assert len(heads) == len([group for group in known["groups"] if group["contexts"]])
    assert heads[0].startswith("Strongest")
    assert heads[-1].startswith("Near misses")
    counts = [re.search(r"([\d,]+) firings", head) for head in heads[1:-1]]
    fired = sum(int(match[1].replace(",", "")) for match in counts if match)
    assert fired == pytest.approx(known["active_tokens"], rel=0.05)


def test_on_a_phone_what_matters_comes_first_and_contexts_are_folded(
    site: Site, opened: Opened
) -> None:
    page = opened(f"{site.url}/features?feature={of_the_sea()}", phone=True)
    tops = [
        box["y"]
        for name in ("Before the threshold", "What it does to the next token", "Where it fires")
        if (box := page.get_by_role("heading", name=name).bounding_box())
    ]
    assert len(tops) == 3
    assert tops == sorted(tops)
    expect(page.locator(".context:visible")).to_have_count(3)
    page.locator(".rest summary").first.tap()
    expect(page.locator(".context:visible")).to_have_count(20)
    page.locator(".group > summary").nth(1).tap()
    expect(page.locator(".context:visible")).to_have_count(25)
    expect(page.locator(".keys")).to_be_hidden()
    # Every number of the list has its place.
    page.goto(f"{site.url}/features")
    row = page.locator("table.features tbody tr").first
    expect(row.locator("td.n")).to_have_count(6)
    for cell in row.locator("td.n .value").all():
        box = cell.bounding_box()
        assert box is not None
        assert box["width"] > 10
        assert box["x"] + box["width"] <= 390


def test_the_numbers_of_the_list_are_seen_at_every_width(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features")
    often = page.locator("td.often .value")
    expect(often).to_have_count(50)
    for width in (1440, 1024, 390, 320):
        page.set_viewport_size({"width": width, "height": 900})
        boxes = often.evaluate_all(
            """(values) => values.map((value) => {
              const box = value.getBoundingClientRect();
              const top = document.elementFromPoint(box.x + 4, box.y + box.height / 2);
              const seen = box.bottom > innerHeight || value.closest("tr").contains(top);
              return [box.width > 15 && box.height > 8, seen, value.textContent.trim() !== ""];
            })"""
        )
        assert all(all(box) for box in boxes), width


def test_few_stops_lead_to_the_end_of_the_contexts(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features?feature={of_the_sea()}")
    stops = 0
    last = page.locator(".groups summary").last
    while not last.evaluate("(last) => last === document.activeElement"):
        page.keyboard.press("Tab")
        stops += 1
        assert stops <= 45  # those of the lab and of notes among them, none for a token


def test_the_users_own_text_is_tested_as_it_is_typed(site: Site, opened: Opened) -> None:
    feature = frequent(site)[3]
    page = opened(f"{site.url}/features?feature={feature}")
    text = "The captain said that it was the last of the letters."
    page.get_by_label("Test your own text").fill(text)
    tested = site.api.test_text(text, feature)
    fired = sum(value > 0 for value in tested["activations"] if value is not None)
    result = page.locator(".result")
    expect(result.locator(".tokens")).to_contain_text(text)
    expect(result.locator("span[data-v]")).to_have_count(fired)
    page.reload()
    expect(page.locator(".result .tokens")).to_contain_text(text)
    page.get_by_role("link", name="Next feature").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"#{feature + 1}")
    expect(page.get_by_label("Test your own text")).to_have_value(text)
    page.get_by_label("Test your own text").fill("word " * 4000)
    expect(page.locator(".result [role=alert]")).to_contain_text("limit")


def test_another_sae_keeps_the_page(site: Site, opened: Opened) -> None:
    other = site.workbench.bundle.sae_names[-1]
    page = opened(f"{site.url}/features?q=the&sort=max_act")
    expect(page.locator("table.features")).to_be_visible()
    page.get_by_label("SAE", exact=True).select_option(other)
    total = site.api.search_features("the", sae=other)["total"]
    expect(status(page)).to_contain_text(f"of {total:,}")
    assert query(page) == {"q": "the", "sort": "max_act", "sae": other}
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("What is inside this model")
    expect(page.get_by_label("SAE", exact=True)).to_have_value(other)
    assert query(page) == {"sae": other}


@pytest.mark.parametrize("width", [1440, 1024, 800, 390, 320])
def test_the_peak_of_each_context_in_the_list_is_seen(
    site: Site, opened: Opened, width: int
) -> None:
    page = opened(site.url + "/features")
    page.set_viewport_size({"width": width, "height": 900})
    hidden = page.locator(".glimpse u").evaluate_all(
        """peaks => peaks.filter((peak) => {
          const box = peak.closest(".glimpse").getBoundingClientRect();
          return [...peak.getClientRects()].some(({ left, right }) =>
            left < box.left - 1 || right > box.right + 1);
        }).map((peak) => peak.closest("tr").textContent)"""
    )
    assert page.locator(".glimpse u").count() > 20
    assert not hidden
