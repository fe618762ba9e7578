"""An SAE without an index: every page works, and says what is missing and how to get it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from app.commands.shared import open_bundle
from app.service.overview import overview
from sae_core.bundle import write_bundle
from tests.browser.conftest import Site, query, served
from tests.browser.visual import SCHEMES, VIEWS, Scheme, State, canvas, inspect, opened_page

Opened = Callable[..., Page]
TEXT = "The ship left the harbour at noon."
FEATURE = 12
WIDTHS = ("1440", "390", "320")
ADDRESSES = {
    "overview": ("/", ".facts"),
    "list": ("/features", "table.features"),
    "feature": (f"/features?feature={FEATURE}&text={quote(TEXT)}", ".result .tokens"),
    "prompt": (f"/prompt?text={quote(TEXT)}&token=3", "#tokens span"),
    "problem": ("/?sae=broken", "main .problem"),
}


def shown(site: Site, opened: Opened, name: str, **how: object) -> Page:
    address, ready = ADDRESSES[name]
    page = opened(site.url + address, **how)
    expect(page.locator(ready).first).to_be_visible()
    return page


def digits(value: float, count: int) -> str:
    """A value as a number field has it when it is cut to that many digits."""
    return f"{float(f'{value:.{count}g}'):g}"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ADDRESSES)
def test_nothing_is_wrong_to_the_eye(
    unindexed_site: Site, browser: Browser, name: str, scheme: Scheme
) -> None:
    address, ready = ADDRESSES[name]
    state = State(
        name=name,
        address=address,
        act=lambda page: expect(page.locator(ready).first).to_be_visible(),
    )
    context = canvas(browser, scheme)
    with opened_page(context, unindexed_site.url, state) as page:
        complaints = inspect(page, tuple(view for view in VIEWS if view.name in WIDTHS))
    context.close()
    assert not complaints, "\n".join(complaints)


def test_the_overview_says_what_is_loaded_and_what_builds_an_index(
    unindexed_site: Site, opened: Opened
) -> None:
    page = shown(unindexed_site, opened, "overview")
    facts = page.get_by_role("region", name="What is loaded").inner_text()
    for words in ("resid_post/4", "JumpReLU SAE", "256 → 6,080 features → 256"):
        assert words in facts
    missing = overview(unindexed_site.workbench, "")["missing"]
    notice = page.get_by_role("note")
    expect(notice).to_contain_text(missing["reason"])
    expect(notice.locator("code")).to_have_text(missing["command"])
    notice.get_by_role("button", name="Copy").click()
    expect(notice.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == missing["command"]
    expect(page.locator(".card")).to_have_count(0)


def test_from_a_number_to_a_feature_and_on_to_steering(
    unindexed_site: Site, opened: Opened
) -> None:
    page = shown(unindexed_site, opened, "list")
    expect(page.locator("table.features tbody tr")).to_have_count(50)
    expect(page.get_by_role("note")).to_be_visible()
    assert page.locator("thead th").all_inner_texts() == [
        "feature ↑",
        "makes the model expect",
        "threshold",
    ]
    expect(page.get_by_text("fires on at least")).to_have_count(0)
    page.get_by_role("searchbox").fill(f"#{FEATURE}")
    expect(page.locator("table.features tbody tr")).to_have_count(1)
    page.keyboard.press("Enter")
    known = unindexed_site.api.feature(FEATURE)
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_contain_text(f"#{FEATURE}")
    expect(heading).to_contain_text(known["signature"].replace(" · ", "\u00a0· "))
    assert query(page) == {"feature": str(FEATURE)}
    expect(page.get_by_role("region", name="What it does to the next token")).to_be_visible()
    near = page.get_by_role("region", name="Points the same way")
    expect(near.get_by_text(f"#{known['neighbours'][0]['feature']}")).to_be_visible()
    expect(page.get_by_role("note").locator("code")).to_contain_text("jumpscope index")

    page.get_by_role("link", name="Steer with it").click()
    # Ten times the threshold to begin with, in the activation's own units, and labelled so.
    value = page.get_by_label("Strength", exact=True)
    expect(value).to_have_value(digits(10 * known["threshold"], 2))
    expect(page.locator(".raw")).to_contain_text("in its own units")
    value.fill("7.5")
    page.get_by_label("Prompt", exact=True).fill("The old man")
    page.get_by_label("new tokens").fill("5")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#run-status")).to_contain_text("Done: 5 tokens")
    expect(page.locator("#edit-summary")).to_contain_text(f"#{FEATURE} set to 7.50")
    (edit,) = json.loads(query(page)["edits"])
    assert edit == {"feature": FEATURE, "mode": "set", "value": 7.5, "positions": "continuation"}
    page.reload()
    expect(page.locator("#run-status")).to_contain_text("Done: 5 tokens")
    expect(page.get_by_label("Strength", exact=True)).to_have_value("7.5")


def test_sorting_needs_no_index_where_it_is_offered(unindexed_site: Site, opened: Opened) -> None:
    page = shown(unindexed_site, opened, "list")
    page.get_by_role("link", name="threshold").click()
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("threshold")
    thresholds = [
        float(text.replace(",", ""))
        for text in page.locator("table.features td:last-child").all_inner_texts()
    ]
    assert thresholds == sorted(thresholds, reverse=True)
    # An order of another SAE's list, which has an index, is not this one's.
    page.goto(f"{unindexed_site.url}/features?sort=max_act&min=0.01")
    expect(page.locator("td.id a").first).to_have_text("#0")
    page.goto(f"{unindexed_site.url}/features?q=river")
    expect(page.locator("main .problem")).to_contain_text("found by number alone")
    expect(page.get_by_role("searchbox")).to_have_value("river")


def test_a_text_of_one_s_own_is_coloured_by_its_own_peak(
    unindexed_site: Site, opened: Opened
) -> None:
    actual = unindexed_site.api.prompt_features(TEXT)["features"][0]
    page = opened(f"{unindexed_site.url}/features?feature={actual['feature']}&text={quote(TEXT)}")
    result = page.locator(".result")
    expect(result).to_contain_text(f"at most {actual['peak']:.3g}.")
    assert "--a:1.000" in (result.locator(".tokens .peak").get_attribute("style") or "")


def test_a_prompt_without_what_only_an_index_knows(unindexed_site: Site, opened: Opened) -> None:
    page = shown(unindexed_site, opened, "prompt")
    heads = page.locator("#text-features thead th").all_inner_texts()
    assert heads == ["feature", "peak"]
    expect(page.locator("#sort")).to_be_hidden()
    expect(page.locator("#hide")).to_be_hidden()
    expect(page.get_by_role("note").locator("code")).to_contain_text("jumpscope index")
    fvu = page.get_by_role("button", name="variance unexplained")
    assert "of this text alone" in (fvu.get_attribute("data-tip") or "")
    top = unindexed_site.api.prompt_features(TEXT)["features"][0]
    row = page.locator("#text-features tbody tr").first
    expect(row).to_contain_text(f"#{top['feature']}")
    expect(row).to_contain_text(top["signature"])
    row.get_by_role("button").click()
    expect(page.locator("#legend")).to_contain_text("full colour is its largest here")
    page.get_by_role("link", name="Steer with it").click()
    expect(page.get_by_label("Strength", exact=True)).to_have_value(digits(top["peak"], 3))
    expect(page.locator("#run-status")).to_contain_text("Done", timeout=60_000)


def test_an_sae_that_cannot_be_read_says_why_and_the_rest_works(
    unindexed_site: Site, opened: Opened
) -> None:
    page = shown(unindexed_site, opened, "problem")
    expect(page.locator("main [role=alert]")).to_contain_text("sae_weights.safetensors")
    expect(page.get_by_role("heading", name="SAEs of this model")).to_be_visible()
    page.get_by_role("link", name="Prompt").click()
    page.get_by_label("Text to analyse").fill(TEXT)
    page.get_by_role("button", name="Analyse").click()
    expect(page.locator("#problem")).to_contain_text("sae_weights.safetensors")
    page.locator("#sae").select_option(index=1)
    expect(page.locator("#totals")).to_be_visible()
    expect(page.locator("#problem")).to_be_empty()


def test_a_model_that_cannot_be_loaded_says_why_and_the_rest_works(
    opened: Opened, tmp_path: Path
) -> None:
    demo = open_bundle("demo")
    first = demo.sae_names[0]
    shutil.copytree(demo.sae_path(first), tmp_path / "saes" / first)
    bundle = write_bundle(tmp_path, name="no model", title="", model="gone", saes=[first])
    with served(bundle) as site:
        page = opened(f"{site.url}/prompt?text=Ships")
        expect(page.locator("#problem")).to_contain_text("has no folder gone")
        page.goto(site.url)
        expect(page.locator("main [role=alert]")).to_contain_text("has no folder gone")
        expect(page.locator(".card").first).to_be_visible()
        page.locator(".card a").first.click()
        expect(page.locator(".context").first).to_be_visible()
