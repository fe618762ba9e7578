"""Steering: streaming, stopping, settings as a link and as JSON."""

import json
import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site, query

Opened = Callable[..., Page]
PROMPT = "The old man walked into the"


def link(site: Site, edits: object, **more: object) -> str:
    rest = "".join(f"&{name}={value}" for name, value in more.items())
    return f"{site.url}/steer?prompt={quote(PROMPT)}&edits={quote(json.dumps(edits))}{rest}"


def texts(page: Page, box: str) -> str:
    """A continuation as it stands there, without the prompt before it."""
    whole = page.locator(box).text_content() or ""
    return whole.removeprefix(page.locator(f"{box} .given").text_content() or "")


def test_two_continuations_stream_side_by_side(site: Site, opened: Opened, feature: int) -> None:
    page = opened(f"{site.url}/steer")
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_role("button", name="Add a feature").click()
    page.get_by_label("Feature: number, or words").fill(str(feature))
    summary = site.api.search_features(query=f"#{feature}")["features"][0]
    expect(page.locator(".signature")).to_contain_text(summary["signature"])
    page.get_by_label("Strength", exact=True).fill("2")
    page.get_by_label("new tokens").fill("25")
    page.get_by_role("button", name="Generate").click()
    status = page.locator("#run-status")
    expect(status).to_contain_text("Done: 25 tokens")
    edit = {"feature": feature, "mode": "set", "strength": 2, "positions": "continuation"}
    run = site.api.steer(PROMPT, [edit], max_new_tokens=25, temperature=0.8, seed=0)
    for box, arm in (("#base", "base"), ("#with-edits", "steered")):
        shown = "".join(row["text"] for row in run[arm]).replace("\n", "↵")
        assert texts(page, box) == shown
        expect(page.locator(f"{box} .given")).to_have_text(PROMPT)
    values = page.locator("#with-edits .new").evaluate_all("all => all.map(e => e.dataset.v)")
    assert len(values) == 25
    assert all(value.startswith(f"#{feature}: ") for value in values)
    asked = query(page)
    assert json.loads(asked["edits"]) == [edit]
    assert (asked["prompt"], asked["tokens"]) == (PROMPT, "25")


def test_stop_stops_and_nothing_arrives_afterwards(
    site: Site, opened: Opened, feature: int
) -> None:
    edits = [{"feature": feature, "mode": "add", "strength": 1, "positions": "all"}]
    for _ in range(3):
        page = opened(link(site, edits, tokens=200))
        expect(page.locator("#base .new").nth(3)).to_be_attached()
        page.get_by_role("button", name="Stop").click()
        status = page.locator("#run-status")
        expect(status).to_contain_text("Stopped")
        before = (status.inner_text(), page.locator("#base .new").count())
        assert before[1] < 200
        # The model is free again: an analysis goes through, and the words have stayed.
        page.get_by_label("new tokens").fill("3")
        page.get_by_role("button", name="Generate").click()
        expect(status).to_contain_text("Done: 3 tokens")
        page.close()


def test_a_link_runs_again_with_the_same_result(site: Site, opened: Opened, feature: int) -> None:
    edits = [{"feature": feature, "mode": "set", "strength": 1.5, "positions": "generated"}]
    address = link(site, edits, tokens=12, temperature=0.5, seed=7)
    results = []
    for _ in range(2):
        page = opened(address)
        expect(page.locator("#run-status")).to_contain_text("Done")
        results.append((texts(page, "#base"), texts(page, "#with-edits")))
        expect(page.get_by_label("seed")).to_have_value("7")
        expect(page.get_by_label("temperature")).to_have_value("0.5")
        expect(page.get_by_label("Where")).to_have_value("generated")
    assert results[0] == results[1]
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def test_settings_travel_as_json(site: Site, opened: Opened, feature: int) -> None:
    page = opened(f"{site.url}/steer")
    page.get_by_text("Settings as JSON").first.click()
    box = page.get_by_label("Settings as JSON")
    given = {
        "prompt": "Once upon a time",
        "edits": [
            {"feature": feature, "mode": "scale", "strength": 0.5, "positions": [1, 2]},
            {"feature": feature + 1, "mode": "ablate", "positions": "prompt"},
        ],
        "max_new_tokens": 9,
        "temperature": 0,
        "seed": 3,
    }
    box.fill(json.dumps(given))
    page.get_by_role("button", name="Use these").click()
    expect(page.locator(".edit")).to_have_count(2)
    expect(page.get_by_label("Token numbers").first).to_have_value("1, 2")
    again = json.loads(box.input_value())
    assert again.pop("sae") == site.workbench.bundle.sae_names[0]
    assert again == given
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#run-status")).to_contain_text("Done: 9 tokens")
    expect(page.locator("#edit-summary")).to_contain_text(f"#{feature + 1} switched off")
    box.fill("{not json")
    page.get_by_role("button", name="Use these").click()
    expect(page.locator("#json").get_by_role("alert")).to_contain_text("not JSON")
    expect(page.locator(".edit")).to_have_count(2)


