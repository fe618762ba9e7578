"""Find the strength: rows that grow, curves, the band on the slider, what edits say they did."""

import io
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from app.commands.shared import DEMO
from tests.browser.conftest import Site, query

Opened = Callable[..., Page]
PROMPT = "The old man walked into the"
FEATURE: int = next(
    proof["edits"][0]["feature"]
    for proof in json.loads((DEMO / "bundle.json").read_text())["examples"]["proofs"]
    if proof["title"].startswith("Passes")
)
"""It steers: docs/steering.md."""
EDIT = {"feature": FEATURE, "mode": "set", "strength": 1.6, "positions": "continuation"}
TRIED = [0.25, 0.5, 1, 2]
THUMB = 18  # of the slider, px


def edits(page: Page) -> list[dict[str, Any]]:
    return json.loads(query(page)["edits"])


def link(site: Site, given: object, **more: object) -> str:
    rest = "".join(f"&{name}={quote(str(value))}" for name, value in more.items())
    return f"{site.url}/steer?prompt={quote(PROMPT)}&edits={quote(json.dumps(given))}{rest}"


@pytest.fixture(scope="module")
def ladder(site: Site) -> dict[str, Any]:
    """The ladder that the tests look at, which has a band."""
    answer = site.api.ladder(PROMPT, [EDIT], strengths=TRIED, seeds=2, max_new_tokens=30)
    assert answer["band"], answer["rows"]
    return answer


LADDER = {
    "ladder": 0,
    "ladder_strengths": "0.25, 0.5, 1, 2",
    "ladder_seeds": 2,
    "ladder_tokens": 30,
}


def as_shown(text: str) -> str:
    return text.replace("\n", "↵ ")


def painted(slider: Locator, shares: list[float]) -> list[object]:
    """Colours below a slider's track, at shares of the way that its thumb goes."""
    picture = Image.open(io.BytesIO(slider.screenshot())).convert("RGB")
    way = picture.width - THUMB
    return [
        picture.getpixel((round(THUMB / 2 + share * way), picture.height - 5)) for share in shares
    ]


def done(page: Page) -> None:
    # One that an address asks for begins when the run before it is over.
    expect(page.locator("#ladder-sentence")).not_to_be_empty(timeout=60_000)
    expect(page.locator("#ladder")).to_have_attribute("aria-busy", "false")


def test_a_ladder_is_climbed_and_a_row_is_taken(
    site: Site, opened: Opened, ladder: dict[str, Any]
) -> None:
    page = opened(link(site, [EDIT], tokens=3))
    expect(page.locator("#run-status")).to_contain_text("Done")
    page.get_by_role("button", name="Find the strength").click()
    expect(page.get_by_role("heading", name=f"Find the strength of #{FEATURE}")).to_be_visible()
    page.get_by_label("tried").fill("0.25, 0.5, 1, 2")
    page.get_by_label("texts at each").fill("2")
    page.get_by_label("tokens in each").fill("30")
    page.get_by_role("button", name="Find", exact=True).click()
    done(page)
    rows = page.locator("#rungs > li")
    expect(rows).to_have_count(5)
    shown = [row.locator("p").all_text_contents() for row in rows.all()]
    assert shown == [[as_shown(text) for text in row["texts"]] for row in ladder["rows"]]
    expect(page.locator("#ladder-sentence")).to_have_text(ladder["sentence"])
    verdicts = [row.locator(".verdict").count() for row in rows.all()]
    assert verdicts == [int(row["usable"]) for row in ladder["rows"]]
    expect(page.locator(".ladder-chart")).to_have_count(2)
    expect(page.locator(".ladder-chart.fires .dot")).to_have_count(4)
    expect(page.locator(".ladder-chart.fires .dot.usable")).to_have_count(sum(verdicts))
    # However narrow the band, its name is whole; a scale ends near the largest value.
    name, plot = (
        page.locator(f".ladder-chart.fires .{part}").bounding_box()
        for part in ("band-name", "plot")
    )
    assert name is not None
    assert plot is not None
    assert plot["x"] - 1 <= name["x"] < name["x"] + name["width"] <= plot["x"] + plot["width"] + 1
    highest = max(row["fires"] for row in ladder["rows"])
    end = next(end for end in (10, 25, 50, 100) if 100 * highest <= end)
    expect(page.locator(".ladder-chart.fires .y span").last).to_have_text(f"{end}\u00a0%")
    # What is found stands in the address, and on the slider.
    assert query(page) | {"edits": ""} == {
        "prompt": PROMPT,
        "edits": "",
        "tokens": "3",
        **{name: str(value) for name, value in LADDER.items()},
    }
    slider = page.locator(".track")
    expect(slider).to_have_class("track banded")
    low, high = ladder["band"]["low"], ladder["band"]["high"]
    assert slider.evaluate(
        "e => [e.style.getPropertyValue('--low'), e.style.getPropertyValue('--high')]"
    ) == [
        str(low / 2).removesuffix(".0"),
        str(high / 2).removesuffix(".0"),
    ]
    expect(page.locator(".sliding")).to_contain_text("usable")
    inside, outside = painted(slider, [(low + high) / 4, 0.02])
    assert inside != outside
    # A row is taken by its button or anywhere on it, and Generate runs it.
    taken = page.get_by_role("button", name="Take 0.5 × max")
    taken.focus()
    page.keyboard.press("Enter")
    expect(taken).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Strength", exact=True)).to_have_value("0.5")
    rows.nth(3).locator("p").first.click()
    expect(page.get_by_label("Strength", exact=True)).to_have_value("1")
    assert edits(page) == [EDIT | {"strength": 1}]
    page.get_by_label("new tokens").fill("30")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#run-status")).to_contain_text("Done: 30")
    text = page.locator("#with-edits").text_content() or ""
    assert text.removeprefix(PROMPT) == ladder["rows"][3]["texts"][0].replace("\n", "↵")


