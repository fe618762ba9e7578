"""The map of features in a browser: points where the places say, and what pointer and keys do."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from app.commands.shared import open_bundle
from tests.browser.conftest import Site, served

Opened = Callable[..., Page]
Columns = dict[str, np.ndarray]
MARGIN = 0.94
"""Of the window's shorter side, what the whole map has (js/map-view.js)."""


@pytest.fixture(scope="module")
def columns(site: Site) -> Columns:
    answer: dict[str, Any] = site.api.map()
    return {
        name: np.frombuffer(base64.b64decode(column["data"]), column["dtype"])
        for name, column in answer["columns"].items()
    }


def map_of(site: Site, opened: Opened, query: str = "", **how: Any) -> Page:
    page = opened(f"{site.url}/map{query}", **how)
    expect(page.locator("#map-plot[data-ready]")).to_be_attached(timeout=60_000)
    return page


def settled(page: Page) -> None:
    """Two frames later everything that was asked for is drawn."""
    page.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")


def pixels(page: Page) -> np.ndarray:
    """How opaque each pixel of the points' canvas is, `[height, width]`."""
    settled(page)
    width, height, alpha = page.evaluate("""() => {
        const canvas = document.getElementById("map-dots");
        const { data, width, height } = canvas.getContext("2d").getImageData(
            0, 0, canvas.width, canvas.height);
        let text = "";
        for (let i = 3; i < data.length; i += 4) text += String.fromCharCode(data[i]);
        return [width, height, btoa(text)];
    }""")
    return np.frombuffer(base64.b64decode(alpha), np.uint8).reshape(height, width)


def whole_view(columns: Columns, width: int, height: int) -> np.ndarray:
    """Where the points are when all of the map is shown: left and top, `[n, 2]`."""
    scale = min(width, height) * MARGIN
    x, y = columns["x"] / 65535 - 0.5, columns["y"] / 65535 - 0.5
    return np.stack([x * scale + width / 2, height / 2 - y * scale], 1)


def corner(page: Page) -> tuple[float, float]:
    """The window's position of the plot's inner left top."""
    left, top = page.evaluate("""() => {
        const plot = document.getElementById("map-plot");
        const box = plot.getBoundingClientRect();
        return [box.left + plot.clientLeft, box.top + plot.clientTop];
    }""")
    return left, top


def listed(page: Page) -> list[int]:
    expect(page.locator("#map-rows tr").first).to_be_visible()
    return [int(text[1:]) for text in page.locator("#map-rows a.id").all_inner_texts()]


def test_points_are_drawn_where_their_places_say(
    site: Site, opened: Opened, columns: Columns
) -> None:
    page = map_of(site, opened)
    alpha = pixels(page)
    height, width = alpha.shape
    expected = np.rint(whole_view(columns, width, height)).astype(int)
    assert (alpha[expected[:, 1], expected[:, 0]] == 255).all()
    # And nothing is drawn where no point is near.
    empty = np.ones_like(alpha, bool)
    for left, top in expected:
        empty[max(top - 5, 0) : top + 6, max(left - 5, 0) : left + 6] = False
    assert empty.mean() > 0.2
    assert not alpha[empty].any()
    dead = site.api.map()["dead"]
    expect(page.locator("#map-status")).to_contain_text(f"{dead} features never fire")


def test_zoom_keeps_the_point_under_the_pointer(
    site: Site, opened: Opened, columns: Columns
) -> None:
    page = map_of(site, opened)
    before = pixels(page)
    height, width = before.shape
    places = whole_view(columns, width, height)
    # One with room around it stays in sight of the pointer.
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    i = int(apart.min(1).argmax())
    left, top = corner(page)
    x, y = round(left + places[i, 0]), round(top + places[i, 1])
    page.mouse.move(x, y)
    for _ in range(4):
        page.mouse.wheel(0, -250)
    # What was beside the pointer by a part of a pixel is farther from it now by this factor.
    pointer = np.array([x - left, y - top])
    there = pointer + (places[i] - pointer) * np.exp(0.002 * 4 * 250)
    page.wait_for_function(
        """([left, top]) => document.getElementById("map-dots").getContext("2d")
            .getImageData(left, top, 1, 1).data[3] === 255""",
        arg=[int(each) for each in np.rint(there)],
    )
    after = pixels(page)
    assert (after > 0).mean() < 0.8 * (before > 0).mean()  # there are fewer in sight
    page.mouse.move(x + 1, y)
    here = page.locator("#map-here")
    expect(here).to_have_attribute("aria-label", f"#{columns['feature'][i]}")
    # The link under the pointer is the feature's: a card, and a click opens it.
    expect(page.locator("#glance")).to_contain_text(f"#{columns['feature'][i]}")
    page.mouse.down()
    page.mouse.up()
    expect(page.locator("h1")).to_contain_text(f"#{columns['feature'][i]}")