def test_an_example_is_one_click(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/steer")
    page.locator(".idea").first.click()
    expect(page.locator("#run-status")).to_contain_text("Done", timeout=60_000)
    assert texts(page, "#base") != texts(page, "#with-edits")
    expect(page.locator("#ideas")).to_be_hidden()


def test_a_prompt_too_long_for_the_model_and_for_a_link_gets_one_sentence(
    site: Site, opened: Opened, feature: int
) -> None:
    edits = [{"feature": feature, "mode": "ablate", "positions": "all"}]
    page = opened(link(site, edits, tokens=3))
    expect(page.locator("#run-status")).to_contain_text("Done")
    long = "long " * 20_000
    page.get_by_label("Prompt", exact=True).fill(long)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("limit")
    assert len(page.url) < 2000
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied without the long prompt")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(long)
    expect(page.get_by_role("alert")).to_contain_text("limit")


def test_edits_keep_their_sae_when_the_page_changes_its_own(
    site: Site, opened: Opened, feature: int
) -> None:
    first, other = site.workbench.bundle.sae_names[0], site.workbench.bundle.sae_names[-1]
    edits = [{"feature": feature, "mode": "set", "strength": 1, "positions": "all"}]
    page = opened(link(site, edits, tokens=3))
    expect(page.locator("#run-status")).to_contain_text("Done")
    expect(page.locator(".signature")).not_to_be_empty()
    signature = page.locator(".signature").inner_text()
    page.get_by_label("SAE", exact=True).select_option(other)
    expect(page.locator(".signature")).to_have_text(signature)
    expect(page.get_by_label("SAE of this edit")).to_have_value(first)
    assert json.loads(query(page)["edits"]) == [edits[0] | {"sae": first}]
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#run-status")).to_contain_text("Done")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_words_in_the_picker_are_a_search_and_never_a_run(
    site: Site, opened: Opened, feature: int
) -> None:
    edits = [{"feature": feature, "mode": "set", "strength": 1, "positions": "all"}]
    page = opened(link(site, edits, tokens=3))
    expect(page.locator("#run-status")).to_contain_text("Done")
    before = texts(page, "#with-edits")
    field = page.get_by_label("Feature: number, or words")
    field.fill("qqqq")
    expect(page.locator(".signature")).to_have_text("No feature matches “qqqq”.")
    field.press("Enter")
    expect(field).to_have_value("qqqq")
    field.fill("ship")
    expect(page.locator(".signature")).to_contain_text("Enter takes #")
    field.press("Enter")
    expect(field).to_have_value(re.compile(r"^#\d+$"))
    taken = int(field.input_value().removeprefix("#"))
    words = site.api.feature(taken)["signature"].split("→")[0]
    assert "ship" in re.findall(r"[a-z-]+", words.lower())
    expect(page.get_by_label("Strength", exact=True)).to_be_focused()
    # No run began, and what stands there is marked as another's.
    assert texts(page, "#with-edits") == before
    expect(page.locator("#stale")).to_contain_text("of other settings")


def test_texts_of_other_settings_are_marked_until_those_are_back(
    site: Site, opened: Opened, feature: int
) -> None:
    edits = [{"feature": feature, "mode": "set", "strength": 1, "positions": "all"}]
    page = opened(link(site, edits, tokens=3))
    expect(page.locator("#run-status")).to_contain_text("Done")
    stale = page.locator("#stale")
    expect(stale).to_be_hidden()
    page.get_by_label("seed").fill("5")
    expect(stale).to_be_visible()
    page.get_by_label("seed").fill("0")
    expect(stale).to_be_hidden()
    page.get_by_label("Prompt", exact=True).fill("Another text")
    page.get_by_role("button", name="Take theirs back").click()
    expect(stale).to_be_hidden()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(PROMPT)
    page.get_by_label("new tokens").fill("4")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#run-status")).to_contain_text("Done: 4 tokens")
    expect(stale).to_be_hidden()


def test_positions_are_chosen_among_the_prompt_s_numbered_tokens(
    site: Site, opened: Opened, feature: int
) -> None:
    page = opened(link(site, [{"feature": feature}], tokens=3))
    expect(page.locator("#run-status")).to_contain_text("Done")
    page.get_by_label("Where").select_option("list")
    tokens = page.locator(".numbered [data-i]")
    expect(tokens).to_have_count(len(site.api.tokens(PROMPT)["tokens"]))
    expect(tokens.nth(2).locator("sub")).to_have_text("2")
    tokens.nth(2).click()
    tokens.nth(4).click()
    numbers = page.get_by_label("Token numbers")
    expect(numbers).to_have_value("2, 4")
    # By keyboard: one stop, then arrows and Enter.
    tokens.nth(4).press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(numbers).to_have_value("2, 3, 4")
    tokens.nth(2).click()
    expect(numbers).to_have_value("3, 4")
    expect(tokens.nth(3)).to_have_attribute("aria-pressed", "true")
    numbers.fill("1")
    expect(tokens.nth(1)).to_have_attribute("aria-pressed", "true")
    assert json.loads(query(page)["edits"])[0]["positions"] == [1]
    page.get_by_label("Prompt", exact=True).fill("Ships")
    expect(tokens).to_have_count(len(site.api.tokens("Ships")["tokens"]))


