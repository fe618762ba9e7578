"""Events and answers in another order than usual: a key right after another, a step on while
something waits, an answer that comes after a later one. Each page must end as the last thing that
was done says.
"""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Site, query

Opened = Callable[..., Page]
JOIN = "**/gradio_api/queue/join"
PROMPT = "The old man walked into the"


class Held:
    """The first question that a page asks from now on, at an address with `at` in it: the server
    hears of it when it is let go.
    """

    def __init__(self, page: Page, at: str = "") -> None:
        self.routes: list[Route] = []
        self._page, self._at = page, at
        page.route(JOIN, self._take)

    def _take(self, route: Route) -> None:
        if self.routes or self._at not in route.request.frame.url:
            route.continue_()
        else:
            self.routes.append(route)

    def wait(self) -> None:
        """Until it has been asked."""
        for _ in range(200):
            if self.routes:
                return
            self._page.wait_for_timeout(50)
        raise AssertionError("nothing was asked")

    def let_go(self) -> None:
        self.routes[0].continue_()


def test_a_button_that_copies_twice_gets_its_own_words_back(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/steer")
    page.locator("#json summary").click()
    button = page.locator("#json-copy")
    words = button.inner_text()
    page.clock.install()
    button.click()
    expect(button).to_have_text("Copied")
    page.clock.run_for(1000)
    button.click()
    page.clock.run_for(5000)
    expect(button).to_have_text(words)


def test_a_feature_that_is_opened_right_after_a_key_stays_open(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features")
    link = page.locator("main td a[href*='feature=']").first
    link.hover()
    expect(page.locator("#glance")).to_be_visible()  # what links can do is there
    number = link.inner_text().removeprefix("#")
    page.evaluate("""() => {
        const field = document.querySelector("input[name=q]");
        field.value = "sea";
        field.dispatchEvent(new Event("input", { bubbles: true }));
        document.querySelector("main td a[href*='feature=']").click();
    }""")
    expect(page.locator(f"[data-view][data-feature='{number}']")).to_be_attached()
    page.wait_for_timeout(800)
    assert query(page)["feature"] == number
    expect(page.locator(f"[data-view][data-feature='{number}']")).to_be_attached()


def test_a_threshold_stays_with_its_feature_and_a_text_goes_on_to_the_next(
    site: Site, opened: Opened, feature: int
) -> None:
    page = opened(f"{site.url}/features?feature={feature}")
    expect(page.locator("[data-lab] [data-reading]")).to_contain_text("Its own threshold")
    page.evaluate("""() => {
        const slider = document.querySelector("[data-lab] input[type=range]");
        slider.value = slider.max;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        const field = document.querySelector("form[data-test] [name=text]");
        field.value = "the sea";
        field.dispatchEvent(new Event("input", { bubbles: true }));
        document.getElementById("next").click();
    }""")
    expect(page.locator(f"[data-view][data-feature='{feature + 1}']")).to_be_attached()
    page.wait_for_timeout(800)
    assert query(page)["feature"] == str(feature + 1)
    assert "threshold" not in query(page)
    expect(page.locator("[data-lab] [data-reading]")).to_contain_text("Its own threshold")
    expect(page.locator("form[data-test] [name=text]")).to_have_value("the sea")


def test_enter_takes_the_best_of_the_words_that_stand_there(site: Site, opened: Opened) -> None:
    best = {
        words: site.api.search_features(query=words, limit=1)["features"][0]["feature"]
        for words in ("king", "money")
    }
    assert best["king"] != best["money"]
    page = opened(f"{site.url}/steer")
    page.get_by_role("button", name="Add a feature").click()
    field = page.get_by_label("Feature: number, or words")
    field.fill("king")
    expect(page.locator(".signature")).to_contain_text(f"Enter takes #{best['king']} ")
    field.evaluate("""(field) => {
        field.value = "money";
        field.dispatchEvent(new Event("input", { bubbles: true }));
        field.dispatchEvent(
            new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
    }""")
    expect(field).to_have_value(f"#{best['money']}")


def test_a_step_back_opens_nothing_of_the_page_that_was_left(
    site: Site, opened: Opened, feature: int
) -> None:
    edits = quote(json.dumps([{"feature": feature, "mode": "set", "strength": 1}]))
    page = opened(f"{site.url}/steer?prompt={quote(PROMPT)}&edits={edits}&tokens=8")
    status = page.locator("#run-status")
    expect(status).to_contain_text("Done: 8 tokens")
    held = Held(page)
    page.evaluate("""() => {
        history.pushState({}, "", `${location.href}&ladder=0`);
        dispatchEvent(new PopStateEvent("popstate"));
    }""")
    held.wait()
    page.evaluate("history.back()")
    page.wait_for_function("() => !location.search.includes('ladder')")
    expect(status).to_contain_text("Done: 8 tokens")
    held.let_go()
    page.wait_for_timeout(500)
    expect(page.locator("#ladder")).to_be_hidden()
    assert "ladder" not in query(page)


def test_finding_a_strength_anew_is_not_said_to_have_stopped(
    site: Site, opened: Opened, feature: int
) -> None:
    edits = quote(json.dumps([{"feature": feature, "mode": "set", "strength": 1}]))
    page = opened(
        f"{site.url}/steer?prompt={quote(PROMPT)}&edits={edits}&tokens=4&ladder=0&ladder_tokens=60"
    )
    expect(page.locator("#rungs li").first).to_be_visible(timeout=60_000)
    said = page.evaluate("""async () => {
        const status = document.getElementById("ladder-status");
        const words = [];
        new MutationObserver(() => words.push(status.textContent))
            .observe(status, { childList: true, characterData: true, subtree: true });
        document.getElementById("ladder-form").requestSubmit();
        await new Promise((resolve) => setTimeout(resolve, 400));
        return words;
    }""")
    assert "Stopped." not in said
    assert said


def test_what_is_listed_on_the_map_stays_when_a_search_is_answered(
    site: Site, opened: Opened
) -> None:
    page = opened(f"{site.url}/map")
    expect(page.locator("#map-plot[data-ready]")).to_be_attached(timeout=60_000)
    held = Held(page)
    page.locator("#map-search").fill("sea")
    page.locator("#map-search").press("Enter")
    held.wait()
    page.locator("#map-in-view").click()
    count = page.locator("#map-count")
    expect(count).to_contain_text("are listed")
    listed = count.inner_text()
    held.let_go()
    expect(page.locator("#map-status")).to_contain_text("Marked with rings")
    expect(page.locator("#map-status")).not_to_contain_text("listed below")
    page.wait_for_timeout(300)
    expect(count).to_have_text(listed)


def test_controls_of_the_map_wait_for_the_map(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/")
    # Before it the overview may ask something, too, until it is left.
    held = Held(page, at="/map")
    page.goto(f"{site.url}/map")
    held.wait()
    expect(page.locator("#map-tools")).to_have_attribute("inert", "")
    page.locator("#map-colour").select_option("source")
    held.let_go()
    expect(page.locator("#map-plot[data-ready]")).to_be_attached(timeout=60_000)
    expect(page.locator("#map-tools")).not_to_have_attribute("inert", "")
    expect(page.locator("#map-legend .words").first).not_to_contain_text("%")
    assert query(page)["colour"] == "source"


def test_tokens_of_the_prompt_are_those_of_the_last_question(
    site: Site, opened: Opened, feature: int
) -> None:
    edits = quote(json.dumps([{"feature": feature, "mode": "set", "positions": [1]}]))
    page = opened(f"{site.url}/steer?prompt={quote('The sea')}&edits={edits}&tokens=2")
    expect(page.locator("#run-status")).to_contain_text("Done")
    tokens = page.locator(".edit .numbered")
    expect(tokens).to_contain_text("sea")
    held = Held(page)
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("The king")
    held.wait()
    prompt.fill("The money")
    expect(tokens).to_contain_text("money")
    held.let_go()
    page.wait_for_timeout(800)
    expect(tokens).to_contain_text("money")


def test_a_prediction_that_was_refused_is_asked_for_again(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/prompt?text={quote('The old man walked into the sea')}&token=3")
    part = page.locator("section.next")
    expect(part.locator(".next-bars")).to_be_visible()
    sentence = "Many people wait: try again in a minute."

    refused = {"msg": "process_completed", "success": False, "output": {"error": sentence}}
    page.route(JOIN, lambda route: route.fulfill(json={}))
    page.route(
        "**/queue/data*",
        lambda route: route.fulfill(
            body=f"data: {json.dumps(refused)}\n\n", content_type="text/event-stream"
        ),
    )
    token = page.locator("#tokens [data-i='4']")
    token.click()
    expect(part.get_by_role("alert")).to_have_text(sentence)
    page.unroute_all()
    page.locator("#tokens [data-i='3']").click()
    expect(part.get_by_role("alert")).to_have_count(0)
    token.click()
    expect(part.get_by_role("alert")).to_have_count(0)
    expect(part.locator(".next-bars")).to_be_visible()


def test_what_was_found_by_example_is_not_taken_for_another_saes(
    site: Site, opened: Opened
) -> None:
    page = opened(f"{site.url}/find?positives=the+sea")
    expect(page.locator("#found")).to_be_visible()
    page.locator("#positives").fill("")
    options: Any = page.locator("#sae option").evaluate_all("all => all.map(e => e.value)")
    page.locator("#sae").select_option(options[1])
    expect(page.locator("#found")).to_be_hidden()
