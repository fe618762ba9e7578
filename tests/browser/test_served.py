"""A server of a test's own ends after the pages that show it, and leaves others open."""

from collections.abc import Callable

from playwright.sync_api import Page

from sae_core.bundle import Bundle
from tests.browser.conftest import Site, served


def test_a_server_outlives_its_pages(
    tiny_bundle: Bundle, hostile_site: Site, opened: Callable[..., Page]
) -> None:
    other = opened(hostile_site.url)
    with served(tiny_bundle, check_tokens=0) as site:
        pages = [opened(f"{site.url}/features"), opened(site.url)]
    assert all(page.is_closed() for page in pages)
    assert not other.is_closed()
