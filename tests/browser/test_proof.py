"""Prove it: an edit against its controls, its texts, its link and its file."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from app.commands.shared import DEMO
from app.service.prove_again import compared
from app.web.ready_proofs import proof_address
from tests.browser.conftest import Site, query

Opened = Callable[..., Page]
READY: dict[str, Any] = next(
    proof
    for proof in json.loads((DEMO / "bundle.json").read_text())["examples"]["proofs"]
    if proof["title"].startswith("Passes")
)
PROMPT: str = READY["prompt"]
EDIT: dict[str, Any] = READY["edits"][0]
ASKED: dict[str, Any] = {
    "prompt": PROMPT,
    "edits": [EDIT],
    "max_new_tokens": 24,
    "temperature": 0.7,
    "seed": 0,
    "seeds": 4,
}
DONE = 90_000


def link(site: Site, **more: object) -> str:
    rest = "".join(f"&{name}={quote(str(value))}" for name, value in more.items())
    return (
        f"{site.url}/steer?prompt={quote(PROMPT)}&edits={quote(json.dumps([EDIT]))}&tokens=24"
        f"&temperature=0.7{rest}"
    )


@pytest.fixture(scope="module")
def proof(site: Site) -> dict[str, Any]:
    return site.api.prove(**ASKED)


def done(page: Page) -> None:
    expect(page.locator("#proof")).to_have_attribute("aria-busy", "false", timeout=DONE)
    expect(page.locator(".proof-sentence")).to_be_visible(timeout=DONE)


def test_a_result_is_proven(site: Site, opened: Opened, proof: dict[str, Any]) -> None:
    page = opened(link(site))
    expect(page.locator("#run-status")).to_contain_text("Done")
    expect(page.locator("#proof")).to_be_hidden()
    # The panel is closed still: what is asked comes from its field.
    page.get_by_label("runs of each").evaluate("field => { field.value = 4; }")
    page.get_by_role("button", name="Prove it").click()
    done(page)
    expect(page.locator(".proof-sentence")).to_contain_text(proof["sentence"])
    mark = "✓ separates" if proof["separates"] else "✗ does not separate"
    expect(page.locator(".proof-sentence b")).to_have_text(mark)
    arms = page.locator(".arm")
    expect(arms).to_have_count(9)
    for k, arm in enumerate(proof["arms"]):
        row = arms.nth(k)
        # Every run is a dot on both scales, and those that pass have another shape.
        for key in ("share", "nll"):
            expect(row.locator(f".strip.{key} .run-dot")).to_have_count(4)
            expect(row.locator(f".strip.{key} .passed")).to_have_count(arm["passed"])
        if arm["kind"] == "feature":
            expect(row.locator(".arm-name")).to_contain_text(f"#{arm['feature']}")
    places = (
        arms.nth(1)
        .locator(".strip.share .run-dot")
        .evaluate_all("dots => dots.map(dot => parseFloat(dot.style.left))")
    )
    shares = [run["share"] for run in proof["arms"][1]["runs"]]
    assert sorted(range(4), key=places.__getitem__) == sorted(range(4), key=shares.__getitem__)
    assert query(page)["proof"] == "0"
    assert query(page)["proof_seeds"] == "4"


def test_a_control_s_texts_open_on_a_click_and_stand_in_the_link(
    site: Site, opened: Opened, proof: dict[str, Any]
) -> None:
    page = opened(link(site, proof=0, proof_seeds=4))
    done(page)
    row = page.locator(".arm").nth(2)
    expect(row.locator("li")).to_have_count(0)
    row.locator("summary").click()
    texts = row.locator("li .tokens")
    expect(texts).to_have_count(4)
    for k, run in enumerate(proof["arms"][2]["runs"]):
        written = "".join(token["text"] for token in run["tokens"])
        assert texts.nth(k).text_content() == written.replace("\n", "↵")
    expect(row.get_by_role("link", name=f"#{proof['arms'][2]['feature']}")).to_be_visible()
    # By keyboard.
    page.locator(".arm").nth(7).locator("summary").press("Enter")
    expect(page.locator(".arm").nth(7).locator("li")).to_have_count(4)
    assert query(page)["proof_open"] == "2,7"
    again = opened(page.url)
    done(again)
    expect(again.locator(".arm[open]")).to_have_count(2)
    same = again.locator(".arm").nth(2).locator("li .tokens").first
    assert same.text_content() == texts.first.text_content()
    again.get_by_role("button", name="Close").last.click()
    expect(again).not_to_have_url(re.compile("proof"))
    expect(again.get_by_role("button", name="Prove it")).to_be_focused()


def test_its_file_holds_what_runs_again(
    site: Site, opened: Opened, proof: dict[str, Any], tmp_path: Path
) -> None:
    page = opened(link(site, proof=0, proof_seeds=4))
    done(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSON").click()
    assert download.value.suggested_filename == f"proof-{EDIT['feature']}.json"
    path = tmp_path / "proof.json"
    download.value.save_as(path)
    written = json.loads(path.read_text())
    assert compared(written, proof) == (
        True,
        "All 36 texts and their numbers are the same, digit for digit.",
    )


def test_another_form_is_said_and_a_refusal_stands_at_its_field(site: Site, opened: Opened) -> None:
    page = opened(link(site, proof=0, proof_seeds=3))
    done(page)
    expect(page.locator(".proof-sentence")).to_contain_text("With fewer than 4 runs nothing could.")
    stale = page.locator("#proof-stale")
    expect(stale).to_be_hidden()
    page.get_by_label("temperature").fill("0")
    expect(stale).to_be_visible()
    page.get_by_role("button", name="Prove", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("temperature above 0")
    page.get_by_label("temperature").fill("0.7")
    expect(stale).to_be_hidden()
    page.get_by_label("runs of each").fill("2")
    page.get_by_role("button", name="Prove", exact=True).click()
    expect(page.locator("#proof").get_by_role("alert")).to_contain_text("3 to 20")
    expect(page.get_by_label("runs of each")).to_be_focused()


def test_stopping_is_immediate(site: Site, opened: Opened) -> None:
    page = opened(link(site, proof=0, proof_seeds=20).replace("tokens=24", "tokens=200"))
    expect(page.locator("#proof-status")).to_contain_text("of 200 tokens", timeout=DONE)
    page.locator("#proof-stop").click()
    expect(page.locator("#proof-status")).to_have_text("Stopped.")
    expect(page.locator("#proof-stop")).to_be_hidden()


def test_ready_proofs_are_a_click_and_it_fits_a_phone(site: Site, opened: Opened) -> None:
    proofs = site.workbench.bundle.examples["proofs"]
    page = opened(f"{site.url}/steer", phone=True)
    ready = page.locator("a.idea")
    expect(ready).to_have_count(len(proofs))
    for k, each in enumerate(proofs):
        expect(ready.nth(k)).to_contain_text(each["title"])
        href = ready.nth(k).get_attribute("href")
        assert href == proof_address(each)
    page.goto(link(site, proof=0, proof_seeds=3, proof_open=1))
    done(page)
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    boxes = [page.locator(".arm summary").nth(k).bounding_box() for k in range(9)]
    assert all(box and box["height"] >= 40 for box in boxes), "a finger's width"
