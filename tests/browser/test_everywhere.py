"""What holds on every page: the frame around it, its content without a script, its keys, its words
when nothing answers.
"""

import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from app.endpoints import Api
from tests.browser.conftest import DESKTOP, Site
from tests.demo_features import of_the_sea

Opened = Callable[..., Page]
EDITS = quote('[{"feature":3,"mode":"ablate","positions":"all"}]')
ADDRESSES = {
    "overview": ("/", ".card"),
    "list": ("/features", "table.features"),
    "feature": ("/features?feature=5&text=The%20captain", ".result .tokens"),
    "prompt": (
        "/prompt?text=The%20old%20man%20said%3A%20%22no%22&token=3",
        "#tokens [role=button]",
    ),
    "empty prompt": ("/prompt", "#prompt-text"),
    "steer": (f"/steer?prompt=The&tokens=5&edits={EDITS}", "#run-status:has-text('Done')"),
    "api": ("/api", "main h2"),
    "catalog": ("/catalog", "main h2"),
    "blind": ("/blind?rater=Ann&per_sae=3", "#rate .tokens"),
    "find": ("/find?positives=The%20ship%20sailed&negatives=He%20slept", ".by-example li"),
    "map": ("/map", "#map-plot[data-ready]"),
    "lists": ("/lists", "#merge-file"),
    "sql": ("/sql?q=SELECT%20feature,%20signature%20FROM%20features%20LIMIT%205", "table.rows"),
}
MOST_REQUESTS = 12


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
        """() => [...document.querySelectorAll('input, select, textarea, button, a')]
        .filter(e => e.type !== 'hidden')
        .filter(e => !e.labels?.length && !e.ariaLabel && !e.textContent.trim())
        .map(e => e.outerHTML.slice(0, 120))"""
    )
    assert nameless == []


@pytest.mark.parametrize("name", ADDRESSES)
def test_few_requests_bring_a_page(browser: Browser, site: Site, name: str) -> None:
    address, _ = ADDRESSES[name]
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(site.url + address.partition("?")[0])
    page.wait_for_load_state("networkidle")
    page.close()
    # What a page asks of the model is no part of it, nor how it hears of a renewed index later.
    asked = [url for url in asked if not re.search("/gradio_api/|/revision[?]|js/renewed", url)]
    assert len(asked) <= MOST_REQUESTS, "\n".join(asked)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/", "Worth opening"),
        ("/?sae=mlp_out-layer_6-l0_32", "layer 6 · mlp_out"),
        ("/features?q=ship", "signature"),
        (f"/features?feature={of_the_sea()}", f"#{of_the_sea()}"),
        ("/api", "delta_loss"),
        ("/nowhere", "There is no such page"),
    ],
)
def test_the_content_needs_no_script(
    browser: Browser, site: Site, address: str, words: str
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site.url + address)
    expect(page.get_by_role("main")).to_contain_text(words)
    expect(page.locator("#badge")).to_contain_text("check")
    context.close()


def test_nothing_of_gradio_is_seen(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "overview")
    assert "gradio" not in page.locator("body").inner_text().lower()
    assert page.evaluate("Object.keys(window).filter((name) => /gradio/i.test(name))") == []


def test_the_api_is_documented_from_every_page(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "list")
    page.get_by_role("contentinfo").get_by_role("link", name="API").click()
    expect(page.get_by_text("/delta_loss").first).to_be_visible()


# Colours


