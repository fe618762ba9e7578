"""The overview's sentence is read and steered where it stands."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.commands.shared import open_bundle
from tests.browser.conftest import Site, served

Opened = Callable[..., Page]
MODEL_WAIT = 120_000  # ms


def test_its_words_lead_to_what_carries_the_next_one(site: Site, opened: Opened) -> None:
    page = opened(site.url)
    answer = page.locator("#living-answer")
    expect(answer.locator(".living-next li")).to_have_count(4)
    expect(page.locator("#living-text [aria-pressed=true]")).to_have_text("looked")
    text = page.locator("#living-text").inner_text()
    # By the keyboard to the next word.
    page.locator("#living-text [aria-pressed=true]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#living-text [aria-pressed=true]")).to_have_text("at")
    told = site.api.effects(text=text, token=4, limit=3, next_tokens=4, estimates=False)
    rows = answer.locator(".living-carriers li")
    expect(rows).to_have_count(3)
    first = told["effects"][0]
    expect(rows.first).to_contain_text(f"#{first['feature']}")
    expect(rows.first).to_contain_text(f"KL {first['kl']:.2f} without it")
    expect(answer.locator(".living-next li").first).to_contain_text(told["base"][0]["text"].strip())
    answer.get_by_text("All that fires in this sentence").click()
    page.wait_for_url("**/prompt?*")
    expect(page.locator("#tokens [aria-pressed=true]")).to_have_text("at")


def test_one_button_steers_in_place_and_leads_on(site: Site, opened: Opened) -> None:
    page = opened(site.url)
    button = page.locator("#living-steer")
    expect(button).to_have_attribute("aria-disabled", "false")
    button.click()
    link = page.get_by_text("Steer on, and prove it")
    expect(button).to_have_attribute("aria-disabled", "false", timeout=MODEL_WAIT)
    shown = page.locator("#living-run .tokens").all_inner_texts()
    assert len(shown) == 2
    assert shown[0] != shown[1]
    link.click()
    page.wait_for_url("**/steer?*")
    run = steered(site)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(run["prompt"])
    for edit in run["edits"]:
        expect(page.locator("#edit-summary")).to_contain_text(f"#{edit['feature']}")


def test_the_button_is_off_while_its_run_goes_on(site: Site, opened: Opened) -> None:
    page = opened(site.url)
    button = page.locator("#living-steer")
    expect(button).to_have_attribute("aria-disabled", "false", timeout=MODEL_WAIT)
    expect(page.locator("#living-answer li").first).to_be_visible(timeout=MODEL_WAIT)
    with site.workbench.load().lm.lock:
        button.click()
        expect(button).to_have_attribute("aria-disabled", "true")
        # The page asks again whether the model is there, which it is.
        with page.expect_response("**/state*"):
            page.evaluate("window.dispatchEvent(new Event('focus'))")
        page.wait_for_timeout(300)
        expect(button).to_have_attribute("aria-disabled", "true")
    expect(button).to_have_attribute("aria-disabled", "false", timeout=MODEL_WAIT)


def test_another_sae_reads_it_anew(site: Site, opened: Opened) -> None:
    page = opened(site.url)
    rows = page.locator(".living-carriers li a")
    expect(rows).to_have_count(3)
    before = rows.all_inner_texts()
    second = site.workbench.bundle.sae_names[1]
    page.locator("#sae").select_option(second)
    expect(page.locator("#living .living-carriers a").first).to_have_attribute(
        "href", f"features?sae={second}&feature={told(site, second)}", timeout=MODEL_WAIT
    )
    assert rows.all_inner_texts() != before


@pytest.fixture
def labelled(tmp_path: Path) -> Iterator[Site]:
    """The demo, whose features that the sentence is read and steered by have labels."""
    notes = str(tmp_path / "notes.duckdb")
    with served(open_bundle("demo"), notes=notes, check_tokens=0) as running:
        edits = steered(running)["edits"]
        for feature in {told(running), *(edit["feature"] for edit in edits)}:
            running.api.notes(feature, label=f"my words for {feature}")
        yield running


def test_labels_stand_where_signatures_do(labelled: Site, opened: Opened) -> None:
    page = opened(labelled.url)
    feature = told(labelled)
    carrier = page.locator(".living-carriers a").first
    expect(carrier).to_have_text(f"#{feature} my words for {feature}", timeout=MODEL_WAIT)
    page.locator("#living-steer").click()
    held = steered(labelled)["edits"][0]["feature"]
    heading = page.get_by_role("heading", name=f"With #{held} my words for {held} held on")
    expect(heading).to_be_visible(timeout=MODEL_WAIT)


def steered(site: Site) -> dict[str, Any]:
    """The run of the button: the first of the bundle's that continues a prompt."""
    return next(run for run in site.workbench.bundle.examples["steer"] if "prompt" in run)


def told(site: Site, sae: str = "") -> int:
    """The feature that carries most after the word chosen first."""
    named = site.workbench.bundle.examples["sentence"]
    answer = site.api.effects(text=named["text"], token=named["token"], sae=sae, limit=1)
    return answer["effects"][0]["feature"]
