"""Pages inside a page of another site, where the browser keeps storage from them."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Frame, Page, expect

from tests.browser.conftest import FLAGS, Site, chromium, complain

# The site around the frame is this machine under another name.
OUTER = """<!doctype html><title>Notes</title><h1>Notes</h1>
<iframe src="{address}" width="1200" height="800" title="Jumpscope"></iframe>"""
STORAGE_IS_REFUSED = """() => {
  try { window.localStorage; return false } catch (error) { return error.name === "SecurityError" }
}"""


@pytest.fixture
def around(hostile_site: Site) -> Iterator[str]:
    """The address of a page of another site; its query names the app's page in its frame."""

    class Outer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            page = self.path.partition("?")[2]
            self.wfile.write(OUTER.format(address=f"{hostile_site.url}/{page}").encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Outer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/around"
    server.shutdown()
    server.server_close()


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """Errors of the console and of scripts; a test that expects one takes it out."""
    said: list[str] = []
    yield said
    assert not said


@pytest.fixture
def strict(browser: Browser, tmp_path: Path, complaints: list[str]) -> Iterator[Page]:
    """A page of a Chromium that lets no site keep anything inside a page of another site."""
    profile = tmp_path / "profile/Default"
    profile.mkdir(parents=True)
    blocked = {"profile": {"cookie_controls_mode": 1, "block_third_party_cookies": True}}
    (profile / "Preferences").write_text(json.dumps(blocked))
    kind = browser.browser_type
    context = kind.launch_persistent_context(
        profile.parent,
        executable_path=chromium(),
        args=list(FLAGS),
        viewport={"width": 1300, "height": 900},
    )
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(f"script error: {error}"))
    page.on("console", lambda message: complain(message, complaints))
    yield page
    context.close()


def framed(page: Page, address: str) -> Frame:
    """The app's frame in a page of another site, once its page is there."""
    page.goto(address)
    expect(page.frame_locator("iframe").locator("main")).to_be_visible()
    frame = page.frames[1]
    assert frame.evaluate(STORAGE_IS_REFUSED), "this browser keeps storage for frames"
    return frame


def test_a_page_works_where_storage_is_refused(strict: Page, around: str) -> None:
    frame = framed(strict, f"{around}?prompt")
    frame.locator("textarea").first.fill("The river follows the harbour.")
    frame.locator("textarea").first.press("Control+Enter")
    expect(frame.locator("main")).to_contain_text("harbour")
    expect(frame.locator("[data-token], .tokens").first).to_be_visible()


@pytest.mark.parametrize("page", ["", "features", "features?feature=5", "steer", "api"])
def test_every_page_opens_where_storage_is_refused(strict: Page, around: str, page: str) -> None:
    frame = framed(strict, f"{around}?{page}")
    expect(frame.locator("main")).to_be_visible()
    frame.locator("#theme").click()


def test_a_site_that_was_not_named_may_not_embed(
    strict: Page, around: str, complaints: list[str]
) -> None:
    with strict.expect_console_message(lambda message: "frame-ancestors" in message.text):
        strict.goto(around.replace("localhost", "other.localhost"))
    assert strict.frames[1].evaluate("() => !document.querySelector('main')")
    complaints.clear()
