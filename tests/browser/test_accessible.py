"""What axe-core finds on every page, and how far the keyboard has to go."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.browser.conftest import Site
from tests.browser.visual import FEATURE, SCHEMES, STATES, Scheme, State, canvas, opened_page

AXE: Final = Path(__file__).parents[1] / "js/node_modules/axe-core/axe.min.js"
RULES: Final = ("wcag2a", "wcag2aa", "wcag21aa", "best-practice")
SIZES: Final = ((1440, 900), (390, 844))
CONTEXTS: Final = ".contexts, #contexts, [data-contexts]"
MOST_STOPS: Final = 45


@pytest.fixture(scope="module")
def canvases(browser: Browser) -> Iterator[dict[Scheme, BrowserContext]]:
    assert AXE.exists(), f"{AXE} is missing: install what tests/js/package.json names."
    contexts: dict[Scheme, BrowserContext] = {each: canvas(browser, each) for each in SCHEMES}
    for context in contexts.values():
        context.add_init_script(path=AXE)
    yield contexts
    for context in contexts.values():
        context.close()


def violations(page: Page) -> list[str]:
    """A sentence for each element that breaks a rule."""
    result: list[dict[str, Any]] = page.evaluate(
        """async (tags) => {
          const how = { runOnly: { type: "tag", values: tags }, resultTypes: ["violations"] };
          return (await axe.run(document, how)).violations;
        }""",
        RULES,
    )
    return [
        f"{rule['id']}: {rule['help']}: {node['html'][:120]} ({node['failureSummary']})"
        for rule in result
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_no_rule_of_axe_is_broken(
    site: Site, canvases: dict[Scheme, BrowserContext], state: State, scheme: Scheme
) -> None:
    complaints: list[str] = []
    with opened_page(canvases[scheme], site.url, state) as page:
        for width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            complaints += [f"at {width}: {each}" for each in violations(page)]
    assert not complaints, "\n".join([f"{state.address}, {scheme}:", *complaints])


def test_axe_finds_what_is_wrong(canvases: dict[Scheme, BrowserContext]) -> None:
    page = canvases["light"].new_page()
    page.set_content('<html lang="en"><title>t</title><main><h1>h</h1><img src="x"></main>')
    assert [each.split(":")[0] for each in violations(page)] == ["image-alt"]
    page.close()


def stops_until_past(page: Page, selector: str, most: int) -> int:
    """How often Tab is pressed until the focus is behind the last element that matches.

    Counts to `most` + 1 at the most; a focus that has left the page is behind everything.
    """
    section = page.locator(selector).last
    for stops in range(most + 1):
        page.keyboard.press("Tab")
        past = section.evaluate(
            """(section) => {
              const at = document.activeElement;
              if (at === null || at === document.body) return true;
              const where = section.compareDocumentPosition(at);
              return !section.contains(at) && Boolean(where & Node.DOCUMENT_POSITION_FOLLOWING);
            }"""
        )
        if past:
            return stops
    return most + 1


def test_the_keyboard_is_soon_past_the_contexts_of_a_feature(
    site: Site, canvases: dict[Scheme, BrowserContext]
) -> None:
    state = State(name="feature", address=f"/features?feature={FEATURE}")
    with opened_page(canvases["light"], site.url, state) as page:
        assert stops_until_past(page, CONTEXTS, MOST_STOPS) <= MOST_STOPS


def test_stops_of_the_keyboard_are_counted(canvases: dict[Scheme, BrowserContext]) -> None:
    page = canvases["light"].new_page()
    buttons = "<button>in</button>" * 4
    page.set_content(
        f'<a href="#">before</a><div id="contexts">{buttons}</div><a href="#">after</a>'
    )
    assert stops_until_past(page, CONTEXTS, 9) == 5
    page.set_content(f'<a href="#">before</a><div id="contexts">{buttons * 4}</div>')
    assert stops_until_past(page, CONTEXTS, 9) == 10
    page.close()