def test_a_new_token_s_activations_are_in_sight_and_can_be_reproduced(
    site: Site, opened: Opened, feature: int
) -> None:
    edits = [{"feature": feature, "mode": "set", "strength": 1, "positions": "all"}]
    page = opened(link(site, edits, tokens=30))
    expect(page.locator("#run-status")).to_contain_text("Done")
    page.locator("#with-edits .new").nth(20).click()
    panel = page.locator("#new-token")
    expect(panel).to_contain_text("new token 21, steered")
    expect(panel).to_contain_text("Read on this token")
    expect(panel).to_be_in_viewport(ratio=1)
    panel.get_by_role("button", name="Reproduce").click()
    expect(page.get_by_role("dialog")).to_contain_text("continuation")
    page.keyboard.press("Escape")
    page.locator("#with-edits .new").nth(20).click()
    expect(panel).to_be_hidden()


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"strength": 500}, "Strength", "The strength of edit 1 must be"),
        ({"positions": [9999]}, "Token numbers", "token 9,999"),
        ({"feature": 999_999}, "Feature: number", "There is no feature 999999"),
    ],
)
def test_a_refusal_stands_at_its_field_and_loses_nothing(
    site: Site, opened: Opened, feature: int, changes: dict, field: str, sentence: str
) -> None:
    edits = [{"feature": feature, "mode": "set", "strength": 1, "positions": "all"} | changes]
    page = opened(link(site, edits, tokens=3))
    control = page.get_by_label(re.compile(rf"^{field}\b"))
    expect(control).to_have_attribute("aria-invalid", "true")
    expect(control).to_be_focused()
    expect(page.get_by_role("alert")).to_contain_text(sentence)
    assert json.loads(query(page)["edits"]) == edits
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(PROMPT)


def test_a_waiting_run_shows_its_place_and_stops_at_once(
    site: Site, opened: Opened, feature: int
) -> None:
    edits = [{"feature": feature, "mode": "set", "strength": 1, "positions": "all"}]
    first = opened(link(site, edits, tokens=200))
    expect(first.locator("#base .new").nth(3)).to_be_attached()
    # It gets no further, or it might be done before the other one has shown that it waits.
    with site.workbench.load().lm.lock:
        second = opened(link(site, edits, tokens=3))
        status = second.locator("#run-status")
        expect(status).to_contain_text("Waiting: next in the queue")
        second.get_by_role("button", name="Stop").click()
        expect(status).to_have_text("Stopped.")
        expect(first.locator("#run-status")).to_contain_text("Generating")
        # Its place is free: whoever asks now is next.
        second.get_by_role("button", name="Generate").click()
        expect(status).to_contain_text("Waiting: next in the queue")
        # A closed page leaves its place, too.
        first.close()
    expect(status).to_contain_text("Done: 3 tokens")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("/steer?edits=%5Bnot", "The edits in this link cannot be read"),
        ("/steer?prompt=a&edits=[{}]", "at least one edit"),
        ("/steer?prompt=a&edits=7", "they are no list"),
        ("/steer?prompt=a&edits=[{%22feature%22:1,%22positions%22:%22odd%22}]", "odd"),
        ("/steer?prompt=a&tokens=many&edits=[{%22feature%22:1}]", "New tokens"),
        ("/steer?prompt=a&edits=[{%22feature%22:999999}]", "There is no feature 999999"),
        ("/steer?prompt=a&edits=[{%22feature%22:1,%22mode%22:%22burn%22}]", "burn"),
        ("/steer?prompt=%20&edits=[{%22feature%22:1}]", "empty"),
        ("/steer?sae=nowhere&prompt=a&edits=[{%22feature%22:1}]", "nowhere"),
        ("/prompt?sae=nowhere&text=a", "nowhere"),
        ("/features?feature=999999", "There is no feature 999999"),
        ("/features?feature=cat", "not a whole number"),
        ("/features?sae=nowhere", "nowhere"),
        ("/features?sort=colour", "colour"),
        ("/features?min=much", "not a share"),
        ("/features?page=1000", "no page"),
        ("/?sae=nowhere", "nowhere"),
    ],
)
def test_a_broken_link_gets_one_sentence(
    site: Site, opened: Opened, address: str, sentence: str
) -> None:
    page = opened(site.url + address)
    alert = page.get_by_role("alert")
    expect(alert).to_have_count(1)
    expect(alert).to_contain_text(sentence)
    assert "Traceback" not in page.content()
    # The way out works.
    page.get_by_role("link", name=re.compile("^Features$")).click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
