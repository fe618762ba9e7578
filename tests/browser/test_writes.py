"""What features write: sorted and filtered in the list, told and defined on a feature's page."""

from collections.abc import Callable
from urllib.parse import parse_qs, urlparse

from playwright.sync_api import Page, expect

from app.web.numbers import number
from sae_core.definitions import SCORE_DEFINITIONS
from tests.browser.conftest import Site

Opened = Callable[..., Page]


def asked(page: Page) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(urlparse(page.url).query).items()}


def test_from_the_list_of_what_writes_most_to_a_feature(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features")
    page.locator("#sort-output_score").click()
    expect(page.locator("th[aria-sort]")).to_contain_text("writes")
    best = site.api.search_features(sort="output_score", limit=50)["features"]
    expect(page.locator("td.id a").first).to_have_text(f"#{best[0]['feature']}")

    page.get_by_label("side effect at most").select_option(index=4)
    page.wait_for_url("**effect=**")
    most = float(asked(page)["effect"])
    kept = site.api.search_features(sort="output_score", max_side_effect=most)
    expect(page.locator("#results [role=status]:not([data-row-kept])")).to_contain_text(
        f"of {kept['total']:,}"
    )
    assert 0 < kept["total"] < site.api.search_features()["total"]
    page.get_by_label("writes at least").select_option(index=3)
    page.wait_for_url("**score=0**")
    both = site.api.search_features(
        sort="output_score", max_side_effect=most, min_output_score=float(asked(page)["score"])
    )
    assert 0 < both["total"] < kept["total"]
    expect(page.locator("#results [role=status]:not([data-row-kept])")).to_contain_text(
        f"of {both['total']:,}"
    )

    page.reload()
    expect(page.get_by_label("writes at least")).to_have_value(asked(page)["score"])
    expect(page.get_by_label("side effect at most")).to_have_value(asked(page)["effect"])
    page.go_back()
    expect(page.get_by_label("writes at least")).to_have_value("")
    page.go_forward()
    expect(page.locator("td.id a").first).to_have_text(f"#{both['features'][0]['feature']}")

    page.locator("td.id a").first.click()
    score = number(both["features"][0]["output_score"])
    expect(page.locator("[data-writes]")).to_contain_text(f"Writes: output score {score} (")
    page.get_by_role("button", name="output score").hover()
    expect(page.locator("#tip")).to_have_text(SCORE_DEFINITIONS["output_score"])


def test_the_list_with_its_filters_fits_a_small_phone(site: Site, opened: Opened) -> None:
    page = opened(f"{site.url}/features?sort=output_score", phone=True)
    page.set_viewport_size({"width": 320, "height": 700})
    expect(page.locator("th[aria-sort]")).to_contain_text("writes")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 320
    # Six numbers in two lines of three, each below its head's column.
    places = "cells => cells.map(e => [e.offsetLeft, e.offsetTop - e.parentElement.offsetTop])"
    heads = page.locator("thead th.n").evaluate_all(places)
    cells = page.locator("tbody tr").first.locator("td.n").evaluate_all(places)
    assert len(heads) == 6
    assert [left for left, _ in heads] == [left for left, _ in cells]
    for columns in (heads, cells):
        assert len({left for left, _ in columns}) == 3
        assert len({top for _, top in columns}) == 2