def test_the_card_is_of_the_point_where_the_pointer_came_to_rest(
    site: Site, opened: Opened, columns: Columns
) -> None:
    page = map_of(site, opened)
    height, width = pixels(page).shape
    places = whole_view(columns, width, height)
    # Two that one link's circle would hold, no third near: the link goes from one to the other.
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    first, second = np.sort(apart, 1)[:, :2].T
    good = (first > 5) & (first < 9)
    i = int(np.flatnonzero(good)[second[good].argmax()])
    j = int(apart[i].argmin())
    left, top = corner(page)
    card = page.locator("#glance")
    page.mouse.move(left - 5, top - 5)
    # In one movement: the link comes after the pointer's last.
    page.mouse.move(left + places[i, 0], top + places[i, 1])
    expect(card).to_contain_text(f"#{columns['feature'][i]}")
    page.mouse.move(left + places[j, 0], top + places[j, 1])
    expect(card).to_contain_text(f"#{columns['feature'][j]}")
    # What is zoomed away under a resting pointer takes its card along.
    expect(card).to_be_visible()
    page.mouse.wheel(0, -100)
    expect(card).to_be_hidden()


def test_dragging_moves_the_map_and_opens_nothing(
    site: Site, opened: Opened, columns: Columns
) -> None:
    page = map_of(site, opened)
    before = pixels(page)
    height, width = before.shape
    left, top = corner(page)
    places = whole_view(columns, width, height)
    start = places[len(places) // 2]
    page.mouse.move(left + start[0], top + start[1])
    page.mouse.down()
    page.mouse.move(left + start[0] + 40, top + start[1] + 25, steps=5)
    page.mouse.up()
    after = pixels(page)
    inside = (slice(60, height - 60), slice(60, width - 60))
    shifted = np.roll(before, (25, 40), (0, 1))
    assert (np.abs(after[inside].astype(int) - shifted[inside]) > 128).mean() < 0.005
    assert "/map" in page.url


def test_a_lasso_lists_exactly_what_is_inside(site: Site, opened: Opened, columns: Columns) -> None:
    page = map_of(site, opened)
    height, width = pixels(page).shape
    places = whole_view(columns, width, height)
    centre = places[np.argmin(np.hypot(*(places - np.median(places, 0)).T))]
    # Between points, so that no rounding decides.
    low, high = centre - np.array([34.5, 22.5]), centre + np.array([31.5, 26.5])
    inside = ((places > low) & (places < high)).all(1)
    assert 3 < inside.sum() < 200
    left, top = corner(page)
    page.keyboard.down("Shift")
    page.mouse.move(left + low[0], top + low[1])
    page.mouse.down()
    for x, y in ((high[0], low[1]), (high[0], high[1]), (low[0], high[1])):
        page.mouse.move(left + x, top + y, steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    near_edge = (np.abs(places - low) < 1).any(1) | (np.abs(places - high) < 1).any(1)
    result = set(listed(page))
    assert set(columns["feature"][inside & ~near_edge].tolist()) <= result
    assert result <= set(columns["feature"][inside | near_edge].tolist())
    expect(page.locator("#map-count")).to_have_text(f"{len(result)} features")
    page.get_by_role("button", name="Copy the numbers").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert {int(each) for each in copied.split()} == result
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#map-listed")).to_be_hidden()


def test_a_lasso_that_is_in_hand_is_seen(site: Site, opened: Opened) -> None:
    page = map_of(site, opened)
    lasso = page.locator("#map-lasso")
    look = """(node) => {
        const { backgroundColor, borderColor, outlineStyle } = getComputedStyle(node);
        return [backgroundColor, borderColor, outlineStyle];
    }"""
    for forced in ("none", "active"):
        page.emulate_media(forced_colors=forced)  # pyright: ignore[reportArgumentType]
        before = lasso.evaluate(look)
        lasso.dispatch_event("click")  # neither pointed at nor focused
        assert lasso.get_attribute("aria-pressed") == "true"
        assert lasso.evaluate(look) != before
        lasso.dispatch_event("click")


def test_it_works_by_keyboard_alone(site: Site, opened: Opened, columns: Columns) -> None:
    page = map_of(site, opened)
    plot = page.locator("#map-plot")
    plot.focus()
    first = pixels(page)
    height, width = first.shape
    page.keyboard.press("ArrowRight")
    moved = pixels(page)
    assert (np.abs(moved.astype(int) - np.roll(first, -60, 1))[:, 80:-80] > 128).mean() < 0.005
    page.keyboard.press("0")
    np.testing.assert_array_equal(pixels(page), first)
    for _ in range(7):
        page.keyboard.press("+")
    settled(page)
    page.keyboard.press("Enter")
    places = whole_view(columns, width, height)
    middle = np.array([width, height]) / 2
    in_view = (np.abs(places - middle) * 1.5**7 <= middle).all(1)
    expected = columns["feature"][in_view]
    assert 0 < len(expected) < 200
    assert listed(page) == expected.tolist()
    page.locator("#map-rows a.id").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text(f"#{expected[0]}")


def test_a_search_marks_and_lists(site: Site, opened: Opened) -> None:
    page = map_of(site, opened)
    page.keyboard.press("/")
    page.keyboard.type("ship")
    page.keyboard.press("Enter")
    answer = site.api.search_features(query="ship", limit=200)
    alive = [row["feature"] for row in answer["features"] if row["frequency"]]
    assert listed(page) == alive
    expect(page.locator("#map-status")).to_contain_text("Marked with rings")
    assert "q=ship" in page.url
    faint = pixels(page)
    assert (faint == 255).sum() < 0.1 * (faint > 0).sum()  # all others are faint


def test_where_an_answer_lists_few_so_many_are_listed(opened: Opened) -> None:
    with served(open_bundle("demo"), max_rows=20, check_tokens=0) as few:
        page = map_of(few, opened)
        page.locator("#map-in-view").click()
        expect(page.locator("#map-count")).to_contain_text("the first 20 are listed")
        expect(page.locator("#map-rows tr")).to_have_count(20)
        page.locator("#map-search").fill("the")
        page.locator("#map-search").press("Enter")
        expect(page.locator("#map-status")).to_contain_text("the 20 best of")
        expect(page.locator("#map-status .problem, #map-count .problem")).to_have_count(0)


def test_a_legend_entry_shows_its_features_alone(
    site: Site, opened: Opened, columns: Columns
) -> None:
    page = map_of(site, opened, "?colour=source")
    entries = page.locator("#map-legend button")
    counts = [int(text.replace(",", "")) for text in entries.locator(".count").all_inner_texts()]
    assert sum(counts) == len(columns["feature"])
    assert counts == sorted(counts, reverse=True)
    source = int(np.bincount(columns["source"]).argmax())
    entries.first.click()
    expect(entries.first).to_have_attribute("aria-pressed", "true")
    alpha = pixels(page)
    places = np.rint(whole_view(columns, alpha.shape[1], alpha.shape[0])).astype(int)
    full = alpha[places[:, 1], places[:, 0]] == 255
    assert full[columns["source"] == source].all()


def test_the_feature_of_the_address_is_marked_and_a_dead_one_said(
    site: Site, opened: Opened, columns: Columns
) -> None:
    i = len(columns["feature"]) // 3
    page = map_of(site, opened, f"?feature={columns['feature'][i]}")
    height, width = pixels(page).shape
    left, top = np.rint(whole_view(columns, width, height)[i]).astype(int)
    ring = page.evaluate(
        """([left, top]) => {
        const marks = document.getElementById("map-marks").getContext("2d");
        const { data } = marks.getImageData(left - 20, top - 20, 41, 41);
        return data.filter((_, at) => at % 4 === 3 && data[at]).length;
    }""",
        [int(left), int(top)],
    )
    assert ring > 60
    dead = site.api.search_features(max_frequency=0.0, limit=1)["features"][0]["feature"]
    assert dead not in columns["feature"]
    page = map_of(site, opened, f"?feature={dead}")
    expect(page.locator("#map-status")).to_contain_text(f"#{dead} is not drawn: it never fires.")


def test_a_finger_lists_the_feature_that_it_taps(
    site: Site, opened: Opened, columns: Columns
) -> None:
    page = map_of(site, opened, phone=True)
    page.locator("#map-plot").scroll_into_view_if_needed()
    box = page.evaluate(
        "(({clientWidth: w, clientHeight: h}) => [w, h])(document.getElementById('map-plot'))"
    )
    places = whole_view(columns, *box)
    i = int(np.argmin(np.hypot(*(places - np.median(places, 0)).T)))
    left, top = corner(page)
    page.touchscreen.tap(left + places[i, 0], top + places[i, 1])
    [feature] = listed(page)
    at = places[columns["feature"].tolist().index(feature)]
    assert np.hypot(*(at - places[i])) < 2
