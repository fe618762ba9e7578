"""Makes the pictures of docs/pictures from the bundled demo: `make pictures`.

Not a test. Pictures are WebP of few colours, a fraction of the size and the same to the eye.
"""

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from app.commands.shared import open_bundle
from app.endpoints import Api
from tests.browser.conftest import DESKTOP, FLAGS, PHONE, served
from tests.demo_features import of_the_sea

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
PROMPT = (
    "The captain looked at the dark water, and the ship turned slowly towards the harbour "
    "before the storm."
)
SAILORS = "The captain looked at the dark water, while the sailors"
COLOURS = 88
FEATURE = of_the_sea()


def overview(page: Page, home: str) -> None:
    """A sentence read by features, the SAE's quality and features worth opening."""
    page.goto(home)
    expect(page.locator("#living-answer .living-next li")).to_have_count(4)


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


def tour(page: Page, home: str) -> None:
    """The tour's first step, before the sentence that it speaks of."""
    page.goto(f"{home}/?tour=1")
    expect(page.locator(".tour")).to_be_visible()
    expect(page.locator("#living-answer .living-next li")).to_have_count(4)


def search(page: Page, home: str) -> None:
    """Features for two words, best match first."""
    page.goto(f"{home}/features?{urlencode({'q': 'black white'})}")
    expect(page.locator("#results tbody tr").first).to_be_visible()


def find(page: Page, home: str) -> None:
    """Features that tell the texts of one box from those of the other."""
    have = "The ship sailed into the harbour.\nA ship lay at the pier.\nTwo ships sank at night."
    have_not = "The oven was still warm.\nA child lay in the grass.\nTwo men talked at night."
    page.goto(f"{home}/find?{urlencode({'positives': have, 'negatives': have_not})}")
    expect(page.locator(".by-example li").first).to_be_visible()


def threshold(page: Page, home: str) -> None:
    """A threshold moved in the lab, and what the model says about it."""
    page.goto(f"{home}/features?feature={FEATURE}")
    for _ in range(5):
        page.locator("[data-lab] input[type=range]").press("PageUp")
    page.locator("[data-measure]").click()
    expect(page.locator("table.variants")).to_be_visible(timeout=120_000)
    page.locator("[data-lab]").evaluate("node => scrollTo(0, node.offsetTop - 12)")


def feature_map(page: Page, home: str) -> None:
    """All features by their directions, those for a word marked."""
    page.goto(f"{home}/map?{urlencode({'q': 'ship'})}")
    expect(page.locator("#map-legend button").first).to_be_visible()
    expect(page.locator("#map-status")).to_contain_text("Marked")


def a_list(page: Page, home: str) -> None:
    """A list of features, with labels."""
    page.goto(f"{home}/lists")
    page.get_by_role("main").get_by_role("link", name="the sea").click()
    expect(page.locator("[data-entry]").first).to_be_visible()


def blind(page: Page, home: str) -> None:
    """A feature to rate by its contexts alone."""
    page.goto(f"{home}/blind?{urlencode({'rater': 'a rater', 'kind': 'meaning', 'seed': 3})}")
    expect(page.locator("#rate")).to_be_visible()


def keep_something(api: Api) -> None:
    """What `a_list` shows."""
    its = api.lists(action="make", name="the sea")["list"]["id"]
    best = [api.search_features(query=word)["features"][0] for word in ("ship", "sea", "water")]
    for row in [{"feature": FEATURE}, *best]:
        api.lists(its, "add", feature=row["feature"])
    api.notes(FEATURE, label="ships and the sea", starred="yes", verdict="monosemantic")


PICTURES = {
    "overview": (overview, DESKTOP, "light"),
    "feature": (feature, DESKTOP, "light"),
    "prompt": (prompt, DESKTOP, "light"),
    "next": (what_comes_next, DESKTOP, "light"),
    "steer": (steer, DESKTOP, "light"),
    "ladder": (ladder, DESKTOP, "light"),
    "proof": (proof, DESKTOP, "light"),
} | {
    f"{name}{suffix}": (show, size, scheme)
    for name, show in {
        "tour": tour,
        "search": search,
        "find": find,
        "threshold": threshold,
        "map": feature_map,
        "blind": blind,
        "list": a_list,
    }.items()
    for suffix, size, scheme in (
        ("", DESKTOP, "light"),
        ("-phone", PHONE, "dark"),
    )
}


def main() -> None:
    """Take every picture, or those that are named."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or sys.exit("chromium is not installed")
    chosen = {name: PICTURES[name] for name in sys.argv[1:]} or PICTURES
    with (
        tempfile.TemporaryDirectory() as folder,
        served(open_bundle("demo"), notes=str(Path(folder) / "notes.duckdb")) as site,
        sync_playwright() as playwright,
    ):
        api = Api(site.workbench)
        # As people find it who have had it open for a moment.
        api.check()
        api.prompt_features(SAILORS)
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for name, (show, size, scheme) in chosen.items():
            page = browser.new_page(
                viewport=size,  # pyright: ignore[reportArgumentType]
                color_scheme=scheme,  # pyright: ignore[reportArgumentType]
            )
            page.set_default_timeout(60_000)
            if show is a_list and not api.lists()["lists"]:
                keep_something(api)  # after the others, which show nobody's labels
            show(page, site.url)
            page.mouse.move(0, 0)
            # Nothing under way: the bar below the header is no part of a page.
            expect(page.locator("html[data-busy]")).to_have_count(0)
            shot = page.screenshot(animations="disabled")
            whole = Image.open(io.BytesIO(shot)).convert("RGB")
            # By coverage: the colours of a legend are few pixels, and stay apart. Then each becomes
            # the mean of what it stands for: that of a large area is the area's own.
            drawn = whole.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=1)
            path = FOLDER / f"{name}.webp"
            drawn.convert("RGB").save(path, lossless=True, quality=100, method=6)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
