"""Where lines and rows of a page end: what belongs together stands together."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site

Opened = Callable[..., Page]


def test_the_links_of_the_footer_stand_side_by_side(site: Site, opened: Opened) -> None:
    links = opened(site.url + "/").locator(".foot a")
    catalog, api = (links.nth(i).bounding_box() for i in range(2))
    assert catalog
    assert api
    assert 0 < api["x"] - (catalog["x"] + catalog["width"]) < 40


def test_code_in_one_line_has_no_gaps(site: Site, opened: Opened) -> None:
    """The demo's code of this feature is indented below each line break."""
    contexts = opened(site.url + "/features?feature=3259").locator(".context .tokens")
    texts = [each for each in contexts.all_inner_texts() if "↵" in each]
    assert texts
    assert not [each for each in texts if "    " in each]


def test_a_feature_of_a_text_keeps_its_words_whole_on_a_small_phone(
    site: Site, opened: Opened
) -> None:
    page = opened(site.url + "/prompt?text=The%20old%20ship")
    page.set_viewport_size({"width": 320, "height": 640})
    name = page.locator("#text-features div.feature").first
    expect(name).to_be_visible()
    box = name.bounding_box()
    assert box
    assert box["width"] > 120


def test_the_fields_of_sampling_stand_in_one_line_on_a_small_phone(
    site: Site, opened: Opened
) -> None:
    page = opened(site.url + "/steer")
    page.set_viewport_size({"width": 320, "height": 640})
    boxes = [each.bounding_box() for each in page.locator(".sampling input").all()]
    assert len({box["y"] for box in boxes if box}) == 1


def test_no_line_of_a_card_holds_a_mark_alone(site: Site, opened: Opened) -> None:
    """Also where the word after it is too long for what is left of the line."""
    page = opened(site.url + "/")
    text = page.locator(".card .tokens:has(.far.before)").first
    word = text.locator(".far.before + span")
    for width in (1440, 320):
        page.set_viewport_size({"width": width, "height": 900})
        for length in (4, 60):
            word.evaluate("(span, n) => (span.textContent = 'w'.repeat(n))", length)
            below = word.evaluate(
                "(e) => e.getClientRects()[0].top - e.parentElement.getBoundingClientRect().top"
            )
            assert below < 12, (width, length)


@pytest.mark.parametrize("width", [1440, 320])
def test_no_argument_of_a_command_is_cut_that_fits_a_line(
    site: Site, opened: Opened, width: int
) -> None:
    """`--sae` has a hyphen, after which a line may end."""
    page = opened(site.url + "/catalog")
    page.set_viewport_size({"width": width, "height": 900})
    short = page.locator("pre .argument", has_text=re.compile(r"^\S{1,12}$"))
    heights = short.evaluate_all("(all) => all.map((e) => e.getBoundingClientRect().height)")
    assert len(heights) > 100
    assert max(heights) < 24


def test_the_sae_is_told_by_its_name_at_the_narrowest_width(site: Site, opened: Opened) -> None:
    page = opened(site.url)
    page.set_viewport_size({"width": 320, "height": 800})
    choice = page.locator("#sae").bounding_box()
    # Room for "layer 4 ·", the sign of the choice beside it.
    assert choice is not None
    assert choice["width"] > 110
    for each in page.locator(".top a:visible, .top button:visible").all():
        box = each.bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= 320


def test_both_ways_on_look_alike(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/prompt?text=the+sea")
    look = """(node) => {
        const { fontSize, borderBottomStyle, color } = getComputedStyle(node);
        return [fontSize, borderBottomStyle, color];
    }"""
    other, like = (page.locator(each).evaluate(look) for each in ("#open-other", "#find-like"))
    assert like == other
