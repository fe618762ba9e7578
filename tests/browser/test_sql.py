"""The SQL page in a browser: by keyboard, recipes, mistakes, files, and without a script."""

from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect

from sae_core.index.sql_recipes import RECIPES
from tests.browser.conftest import Site

Opened = Callable[..., Page]

LONG = 60_000  # ms; each query has a process of its own


def query_of(page: Page) -> str:
    return page.get_by_label("Query in SQL").input_value()


def test_ctrl_enter_runs_the_query_and_rows_lead_to_features(site: Site, opened: Opened) -> None:
    page = opened(site.url + "/sql")
    field = page.get_by_label("Query in SQL")
    field.fill("SELECT feature, signature FROM features WHERE feature IN (5, 7) ORDER BY feature")
    field.press("Control+Enter")
    expect(page.locator("#count")).to_contain_text("2 rows", timeout=LONG)
    assert "WHERE+feature+IN+%285%2C+7%29" in page.url
    rows = page.locator("table.rows tbody tr")
    expect(rows).to_have_count(2)
    rows.nth(1).get_by_role("link", name="#7", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("#7")
    page.go_back()
    expect(rows).to_have_count(2, timeout=LONG)


def test_a_recipe_is_run_and_stands_in_the_field(site: Site, opened: Opened) -> None:
    recipe = RECIPES[2]
    page = opened(site.url + "/sql")
    page.get_by_role("link", name=recipe.title).click()
    expect(page.locator("#count")).to_contain_text("rows", timeout=LONG)
    assert query_of(page) == recipe.query


def test_a_mistake_names_its_place_and_can_be_corrected(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/sql?{urlencode({'q': 'SELECT nope FROM features'})}")
    expect(page.get_by_role("alert")).to_contain_text("Line 1, column 8: ")
    page.get_by_label("Query in SQL").fill("SELECT 1 AS one")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#count")).to_contain_text("1 row", timeout=LONG)
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("width", [380, 1024, 1600])
def test_a_refusal_stands_right_under_the_query(site: Site, opened: Opened, width: int) -> None:
    page = opened(f"{site.url}/sql?{urlencode({'q': 'DROP TABLE features'})}")
    page.set_viewport_size({"width": width, "height": 900})
    said = page.get_by_role("alert")
    expect(said).to_contain_text("only read")
    placed = [page.locator("#sql"), said, page.locator(".recipes"), page.locator(".views")]
    boxes = [part.bounding_box() for part in placed]
    form, refusal, recipes, views = (box for box in boxes if box is not None)
    assert 0 <= refusal["y"] - (form["y"] + form["height"]) < 60
    assert refusal["y"] + refusal["height"] <= recipes["y"]
    beside = views["x"] >= form["x"] + form["width"]
    assert beside == (width > 900)


def test_a_file_is_downloaded(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/sql?{urlencode({'q': 'SELECT feature FROM features LIMIT 3'})}")
    with page.expect_download(timeout=LONG) as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "result.csv"
    assert download.value.path().read_text(encoding="utf-8") == "feature\n0\n1\n2\n"


def test_it_works_without_a_script(site: Site, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(site.url + "/sql")
        page.get_by_label("Query in SQL").fill("SELECT feature FROM features LIMIT 3")
        page.get_by_role("button", name="Run").click()
        expect(page.locator("table.rows tbody tr")).to_have_count(3, timeout=LONG)
    finally:
        context.close()