def colour_of_the_page(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_theme_can_be_chosen_and_is_kept(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "overview", scheme="light")
    light = colour_of_the_page(page)
    button = page.get_by_role("button", name="Colours")
    button.click()
    expect(button).to_have_attribute("aria-label", "Colours: light")
    assert colour_of_the_page(page) == light
    button.click()
    expect(button).to_have_attribute("aria-label", "Colours: dark")
    dark = colour_of_the_page(page)
    assert dark != light
    page.reload()
    assert colour_of_the_page(page) == dark
    button.click()
    expect(button).to_have_attribute("aria-label", "Colours: as the system")
    assert colour_of_the_page(page) == light


def test_a_dark_system_gets_a_dark_page_without_a_script(browser: Browser, site: Site) -> None:
    context = browser.new_context(java_script_enabled=False, color_scheme="dark")
    page = context.new_page()
    page.goto(site.url)
    expect(page.locator("body")).to_have_css("background-color", "rgb(18, 20, 22)")
    context.close()


def test_the_front_end_lives_without_storage(browser: Browser, site: Site) -> None:
    """As in another site's frame, where touching what a browser keeps throws."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script(
        """Object.defineProperty(window, 'localStorage', {
          get() { throw new DOMException('denied', 'SecurityError'); } });
        Object.defineProperty(Document.prototype, 'cookie', {
          get() { throw new DOMException('denied', 'SecurityError'); },
          set() { throw new DOMException('denied', 'SecurityError'); } });"""
    )
    page.goto(site.url)
    button = page.get_by_role("button", name="Colours")
    button.click()
    button.click()
    expect(button).to_have_attribute("aria-label", "Colours: dark")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_label("SAE", exact=True).select_option("mlp_out-layer_6-l0_32")
    expect(page.get_by_role("main")).to_contain_text("at layer 6 · mlp_out")
    page.close()
    assert errors == []


# Addresses


@pytest.mark.parametrize(
    "path", ["/nowhere", "/features/", "/a/b/c.html", "/static/older/js/no.js"]
)
def test_an_unknown_page_is_in_the_apps_frame_and_leads_back(
    browser: Browser, site: Site, path: str
) -> None:
    page = browser.new_page(viewport=DESKTOP)  # pyright: ignore[reportArgumentType]
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("response", lambda answer: failed.append(answer.url) if answer.status != 200 else None)
    answer = page.goto(site.url + path)
    if path.startswith("/static"):
        # What is asked for by a script or a sheet is answered in one sentence.
        assert answer is not None
        assert answer.json() == {"detail": "There is no such file."}
    else:
        expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
        expect(page.locator("#badge")).to_contain_text("checked")
        expect(page.locator(".top")).to_have_css("display", "flex")
        page.get_by_role("main").get_by_role("link", name="Features").click()
        expect(page.locator("table.features")).to_be_visible()
    assert failed == [site.url + path]
    page.close()


def test_programs_get_a_sentence_for_an_unknown_path(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "overview")
    answer = page.request.get(f"{site.url}/nowhere", headers={"accept": "application/json"})
    assert (answer.status, answer.json()) == (404, {"detail": "The app has no such address."})


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/?sae=nothing", "There is no SAE “nothing”"),
        ("/features?feature=99999", "There is no feature 99999"),
        ("/features?feature=many", "feature"),
    ],
)
def test_an_address_that_means_nothing_says_why(
    browser: Browser, site: Site, address: str, words: str
) -> None:
    page = browser.new_page()
    answer = page.goto(site.url + address)
    assert answer is not None
    assert answer.status in (404, 422)
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text(words)
    # The SAE that there is stays chosen, and the navigation works.
    page.get_by_role("navigation").get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", name="What is inside")).to_be_visible()
    page.close()


def test_another_sae_is_shown_in_place_and_stays_in_links(site: Site, opened: Opened) -> None:
    other = site.workbench.bundle.sae_names[-1]
    page = shown(site, opened, "overview")
    page.evaluate("window.sameDocument = true")
    page.get_by_label("SAE", exact=True).select_option(other)
    expect(page.locator("main .sub")).to_contain_text("layer 6 · mlp_out")
    expect(page).to_have_url(f"{site.url}/?sae={other}")
    for link in page.locator("header a[data-page-link]").all():
        assert f"sae={other}" in (link.get_attribute("href") or "")
    page.go_back()
    expect(page.locator("main .sub")).to_contain_text("layer 4 · resid_post")
    expect(page.get_by_label("SAE", exact=True)).to_have_value(site.workbench.sae_name())
    assert page.evaluate("window.sameDocument")


# Keys


def test_the_skip_link_and_the_keyboard_reach_the_content(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "overview")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    word = page.locator("#living-text [aria-pressed=true]")
    expect(word).to_be_visible()
    page.keyboard.press("Tab")
    expect(word).to_be_focused()


def test_a_token_list_is_one_stop_whose_tokens_speak_their_values(
    site: Site, opened: Opened
) -> None:
    page = shown(site, opened, "overview")
    group = page.locator(".card .tokens").first
    token = group.locator("[data-v]").first
    group.focus()
    page.keyboard.press("ArrowRight")
    expect(token).to_be_focused()
    value = token.get_attribute("data-v") or ""
    name = token.get_attribute("aria-label") or ""
    assert token.inner_text().strip() in name
    assert name.endswith(value)
    expect(page.locator("#tip")).to_have_text(name)
    # Tab leaves the group, from whichever token; Shift and Tab come back to it.
    page.keyboard.press("Tab")
    expect(page.locator(".card h3 a").nth(1)).to_be_focused()
    expect(token).not_to_have_attribute("role", "img")
    page.keyboard.press("Shift+Tab")
    expect(group).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(page.locator(".card h3 a").first).to_be_focused()


def test_the_bars_of_a_chart_are_one_stop_and_lead_on(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "overview")
    page.locator(".chart svg").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    bar = page.locator(".chart .step").nth(2)
    expect(bar).to_be_focused()
    expect(page.locator("#tip")).to_have_text(bar.get_attribute("data-tip") or "")
    page.keyboard.press("Enter")
    expect(page.locator("table.features")).to_be_visible()
    assert "min=" in page.url


def test_escape_and_scrolling_away_hide_the_tip(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "overview")
    # What the sentence is answered moves all below it away from under the pointer.
    expect(page.locator("#living-answer .living-next li")).to_have_count(4)
    page.locator(".stats button").first.hover()
    expect(page.locator("#tip.on")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator("#tip.on")).to_have_count(0)
    page.locator(".stats button").nth(1).hover()
    expect(page.locator("#tip.on")).to_have_count(1)
    page.mouse.wheel(0, 300)
    expect(page.locator("#tip.on")).to_have_count(0)


def test_labels_of_an_axis_stay_within_their_card(site: Site, opened: Opened) -> None:
    page = shown(site, opened, "overview")
    for width in (1440, 1024, 720, 390, 320):
        page.set_viewport_size({"width": width, "height": 800})
        boxes = page.evaluate(
            """() => [...document.querySelectorAll('.tick')]
            .filter((tick) => tick.getClientRects().length)
            .map((tick) => {
              const range = document.createRange();
              range.selectNodeContents(tick);
              const [text, axis] = [range, tick.parentElement]
                .map((each) => each.getBoundingClientRect());
              return [text.left - axis.left, axis.right - text.right, text.left, text.right];
            })"""
        )
        assert len(boxes) >= 2, width
        assert all(left >= -1 and right >= -1 for left, right, *_ in boxes), (width, boxes)
        ends = [0.0, *(box[3] for box in boxes)]
        assert all(box[2] > end for box, end in zip(boxes, ends, strict=False)), (width, boxes)


# When nothing answers


@pytest.fixture
def page_of_a_server_that_stops(browser: Browser, site: Site) -> Iterator[Page]:
    """The overview, whose requests the test lets fail; the console may complain of that."""
    page = browser.new_page()
    page.set_default_timeout(20_000)
    page.goto(site.url)
    expect(page.locator(".card").first).to_be_visible()
    yield page
    page.close()


def refuse(route: Route) -> None:
    route.abort("connectionrefused")


def test_a_server_that_is_gone_is_noticed_and_what_is_there_stays(
    page_of_a_server_that_stops: Page,
) -> None:
    page = page_of_a_server_that_stops
    notice = page.locator("#gone")
    expect(notice).to_be_hidden()
    page.route("**/*", refuse)
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    expect(notice).to_be_visible()
    expect(notice).to_contain_text("does not answer")
    # No link leads to the browser's own page; the content is still there.
    page.get_by_role("link", name="Features", exact=True).click()
    expect(page.locator(".card").first).to_be_visible()
    expect(page.get_by_role("heading", name="What is inside")).to_be_visible()
    page.unroute("**/*", refuse)
    expect(notice).to_be_hidden()
    page.get_by_role("link", name="Features", exact=True).click()
    expect(page.locator("table.features")).to_be_visible()


def test_moving_within_a_page_whose_server_is_gone_keeps_the_page(
    page_of_a_server_that_stops: Page, site: Site
) -> None:
    page = page_of_a_server_that_stops
    page.route("**/*", refuse)
    page.get_by_label("SAE", exact=True).select_option(site.workbench.bundle.sae_names[-1])
    expect(page.locator("#gone")).to_be_visible()
    expect(page.locator("main .sub")).to_contain_text("layer 4 · resid_post")
    # It asks by itself too, but as one that waits: it would be over before the button is pressed.
    with page.expect_request(lambda request: request.url.endswith("&again=1")):
        page.get_by_role("button", name="Ask now").click()
    page.unroute("**/*", refuse)
    expect(page.locator("#gone")).to_be_hidden()


# What comes from outside


def test_hostile_corpus_is_shown_as_text(hostile_site: Site, opened: Opened) -> None:
    rows = Api(hostile_site.workbench).search_features(limit=64)["features"]
    alive = [row["feature"] for row in rows if row["frequency"] > 0]
    page = opened(hostile_site.url)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    seen = ""
    for feature in alive[:8]:
        page.goto(f"{hostile_site.url}/features?feature={feature}")
        expect(page.get_by_role("heading", level=1)).to_contain_text(f"#{feature}")
        seen += page.locator("#content").inner_text()
        assert page.locator("#content img").count() == 0
    assert "onerror" in seen, "the tiny corpus's hostile text is in none of these contexts"
