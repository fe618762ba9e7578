"""The threshold lab and the strip of evidence on a feature's page."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from playwright.sync_api import Page, expect

from app.web.numbers import number, percent, signed
from tests.browser.conftest import Site
from tests.tiny import ALWAYS

Opened = Callable[..., Page]
MODEL_WAIT = 180_000
"""Milliseconds: several runs of the model, on a machine that does other things too."""


@pytest.fixture(scope="module")
def feature(site: Site) -> dict[str, Any]:
    """A feature of middling frequency, with contexts on both sides of its threshold."""
    [row] = site.api.search_features(sort="frequency", limit=1, offset=60)["features"]
    return site.api.feature(feature=row["feature"])


def lab_of(page: Page) -> Any:
    expect(page.locator("[data-reading]")).not_to_be_empty()
    return page.locator(".lab")


def values(feature: dict[str, Any], near_miss: bool) -> list[float]:
    groups = [g for g in feature["groups"] if (g["name"] == "near_miss") == near_miss]
    return [context["value"] for group in groups for context in group["contexts"]]


def address(site: Site, feature: dict[str, Any], more: str = "") -> str:
    return f"{site.url}/features?feature={feature['feature']}{more}"


def test_a_threshold_of_the_address_says_what_would_fire(
    site: Site, opened: Opened, feature: dict[str, Any]
) -> None:
    chart, own = feature["pre_activation_histogram"], feature["threshold"]
    middle = min(range(len(chart["edges"])), key=lambda k: abs(chart["edges"][k] - own))
    # The edge of a bin, at which the histogram knows it to the token.
    cut = chart["edges"][middle + 3]
    page = opened(address(site, feature, f"&threshold={cut!r}"))
    lab = lab_of(page)
    fires = sum(chart["counts"][middle + 3 :]) + chart["above"]
    expect(lab.locator("[data-reading]")).to_contain_text(
        f"about {percent(fires / feature['tokens'])} of tokens instead of "
        f"{percent(feature['frequency'])}"
    )
    expect(lab.locator(".bar.below")).to_have_count(middle + 3)
    leaving = [value for value in values(feature, near_miss=False) if value <= cut]
    expect(page.locator(".context .change", has_text="leaves")).to_have_count(len(leaving))
    assert leaving
    lab.get_by_role("button", name="Back to its own").click()
    expect(lab.locator("[data-reading]")).to_contain_text("Its own threshold")
    expect(page.locator(".context[data-changed]")).to_have_count(0)
    expect(page).not_to_have_url(re.compile("threshold="))


def test_it_moves_by_keyboard_and_touch_and_stays_in_the_address(
    site: Site, opened: Opened, feature: dict[str, Any]
) -> None:
    page = opened(address(site, feature))
    slider = lab_of(page).get_by_role("slider", name="Threshold")
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(page.locator("[data-reading]")).to_contain_text("instead of")
    expect(slider).to_have_attribute("aria-valuetext", re.compile("fires on about"))
    # The address has it once it rests, and may have had it at a step before.
    page.wait_for_function(
        "(slider) => new URLSearchParams(location.search).get('threshold')"
        " === String(Number(Number(slider.value).toPrecision(5)))",
        arg=slider.element_handle(),
    )
    [written] = parse_qs(urlparse(page.url).query)["threshold"]
    assert float(written) > feature["threshold"]
    assert f"feature={feature['feature']}" in page.url  # the arrows stepped to no other one
    reading = page.locator("[data-reading]").inner_text()
    page.reload()
    expect(page.locator("[data-reading]")).to_have_text(reading)

    phone = opened(address(site, feature), phone=True)
    slider = lab_of(phone).get_by_role("slider", name="Threshold")
    box = slider.bounding_box()
    assert box is not None
    assert box["height"] >= 24
    slider.tap(position={"x": box["width"] * 0.9, "y": box["height"] / 2})
    expect(phone.locator("[data-reading]")).to_contain_text("lost")
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_relu_lets_near_misses_in_and_a_shifted_bias_shrinks(
    site: Site, opened: Opened, feature: dict[str, Any]
) -> None:
    page = opened(address(site, feature))
    lab = lab_of(page)
    drawn = lab.locator(".passes")
    jump = drawn.get_attribute("d")
    lab.get_by_text("ReLU", exact=True).click()
    expect(lab.locator(".says")).to_contain_text("false positives")
    entering = [value for value in values(feature, near_miss=True) if value > 0]
    expect(page.locator(".context .change", has_text="enters")).to_have_count(len(entering))
    assert entering
    expect(page).to_have_url(re.compile("function=relu"))
    page.reload()
    expect(page.get_by_role("radio", name="ReLU", exact=True)).to_be_checked()
    assert drawn.get_attribute("d") != jump
    lab.get_by_text("Shifted ReLU").click()
    expect(lab.locator(".says")).to_contain_text("the mean falls from")
    expect(page.locator(".context[data-changed]")).to_have_count(0)


def test_the_model_measures_what_a_threshold_costs_and_what_holds_it(
    hostile_site: Site, opened: Opened
) -> None:
    # On the tiny model, which is fast, and whose SAE states neither lambda nor bandwidth.
    page = opened(f"{hostile_site.url}/features?feature={ALWAYS}&lambda=0.002&bandwidth=0.3")
    lab = lab_of(page)
    lab.get_by_role("button", name="Measure on the check").click()
    expect(lab.locator(".curves svg")).to_be_visible(timeout=MODEL_WAIT)
    expect(lab.locator(".terms")).to_contain_text("Lambda 0.00200 is yours. Bandwidth 0.3 is yours")
    for curve in ("path.cost", "path.saving", "rect.window"):
        expect(lab.locator(f".curves {curve}")).to_have_count(1)
    rows = lab.locator("table.variants tbody tr")
    expect(rows).to_have_count(2, timeout=MODEL_WAIT)
    answer = hostile_site.api.threshold(feature=ALWAYS, tokens=1000)
    for row, variant in zip(rows.all(), answer["variants"], strict=True):
        expect(row).to_contain_text(variant["name"])
        expect(row).to_contain_text(number(variant["l0"]))
        expect(row).to_contain_text(signed(variant["delta_lm_loss"], 4))
    before = lab.locator("path.cost").get_attribute("d")
    field = lab.get_by_label("lambda")
    field.fill("0.2")
    field.press("Enter")
    expect(lab.locator(".terms")).to_contain_text("Lambda 0.200 is yours", timeout=MODEL_WAIT)
    expect(page).to_have_url(re.compile(r"lambda=0\.2"))
    # Both stand on one scale, which the saving, now a hundred times as large, stretches.
    assert lab.locator("path.cost").get_attribute("d") != before
    # What is no number is said at its field, and measures nothing with the run's value instead.
    field = lab.get_by_label("lambda")
    field.fill("0,3x")
    field.press("Enter")
    expect(lab.get_by_role("alert")).to_have_text("lambda must be a number.")
    expect(field).to_have_value("0,3x")
    expect(page).to_have_url(re.compile(r"lambda=0\.2"))
    page.goto(f"{hostile_site.url}/features?feature={ALWAYS}&lambda=zero")
    lab.get_by_role("button", name="Measure on the check").click()
    expect(lab.locator(".measured .problem")).to_contain_text("number", timeout=MODEL_WAIT)


def test_the_strip_leads_to_its_group(site: Site, opened: Opened, feature: dict[str, Any]) -> None:
    phone = opened(address(site, feature), phone=True)
    lab_of(phone)
    cells = phone.locator(".strip a")
    expect(cells).to_have_count(len([g for g in feature["groups"] if g["contexts"]]))
    expect(cells.first).to_contain_text(re.compile(r"\d words in \d"))
    last = phone.locator("details.group").last
    expect(last).not_to_have_attribute("open", "")
    cells.last.click()
    expect(last).to_have_attribute("open", "")
    expect(last).to_be_in_viewport()

    page = opened(address(site, feature))
    lab_of(page)
    page.locator(".strip").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    chosen = page.locator(".strip a:focus")
    expect(page.locator("#tip")).to_contain_text("effective number of")
    group = chosen.get_attribute("data-group")
    page.keyboard.press("Enter")
    summary = page.locator(f"#{group} > summary")
    expect(summary).to_be_focused()
    expect(summary).to_be_in_viewport()
    assert page.evaluate("scrollY") > 0
