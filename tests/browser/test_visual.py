"""Every page in every state, as people see it: nothing cut, covered, faint, or out of reach.

What is looked at stands in `visual.STATES`, and in which windows in `visual.VIEWS`.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.browser.conftest import Site
from tests.browser.visual import SCHEMES, STATES, Scheme, State, canvas, inspect, opened_page

OWN_SHEETS = {
    "/": "overview",
    "/features": "features",
    "/prompt": "prompt",
    "/steer": "steer",
    "/catalog": "catalog",
    "/blind": "blind",
    "/sql": "sql",
    "/lists": "lists",
    "/find": "find",
    "/map": "map",
}


@pytest.fixture(scope="module")
def canvases(browser: Browser) -> Iterator[dict[Scheme, BrowserContext]]:
    contexts: dict[Scheme, BrowserContext] = {each: canvas(browser, each) for each in SCHEMES}
    yield contexts
    for context in contexts.values():
        context.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_nothing_is_wrong_to_the_eye(
    site: Site, canvases: dict[Scheme, BrowserContext], state: State, scheme: Scheme
) -> None:
    with opened_page(canvases[scheme], site.url, state) as page:
        complaints = inspect(page)
    assert not complaints, "\n".join([f"{state.address}, {scheme}:", *complaints])


@pytest.mark.parametrize("address", OWN_SHEETS)
def test_the_sheet_of_a_page_is_known_by_its_name(
    site: Site, canvases: dict[Scheme, BrowserContext], address: str
) -> None:
    """Or the check that its rules stay on the page would look at nothing."""
    state = State(name=address, address=address)
    with opened_page(canvases["light"], site.url, state) as page:
        names = page.evaluate("visual.sheetNames()")
    assert OWN_SHEETS[address] in names
