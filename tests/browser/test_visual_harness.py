"""The visual checks find what they are for, and nothing else.

Needs no server: each page is a few lines of markup, from `visual_cases`.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.visual import VIEWS, View, canvas, inspect, look
from tests.browser.visual_cases import BASE, CASES, LINE, Case


def view(case: Case) -> View:
    return View(name="one", width=1440, height=900, checks=(case.check,), forced=case.forced)


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    context = canvas(browser, "light")
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_found(page: Page, name: str) -> None:
    case = CASES[name]
    page.set_content(BASE + case.fault)
    complaints = look(page, view(case))
    assert any(case.complaint in each for each in complaints), complaints


@pytest.mark.parametrize("name", CASES)
def test_what_is_sound_brings_no_complaint(page: Page, name: str) -> None:
    case = CASES[name]
    page.set_content(BASE + case.sound)
    assert look(page, view(case)) == []


def test_a_page_is_left_as_it_was(page: Page) -> None:
    markup = (
        '<style>button:hover { color: red } .s { position: sticky; top: 0 }</style><p class="s">'
        '<button aria-pressed="false" style="--a: 0.5">Go</button> <a href="#" aria-current="page">'
        "here</a></p>"
    )
    page.set_content(BASE + markup)
    state = "[document.body.outerHTML, document.styleSheets[1].cssRules[0].cssText]"
    before = page.evaluate(state)
    every = tuple(dict.fromkeys(check for each in VIEWS for check in each.checks))
    look(page, View(name="one", width=1440, height=900, checks=every))
    assert page.evaluate(state) == before
    assert page.evaluate("document.adoptedStyleSheets.length") == 0


def test_complaints_of_one_kind_are_told_once_with_where_they_hold(browser: Browser) -> None:
    context = canvas(browser, "dark")
    page = context.new_page()
    line = f'<p style="{LINE}">A long line of text</p>'
    page.set_content(BASE + line + line.replace("A long", "One more"))
    views = tuple(View(name=str(w), width=w, height=640, checks=("cut",)) for w in (1440, 320))
    (complaint,) = inspect(page, views)
    assert complaint.startswith('main > p "A long line of text" is cut off')
    assert complaint.endswith("[1440, 320; 4 in all]")
    context.close()


def test_windows_are_what_they_are_called(browser: Browser) -> None:
    context = canvas(browser, "light")
    page = context.new_page()
    page.set_content(BASE)
    seen = {}
    for each in VIEWS:
        look(page, View(**{**vars(each), "checks": ()}))
        seen[each.name] = page.evaluate(
            """[innerWidth, devicePixelRatio,
            ...["(forced-colors: active)", "(prefers-contrast: more)", "(pointer: coarse)"].map(
              (query) => matchMedia(query).matches)]"""
        )
    context.close()
    assert seen["1440"] == [1440, 1, False, False, False]
    assert seen["200 %"] == [720, 2, False, False, False]
    assert seen["more contrast"][3]
    assert seen["forced"][2]
    assert seen["390"] == [390, 1, False, False, True]
    assert seen["forced 390"][:3] == [390, 1, True]
