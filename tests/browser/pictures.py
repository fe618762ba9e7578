"""Makes the pictures of docs/pictures from the bundled demo: `make pictures`.

Not a test. Pictures are palette PNGs, a fraction of the size and the same to the eye.
"""

import json
import shutil
import sys
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from app.commands.shared import open_bundle
from app.endpoints import Api
from tests.browser.conftest import DESKTOP, FLAGS, PHONE, served

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
PROMPT = (
    "The captain looked at the dark water, and the ship turned slowly towards the harbour "
    "before the storm."
)
SAILORS = "The captain looked at the dark water, while the sailors"
FEATURE = 3954  # sea, ship, boat


def overview(page: Page, home: str) -> None:
    """The SAE's quality and features worth opening."""
    page.goto(home)
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def feature(page: Page, home: str) -> None:
    """One feature."""
    page.goto(f"{home}/features?feature={FEATURE}")
    expect(page.get_by_text("Steer with it")).to_be_visible()


def prompt(page: Page, home: str) -> None:
    """A text, what the splice costs on it, and what fires on one token."""
    page.goto(f"{home}/prompt?{urlencode({'text': PROMPT, 'token': 12})}")
    expect(page.locator("#selection .effects")).to_be_visible()


def what_comes_next(page: Page, home: str) -> None:
    """What comes next after a token, and without the two features that carry it."""
    chosen = {"token": 12, "next": "12.439", "off": "12-12.2851-12.3743"}
    page.goto(f"{home}/prompt?{urlencode({'text': SAILORS, **chosen})}")
    expect(page.locator(".joint tbody tr")).to_have_count(3)
    # The panel is as tall as the window where the page is scrolled.
    page.locator(".controls").evaluate("node => scrollTo(0, node.offsetTop)")
    page.locator("#selection").evaluate("node => { node.scrollTop = 172; }")


def steer(page: Page, home: str) -> None:
    """The first of the demo's steering examples, run to its end."""
    page.goto(f"{home}/steer")
    page.locator("#ideas button, #ideas a").first.click()
    if not page.locator("#run").is_visible():
        page.locator("#generate").click()
    expect(page.locator("#run-status")).to_contain_text("Done", timeout=60_000)


def ladder(page: Page, home: str) -> None:
    """One edit at eight strengths, with the band of those that steer and stay fluent."""
    edit = {"feature": FEATURE, "mode": "set", "strength": 0.75, "positions": "continuation"}
    tried = {"prompt": "The old man walked into the", "tokens": 30, "edits": json.dumps([edit])}
    page.goto(f"{home}/steer?{urlencode({**tried, 'ladder': 0, 'ladder_seeds': 2})}")
    expect(page.locator("#ladder-sentence")).not_to_be_empty(timeout=120_000)


def proof(page: Page, home: str) -> None:
    """The demo's proof that passes, run to its end."""
    page.goto(f"{home}/steer")
    page.locator("a.idea", has_text="Passes").first.click()
    expect(page.locator(".proof-sentence")).to_be_visible(timeout=180_000)
    page.locator("#proof").evaluate("node => scrollTo(0, node.offsetTop - 12)")


PICTURES = {
    "overview": (overview, DESKTOP, "light"),
    "feature": (feature, DESKTOP, "light"),
    "prompt": (prompt, DESKTOP, "light"),
    "next": (what_comes_next, DESKTOP, "light"),
    "steer": (steer, DESKTOP, "light"),
    "steer-dark": (steer, DESKTOP, "dark"),
    "ladder": (ladder, DESKTOP, "light"),
    "proof": (proof, DESKTOP, "light"),
    "prompt-phone": (prompt, PHONE, "light"),
}


def main() -> None:
    """Take every picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or sys.exit("chromium is not installed")
    with served(open_bundle("demo")) as site, sync_playwright() as playwright:
        # As people find it who have had it open for a moment.
        Api(site.workbench).check()
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for name, (show, size, scheme) in PICTURES.items():
            page = browser.new_page(
                viewport=size,  # pyright: ignore[reportArgumentType]
                color_scheme=scheme,  # pyright: ignore[reportArgumentType]
            )
            page.set_default_timeout(60_000)
            show(page, site.url)
            page.mouse.move(0, 0)
            path = FOLDER / f"{name}.png"
            page.screenshot(path=path)
            Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