def test_a_link_climbs_it_again_and_a_feature_begins_inside_its_band(
    site: Site, opened: Opened, ladder: dict[str, Any]
) -> None:
    page = opened(link(site, [EDIT], tokens=3, **LADDER))
    done(page)
    shown = page.locator("#rungs > li p").all_text_contents()
    assert shown == [as_shown(text) for row in ladder["rows"] for text in row["texts"]]
    page.goto(f"{site.url}/features?feature={FEATURE}")
    page.get_by_role("link", name="Steer with it").click()
    best = f"{ladder['band']['best']:g}"
    expect(page.get_by_label("Strength", exact=True)).to_have_value(best)
    expect(page.get_by_label("The same, to slide")).to_have_value(best)
    page.get_by_label("The same, to slide").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("The same, to slide")).not_to_have_value(best)
    assert edits(page)[0]["strength"] == pytest.approx(float(best) + 0.05)
    # Another feature knows none.
    page.get_by_label("Feature: number, or words").fill(str(FEATURE + 1))
    expect(page.locator(".track")).to_have_class("track")


def test_what_is_refused_of_a_proof_leaves_it_where_no_run_was_made(
    site: Site, opened: Opened
) -> None:
    page = opened(f"{site.url}/steer?edits={quote(json.dumps([EDIT]))}")
    page.get_by_role("button", name="Find the strength").click()
    page.get_by_label("tried").fill("1")
    page.get_by_label("tokens in each").fill("10")
    page.get_by_role("button", name="Find", exact=True).click()
    expect(page.locator("#rungs > li")).to_have_count(2)
    done(page)
    page.get_by_role("button", name="Take 1 × max").click()
    page.get_by_label("temperature").fill("0")
    prove = page.get_by_role("button", name="Prove it")
    prove.click()
    expect(page.get_by_role("alert")).to_contain_text("temperature above 0")
    expect(page.locator("#run")).to_be_hidden()
    expect(prove).to_be_visible()
    expect(page.locator("#proof")).to_be_visible()


def test_it_can_be_stopped_and_closed(site: Site, opened: Opened) -> None:
    page = opened(link(site, [EDIT], tokens=3, ladder=0, ladder_tokens=200))
    expect(page.locator("#rungs > li")).to_have_count(9)
    expect(page.locator("#rungs > li p").last).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#ladder-status")).to_have_text("Stopped.")
    page.get_by_label("margin").fill("-1")
    page.get_by_role("button", name="Find", exact=True).click()
    expect(page.locator("#ladder").get_by_role("alert")).to_contain_text("Margin must be")
    page.locator("#ladder").get_by_role("button", name="Close").click()
    expect(page.locator("#ladder")).to_be_hidden()
    assert not any(name.startswith("ladder") for name in query(page))


def test_a_phone_has_it_without_scrolling_sideways(site: Site, opened: Opened) -> None:
    page = opened(link(site, [EDIT], tokens=3, **LADDER), phone=True)
    done(page)
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Take 0.5 × max").tap()
    expect(page.get_by_label("Strength", exact=True)).to_have_value("0.5")


def test_places_say_which_tokens_they_are(site: Site, opened: Opened) -> None:
    page = opened(link(site, [EDIT], tokens=3))
    where = page.get_by_label("Where")
    expect(where).to_have_value("continuation")
    expect(where).to_have_attribute("aria-describedby", re.compile(".+"))
    note = page.locator(f"#{where.get_attribute('aria-describedby')}")
    expect(note).to_contain_text("The prompt's last token, which predicts the first new one")
    where.select_option("generated")
    expect(note).to_contain_text("never steered")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#edit-summary")).to_contain_text("on new tokens (3 tokens)")
    expect(page.locator("#edit-size")).to_contain_text("It changes the activation by 0.")
    where.select_option("list")
    page.get_by_label("Token numbers").fill("0")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#run-warnings")).to_contain_text(
        "Edit 1 changed no token: token 0 is special"
    )


def test_a_condition_and_a_fading_travel_in_the_link(site: Site, opened: Opened) -> None:
    page = opened(link(site, [EDIT], tokens=6))
    page.get_by_text("Condition and fading").click()
    page.get_by_label("Condition: number of a feature").fill("542")
    page.get_by_label("Condition: its activation").fill("1.5")
    page.get_by_label("SAE of the condition").select_option(index=0)
    page.get_by_label("Fading").fill("4")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#run-status")).to_contain_text("Done")
    expect(page.locator("#edit-summary")).to_contain_text(
        "only where #542 fires above 1.5, fading over 4 new tokens"
    )
    expected = EDIT | {
        "condition_feature": 542,
        "condition_above": 1.5,
        "condition_sae": site.workbench.bundle.sae_names[0],
        "fade": 4,
    }
    assert edits(page) == [expected]
    address = page.url
    summary = page.locator("#edit-summary").inner_text()
    again = opened(address)
    expect(again.locator("#edit-summary")).to_have_text(summary)
    expect(again.get_by_label("Fading")).to_have_value("4")
    again.get_by_label("Fading").fill("0")
    again.get_by_role("button", name="Generate").click()
    expect(again.locator(".restricted").get_by_role("alert")).to_contain_text(
        "fading of edit 1 must be"
    )
