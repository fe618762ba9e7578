"""A page that is open hears of a renewed index, and keeps its reader's place."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest
from playwright.sync_api import Page, expect

from sae_core.bundle import Bundle
from tests import tiny
from tests.browser.conftest import Site, served

Opened = Callable[..., Page]
FEATURE = 5


@pytest.fixture
def own_site(tiny_bundle: Bundle, tmp_path: Path) -> Iterator[Site]:
    """The tiny bundle in a folder that the test may write into."""
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    with served(Bundle.open(folder), check_tokens=0) as running:
        running.workbench.load()
        yield running


def index_of(site: Site) -> Path:
    return site.workbench.bundle.index_path(tiny.SAE_NAME)


def renew(site: Site, signature: str) -> None:
    """Put an index with other signatures into the place of the one that is read."""
    path = index_of(site)
    copy = Path(shutil.copy(path, path.with_name("copy.duckdb")))
    with duckdb.connect(str(copy)) as connection:
        connection.execute("UPDATE features SET signature = ?", [signature])
    os.replace(copy, path)


def test_a_feature_is_drawn_anew_where_it_is_read(own_site: Site, opened: Opened) -> None:
    page = opened(f"{own_site.url}/features?feature={FEATURE}", phone=True)
    heading = page.locator("h1")
    page.evaluate("document.getElementById('next').focus()")
    page.evaluate("scrollTo(0, 400)")
    top = page.evaluate("scrollY")
    assert top > 0
    renew(own_site, "renewed words")
    expect(heading).to_contain_text("renewed words")
    expect(page.locator("#renewed")).to_have_text(
        "The index was renewed: this page shows what there is now."
    )
    assert page.evaluate("scrollY") == top
    assert page.evaluate("document.activeElement.id") == "next"
    # Once: it is the same index from then on.
    page.evaluate("document.querySelector('h1').dataset.mark = 'kept'")
    for _ in range(2):
        with page.expect_response("**/revision?**"):
            pass
    assert page.evaluate("document.querySelector('h1').dataset.mark") == "kept"


def test_what_was_gathered_of_other_weights_is_not_theirs(own_site: Site, opened: Opened) -> None:
    page = opened(f"{own_site.url}/features")
    page.locator("td.id a").first.click(modifiers=["Shift"])
    tray = page.get_by_role("complementary", name="Features that you gather")
    expect(tray).to_contain_text("1 feature gathered")
    file = own_site.workbench.bundle.sae_path(tiny.SAE_NAME) / "sae_weights.safetensors"
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    other = file.with_name("other")
    other.write_bytes(whole)
    os.replace(other, file)
    expect(page.locator("#renewed")).to_contain_text("The index cannot be read any more")
    expect(tray).to_have_count(0)


def test_what_is_typed_into_the_search_stays(own_site: Site, opened: Opened) -> None:
    page = opened(f"{own_site.url}/features")
    field = page.get_by_role("searchbox")
    field.fill("renewed")
    expect(page).to_have_url(f"{own_site.url}/features?q=renewed")
    renew(own_site, "renewed words")
    expect(page.locator("main")).to_contain_text("renewed words")
    expect(field).to_have_value("renewed")
    expect(field).to_be_focused()


def test_an_index_that_goes_and_comes_back(own_site: Site, opened: Opened) -> None:
    page = opened(own_site.url)
    path = index_of(own_site)
    path.rename(path.with_name("away"))
    expect(page.locator("main")).to_contain_text("has no index yet")
    expect(page.locator("#renewed")).to_contain_text("cannot be read any more")
    path.with_name("away").rename(path)
    expect(page.locator("main")).not_to_contain_text("has no index yet")
    expect(page.locator("#renewed")).to_contain_text("was renewed")


def test_a_page_that_was_asked_for_offers_to_be_loaded_again(
    own_site: Site, opened: Opened
) -> None:
    page = opened(f"{own_site.url}/prompt?text=The%20old%20clock")
    expect(page.locator("main")).to_contain_text("features")
    renew(own_site, "renewed words")
    line = page.locator("#renewed")
    expect(line).to_contain_text("this page is from before")
    line.get_by_role("button", name="Load it again").click()
    expect(page.locator("main")).to_contain_text("renewed words")
    expect(line).to_be_empty()


def test_a_file_that_is_not_taken_is_spoken_of(own_site: Site, opened: Opened) -> None:
    page = opened(f"{own_site.url}/features?feature={FEATURE}")
    heading = page.locator("h1").inner_text()
    path = index_of(own_site)
    path.with_name("copy.duckdb").write_bytes(b"no index" * 5000)
    os.replace(path.with_name("copy.duckdb"), path)
    note = page.locator("#index-note")
    expect(note).to_contain_text("the one from before goes on")
    expect(note).to_contain_text("jumpscope index")
    assert page.locator("h1").inner_text() == heading
    page.reload()
    expect(note).to_contain_text("the one from before goes on")
    assert page.locator("h1").inner_text() == heading
