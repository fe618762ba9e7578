"""Hands that are faster than the page, and keys that lead to a place on it."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site
from tests.browser.test_everywhere import shown

Opened = Callable[..., Page]


def hold(page: Page, scripts: str) -> None:
    """Let no script of such an address come until `page.unroute_all()`, which lets go of all."""
    page.route(re.compile(scripts), lambda _: None)


@pytest.mark.parametrize("name", ["overview", "feature", "prompt", "steer", "find", "api"])
def test_a_link_to_a_place_on_the_page_is_no_step_of_the_history(
    site: Site, opened: Opened, name: str
) -> None:
    """Which pages answer by drawing themselves anew: the run or the text would be gone."""
    page = shown(site, opened, name)
    page.evaluate("""() => {
        window.steps = 0;
        addEventListener("popstate", () => window.steps++);
        document.querySelector("main").dataset.same = "yes";
        history.replaceState({ long: { text: "kept" } }, "");
    }""")
    length = page.evaluate("history.length")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    if name == "api":
        page.locator('main a[href="#steer"]').click()
        expect(page).to_have_url(re.compile("#steer$"))
        expect(page.locator("#steer")).to_be_in_viewport()
    page.evaluate("new Promise(r => setTimeout(() => requestAnimationFrame(r)))")
    assert page.evaluate("[steps, history.length]") == [0, length]
    assert page.evaluate("history.state.long.text") == "kept"


def test_what_is_done_before_the_scripts_have_run_is_done_when_they_have(
    site: Site, opened: Opened
) -> None:
    page = opened(site.url)
    hold(page, r"/js/prompt[-.][^/]*js")
    page.goto(site.url + "/prompt", wait_until="commit")
    example = page.locator("[data-example]").first
    text = example.inner_text()
    example.click()
    assert page.get_by_label("Text to analyse").input_value() == ""
    page.unroute_all()
    expect(page.locator("#tokens")).to_contain_text(text)
    # Written, too: the list is searched once it can be.
    hold(page, r"/js/features[-.][^/]*js")
    page.goto(site.url + "/features", wait_until="commit")
    page.locator("#q").fill("ship")
    page.unroute_all()
    expect(page.locator('#results[data-asked*=\'"query": "ship"\']')).to_be_visible()


@pytest.mark.parametrize(
    ("path", "place"),
    [("prompt", "#prompt-text"), ("steer", "#steer-prompt"), ("find", "#positives")],
)
def test_a_text_that_is_written_before_the_scripts_have_run_stays(
    site: Site, opened: Opened, path: str, place: str
) -> None:
    """Scripts write what the address says into fields when they begin."""
    page = opened(site.url)
    hold(page, rf"/js/{path}[-.][^/]*js")
    page.goto(f"{site.url}/{path}", wait_until="commit")
    field = page.locator(place)
    field.fill("The ship sailed.")
    page.unroute_all()
    page.wait_for_load_state()
    expect(field).to_have_value("The ship sailed.")


@pytest.mark.parametrize("how", ["keys", "button"])
def test_what_is_sent_before_the_scripts_have_run_is_sent_when_they_have(
    site: Site, opened: Opened, how: str
) -> None:
    page = opened(site.url)
    hold(page, r"/js/prompt[-.][^/]*js")
    page.goto(f"{site.url}/prompt", wait_until="commit")
    page.locator("#prompt-text").fill("The ship sailed.")
    if how == "keys":
        page.locator("#prompt-text").press("Control+Enter")
    else:
        page.locator("#prompt-form .primary").click()
    page.unroute_all()
    expect(page.locator("#tokens")).to_contain_text("sailed")


def test_a_key_of_the_page_is_pressed_before_the_scripts_have_run(
    site: Site, opened: Opened
) -> None:
    page = opened(site.url)
    hold(page, r"/js/features[-.][^/]*js")
    page.goto(f"{site.url}/features", wait_until="commit")
    expect(page.locator("table.features")).to_be_visible()
    page.keyboard.press("/")
    page.unroute_all()
    expect(page.locator("#q")).to_be_focused()
