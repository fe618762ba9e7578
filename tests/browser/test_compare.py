"""The prompt page with a second text, and with several SAEs switched."""

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Site, query

Opened = Callable[..., Page]
A = "The king opened the door of his house, and he said to them that"
B = "The queen opened the door of her old house, and she said to them that"


def compared(site: Site, opened: Opened, more: str = "", **how: Any) -> Page:
    page = opened(f"{site.url}/prompt?text={quote(A)}&other={quote(B)}{more}", **how)
    expect(page.locator("#comparison .compared tbody tr").first).to_be_visible()
    return page


def tokens_of(page: Page, side: str) -> Locator:
    return page.get_by_role("group", name=f"Tokens of text {side}").locator("[data-pair]")


def rows_of(page: Page) -> Locator:
    return page.locator("#comparison .compared tbody tr")


def bars(page: Page) -> Locator:
    return page.locator("#comparison .next-bars > li")


def nats(value: float) -> str:
    """Three significant digits, as js/numbers.js writes them."""
    text = f"{abs(value):#.3g}".rstrip(".")
    return f"−{text}" if value < 0 else text


def other_pair(answer: dict[str, Any]) -> dict[str, Any]:
    return next(pair for pair in answer["pairs"] if not pair["same"])


def test_a_second_text_is_opened_and_compared(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/prompt?text={quote(A)}")
    expect(page.locator("#tokens span").first).to_be_visible()
    page.get_by_role("button", name="Compare with another text").click()
    field = page.get_by_label("Text B, to compare with")
    expect(field).to_be_focused()
    expect(field).to_have_value(A)
    assert query(page) == {"text": A, "other": A}
    field.fill(B)
    page.get_by_role("button", name="Compare", exact=True).click()
    answer = site.api.compare(A, B, limit=0)
    expect(rows_of(page)).to_have_count(40)
    assert query(page) == {"text": A, "other": B}
    expect(page.locator("#result")).to_be_hidden()
    kept = [pair for pair in answer["pairs"] if pair["a"]]
    for side in "AB":
        expect(tokens_of(page, side)).to_have_count(len(kept))
    expect(page.locator("#comparison .texts .tokens .only-here")).to_have_text(["her"])
    for value in ("a", "b", "both"):
        count = sum(row["fires_in"] == value for row in answer["features"])
        words = {"a": "Only A", "b": "Only B", "both": "Both"}[value]
        expect(page.get_by_role("radio", name=f"{words} {count:,}")).to_be_visible()
    end = answer["predictions"][-1]
    expect(page.locator("#comparison .numbers dd").first).to_have_text(nats(end["kl"]))
    expect(bars(page)).to_have_count(len(end["tokens"]))

    page.get_by_role("button", name="Compare no more").click()
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#comparison")).to_be_hidden()
    assert query(page) == {"text": A}
    page.go_back()
    expect(rows_of(page)).to_have_count(40)


def test_a_pair_a_tab_and_ticks_stand_in_the_address(site: Site, opened: Opened) -> None:
    page = compared(site, opened)
    pair = other_pair(site.api.compare(A, B, limit=0))
    chosen = tokens_of(page, "B").locator(f"xpath=self::*[@data-pair='{pair['a']}']")
    chosen.click()
    answer = site.api.compare(A, B, token=pair["a"], limit=0)
    expect(chosen).to_have_attribute("aria-pressed", "true")
    expect(chosen).to_be_focused()
    expect(page.get_by_role("heading", name="Features at")).to_contain_text("king")
    first = answer["features"][0]
    expect(rows_of(page).first).to_contain_text(f"#{first['feature']}")
    expect(page.locator("#comparison .numbers dd").first).to_have_text(nats(pair["kl"]))

    page.locator("label", has_text="Only B").click()
    only = [row for row in answer["features"] if row["fires_in"] == "b"]
    expect(rows_of(page)).to_have_count(min(40, len(only)))
    assert len(only) > 2
    ticked = [row["feature"] for row in only[:2]]
    for feature in ticked:
        tick = page.get_by_role("checkbox", name=f"Patch #{feature} ")
        tick.check()
        expect(tick).to_be_focused()
    result = site.api.patch(A, B, ticked, token=pair["a"])
    here = result["predictions"][0]
    numbers = page.locator("#comparison .numbers dd")
    expect(numbers.nth(1)).to_have_text(nats(here["kl_patched"]))
    expect(numbers.nth(3)).to_have_text(nats(here["moved"]))
    expect(bars(page)).to_have_count(len(here["tokens"]))
    expect(bars(page).first.locator(".next-line")).to_have_count(3)
    expect(page.locator(".patched tbody tr")).to_have_count(3)
    expect(page.locator(".patched")).to_contain_text("beyond the sum")
    page.get_by_text("At the end", exact=True).click()
    end = result["predictions"][1]
    expect(numbers.first).to_have_text(nats(end["kl"]))
    state = {
        "text": A,
        "other": B,
        "pair": str(pair["a"]),
        "only": "b",
        "patch": ",".join(map(str, ticked)),
        "at": "end",
    }
    assert query(page) == state

    page.reload()
    expect(page.locator(".patched tbody tr")).to_have_count(3)
    expect(page.get_by_role("radio", name="At the end")).to_be_checked()
    expect(page.get_by_role("checkbox", name=f"Patch #{ticked[0]} ")).to_be_checked()
    assert query(page) == state
    page.get_by_role("button", name=f"Patch #{ticked[0]} no more").click()
    expect(page.locator(".patched tbody tr")).to_have_count(1)
    expect(page.get_by_role("checkbox", name=f"Patch #{ticked[0]} ")).not_to_be_checked()
    page.go_back()
    expect(page.locator(".patched tbody tr")).to_have_count(3)
    page.get_by_role("button", name="Over all aligned tokens").click()
    expect(page.get_by_role("heading", name="Features over all aligned tokens")).to_be_focused()
    assert "pair" not in query(page)


def test_tokens_are_walked_by_keys_and_speak_what_they_are(site: Site, opened: Opened) -> None:
    page = compared(site, opened)
    pair = other_pair(site.api.compare(A, B, limit=0))
    tokens = tokens_of(page, "A")
    assert tokens.evaluate_all("all => all.filter(t => t.tabIndex === 0).length") == 1
    token = tokens.locator(f"xpath=self::*[@data-pair='{pair['a']}']")
    said = token.get_attribute("aria-label") or ""
    assert "king" in said
    assert "in place of “ queen”" in said
    assert f"differ by {nats(pair['kl'])} nats" in said
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(tokens.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(tokens.nth(1)).to_be_focused()
    # A second time it is all tokens again.
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Features over all aligned tokens")).to_be_visible()


def test_all_that_are_listed_are_patched_at_once(site: Site, opened: Opened) -> None:
    pair = other_pair(site.api.compare(A, B, limit=0))
    page = compared(site, opened, f"&pair={pair['a']}&only=b")
    listed = rows_of(page).count()
    page.get_by_role("checkbox", name="Patch all that are listed").check()
    expect(page.locator(".patched tbody tr")).to_have_count(listed + 1)
    page.get_by_role("checkbox", name="Patch all that are listed").uncheck()
    expect(page.locator(".patched")).to_have_count(0)


def test_a_link_that_means_nothing_and_a_text_that_is_refused(site: Site, opened: Opened) -> None:
    page = compared(site, opened, "&pair=999&only=x&at=7")
    expect(page.get_by_role("heading", name="Features over all aligned tokens")).to_be_visible()
    expect(page.get_by_role("radio", name="All ")).to_be_checked()
    field = page.get_by_label("Text B, to compare with")
    field.fill(" ")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("The other text is empty: type some text first.")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    field.fill(B)
    field.press("Control+Enter")
    expect(page.locator("#comparison")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def too_wide(page: Page) -> list[str]:
    """What reaches beyond the window's right edge."""
    return page.evaluate(
        """() => [...document.querySelectorAll("body *")]
          .filter(node => node.getBoundingClientRect().right > innerWidth + 1)
          .map(node => `${node.tagName}.${node.className} ${node.textContent.slice(0, 30)}`)"""
    )


def test_on_a_phone_bars_stay_in_sight_while_features_are_ticked(
    site: Site, opened: Opened
) -> None:
    page = compared(site, opened, phone=True)
    assert too_wide(page) == []
    tick = page.locator("[data-tick]").nth(12)
    tick.scroll_into_view_if_needed()
    tick.check()
    expect(page.locator(".patched")).to_have_count(1)
    panel, row = page.locator("#comparison .predicted").bounding_box(), tick.bounding_box()
    assert panel is not None
    assert row is not None
    assert -1 <= panel["y"] <= 40
    assert row["y"] >= panel["y"] + panel["height"]


# Several SAEs


def costs(page: Page) -> list[list[str]]:
    rows = page.locator("#switch tbody tr")
    return [row.locator("th, td").all_inner_texts() for row in rows.all()]


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


@pytest.mark.parametrize("phone", [False, True])
def test_saes_are_switched_and_the_address_keeps_how(
    site: Site, opened: Opened, phone: bool
) -> None:
    page = opened(f"{site.url}/prompt?text={quote(A)}", phone=phone)
    page.get_by_text("Splice switch").click()
    rows = page.locator("#switch tbody tr")
    answer = site.api.splice(A)
    expect(rows).to_have_count(len(answer["each"]) + 3)
    written = costs(page)
    assert written[0][1:] == [f"{answer['none']['loss']:.3f}", "+0.000", "0.000"]
    for row, each in zip(written[1:], [*answer["each"], answer["all"]], strict=False):
        assert row[1:] == [f"{each['loss']:.3f}", signed(each["delta"]), f"{each['kl']:.3f}"]
    assert written[-1][2] == signed(answer["beyond"]["delta"])

    names = site.workbench.bundle.sae_names
    sets = page.locator("#switch fieldset")
    first, last = (sets.filter(has=page.locator(f"[name='switch-{names[i]}']")) for i in (0, -1))
    for each, state in ((first, "Off"), (last, "Edited, error kept")):
        each.get_by_text(state, exact=True).click()
    last.get_by_label("features").fill("12, 40")
    last.get_by_label("What is done").select_option("scale")
    last.get_by_label("How much").fill("3")
    page.keyboard.press("Tab")
    expect(page).to_have_url(re.compile("scale%22%2C3"))
    states = json.loads(query(page)["switch"])
    assert states[0] == [names[0], "off"]
    assert states[-1] == [names[-1], "edited", [12, 40], "scale", 3]
    page.reload()
    expect(last.get_by_label("features")).to_have_value("12, 40")
    edits = [{"sae": names[-1], "feature": f, "mode": "scale", "strength": 3} for f in (12, 40)]
    given = [{"sae": names[0], "state": "off"}, {"sae": names[-1], "state": "edited"}]
    given += [{"sae": name, "state": "spliced"} for name in names[1:-1]]
    edited = site.api.splice(A, given, edits)
    cost = next(each for each in edited["each"] if each["sae"] == names[-1])
    expect(page.locator("#switch tbody")).to_contain_text(signed(cost["delta"]))
    assert too_wide(page) == []

    last.get_by_label("features").fill("999999")
    page.keyboard.press("Tab")
    expect(page.locator("#switch").get_by_role("alert")).to_contain_text("no feature 999999")
    page.get_by_text("Splice switch").click()
    expect(page).not_to_have_url(re.compile("switch="))
