"""The card in a browser: what it says is what the API says, and its script prints the number."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Site

Opened = Callable[..., Page]
TEXT = "The old man walked into the room."
EDITS = [{"feature": 3, "mode": "set", "strength": 1, "positions": "all"}]


def card(page: Page) -> Locator:
    return page.get_by_role("dialog", name="Reproduce this number")


def value(page: Page) -> float:
    return float(card(page).locator(".value b").inner_text())


def choose(page: Page, words: str) -> None:
    expect(card(page)).to_be_visible()  # some buttons fetch it first
    options = card(page).get_by_label("Number").locator("option")
    [label] = [text for text in options.all_inner_texts() if words in text][:1]
    card(page).get_by_label("Number").select_option(label=label)


def test_the_numbers_of_a_text_and_of_a_token(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/prompt?text={quote(TEXT)}&token=4")
    result = site.api.prompt_features(TEXT)
    page.get_by_role("button", name="Reproduce: numbers of this text").click()
    asked = {"quantity": "l0", "text": TEXT}
    expect(card(page).locator("code").first).to_have_text(
        site.api.reproduce(asked)["script"], use_inner_text=True
    )
    choose(page, "FVU")
    expect(card(page).locator(".value")).to_contain_text("variance unexplained")
    assert value(page) == pytest.approx(result["totals"]["fvu"], rel=1e-6)
    page.keyboard.press("Escape")

    page.get_by_role("button", name="Reproduce: losses of this token").click()
    expect(card(page).locator(".value")).to_contain_text("loss of token 4, nats")
    assert value(page) == pytest.approx(result["tokens"][4]["loss"], rel=1e-6)
    page.keyboard.press("Escape")

    page.get_by_role("button", name="Reproduce: activations on this token").click()
    feature, activation = result["tokens"][4]["active_features"][1]
    choose(page, f"#{feature}")
    expect(card(page).locator(".value")).to_contain_text(f"feature #{feature} on token 4")
    assert value(page) == pytest.approx(activation, rel=1e-6)
    digest = site.workbench.bundle.content_hash(result["sae"])
    expect(card(page)).to_contain_text(digest)


def test_the_script_is_copied_and_prints_the_number_in_another_process(
    site: Site, opened: Opened, tmp_path: Path
) -> None:
    page = opened(f"{site.url}/prompt?text={quote(TEXT)}&token=4")
    page.get_by_role("button", name="Reproduce: losses of this token").click()
    card(page).get_by_role("button", name="Copy").click()
    expect(card(page).get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == site.api.reproduce({"quantity": "loss", "text": TEXT, "token": 4})["script"]
    script = tmp_path / "script.py"
    script.write_text(copied)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": ".", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) == pytest.approx(value(page), rel=1e-5)


def test_the_keyboard_opens_and_closes_it_and_the_page_s_keys_rest(
    site: Site, opened: Opened
) -> None:
    page = opened(f"{site.url}/features?feature=122")
    button = page.get_by_role("button", name="Reproduce: activations in these contexts")
    button.focus()
    page.keyboard.press("Enter")
    expect(card(page).locator(".value")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    expect(page.get_by_role("heading", level=1)).to_contain_text("#122")
    page.keyboard.press("Escape")
    expect(card(page)).to_be_hidden()
    expect(button).to_be_focused()
    button.click()
    card(page).get_by_role("button", name="Close").click()
    expect(button).to_be_focused()


def test_a_context_s_number_is_the_index_s(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features?feature=122")
    contexts = site.api.feature(122)["groups"][0]["contexts"]
    page.get_by_role("button", name="Reproduce: activations in these contexts").click()
    card(page).get_by_label("Number").select_option(index=2)
    expect(card(page)).to_contain_text(f"number {contexts[2]['document']:,} of the corpus")
    assert value(page) == pytest.approx(contexts[2]["value"], rel=1e-6)
    expect(card(page)).to_contain_text("python script.py CORPUS")


def test_an_activation_on_one_s_own_text(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features?feature=122&text={quote('I want to sleep now')}")
    page.get_by_role("button", name="Reproduce: activations on your text").click()
    tested = site.api.test_text("I want to sleep now", 122)
    expect(card(page).locator(".value")).to_contain_text("activation of feature #122 on token")
    assert value(page) == pytest.approx(max(tested["activations"]), rel=1e-5)


def test_an_activation_on_a_generated_token(site: Site, opened: Opened) -> None:
    edits = quote('[{"feature":3,"mode":"set","strength":1,"positions":"all"}]')
    page = opened(f"{site.url}/steer?prompt=The&tokens=5&edits={edits}")
    expect(page.locator("#run-status")).to_contain_text("Done")
    run = site.api.steer("The", EDITS, max_new_tokens=5)
    page.locator("#with-edits [role=button][data-step='1']").click()
    chosen = page.locator("#new-token")
    expect(chosen).to_contain_text("new token 2, steered")
    chosen.get_by_role("button", name="Reproduce: activations on this token").click()
    choose(page, "after the edit")
    expect(card(page).locator(".value")).to_contain_text("after the edit")
    assert value(page) == pytest.approx(run["steered"][1]["after"][0], rel=1e-4)
    expect(card(page).locator("code").first).to_have_text(
        re.compile(r"print\(steps\[1\]\.tokens\[1\]\.after\[0\]\)")
    )


def test_the_card_fits_a_phone(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/prompt?text={quote(TEXT)}", phone=True)
    page.get_by_role("button", name="Reproduce: numbers of this text").click()
    expect(card(page).locator(".value")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = card(page).bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["height"] <= 844


def test_a_number_that_cannot_be_had_is_one_sentence(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/prompt?text={quote(TEXT)}")
    expect(page.locator("#tokens span").first).to_be_visible()
    page.evaluate(
        """async () => {
          const { src } = document.querySelector("script[type=module]");
          const { reproduceButton } = await import(new URL("card.js", src).href);
          const asked = { quantity: "beauty", text: "The" };
          const button = reproduceButton(() => [{ words: "beauty", asked }], "beauty");
          document.getElementById("content").append(button);
          button.click();
        }"""
    )
    expect(card(page).get_by_role("alert")).to_contain_text("Quantity must be one of")
