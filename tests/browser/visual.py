"""What is looked at, and how: pages and their states, at every width, in every colour scheme.

`STATES` lists what people see: an address, and what is done there before it is looked at. A page's
author adds to it. `inspect` looks at one of them in every view of `VIEWS` and returns complaints,
sentences with an element, its text and the numbers; the checks themselves run in the page
(`visual.js` and the scripts beside it).
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlencode

from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.demo_features import dead, of_first_bytes, of_the_sea

Scheme = Literal["light", "dark"]

SCHEMES: Final[tuple[Scheme, ...]] = ("light", "dark")
SCRIPTS: Final = ("visual.js", "layout.js", "colours.js", "controls.js", "sheets.js")
QUIET_MS: Final = 250
"""A page that has changed nothing for so long has finished."""

FEATURE: Final = of_the_sea()
TEXT: Final = 'The captain looked at the dark water, and the old man said: "The ship is late."'


@dataclass(frozen=True, kw_only=True)
class State:
    """Something that people see."""

    name: str
    """Of the test, such as "steer after a run"."""
    address: str
    """Relative to the site's root."""
    act: Callable[[Page], None] = lambda page: None
    """What is done there; it waits for what it brings about."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A window, and what is checked in it."""

    name: str
    width: int
    height: int
    checks: tuple[str, ...]
    scale: int = 1
    """Device pixels to a CSS pixel."""
    touch: bool = False
    forced: bool = False
    """The system's colours replace the page's."""
    more_contrast: bool = False


SHAPE: Final = ("cut", "squeezed", "overlaps", "escapes")
VIEWS: Final = (
    View(name="1440", width=1440, height=900, checks=(*SHAPE, "contrast in all states", "sheets")),
    View(name="1024", width=1024, height=768, checks=SHAPE),
    View(name="200 %", width=720, height=450, scale=2, checks=SHAPE),
    View(name="more contrast", width=1440, height=900, more_contrast=True, checks=("contrast",)),
    View(name="forced", width=1440, height=900, forced=True, checks=("contrast", "marks", "rings")),
    View(name="keyboard", width=1440, height=900, checks=("rings",)),
    # Phones last: Chromium keeps a finger for its pointer once it had one.
    View(name="320", width=320, height=640, touch=True, checks=(*SHAPE, "targets")),
    View(
        name="390",
        width=390,
        height=844,
        touch=True,
        checks=(*SHAPE, "targets", "contrast in all states"),
    ),
    View(
        name="forced 390",
        width=390,
        height=844,
        touch=True,
        forced=True,
        checks=("contrast", "marks"),
    ),
)


def choose_token(page: Page) -> None:
    """Press a token of the analysed text."""
    page.locator('.tokens [role="button"]').nth(3).click()
    settle(page)


def run_steering(page: Page) -> None:
    """Generate to the end; the button is back when the run is over."""
    generate = page.get_by_role("button", name="Generate")
    generate.click()
    settle(page)
    expect(generate).to_be_enabled(timeout=60_000)


def climb_ladder(page: Page) -> None:
    """Wait until the ladder that the address asks for is done; its band is one strength wide."""
    expect(page.locator("#ladder-sentence")).not_to_be_empty(timeout=60_000)
    expect(page.locator(".rung.usable")).to_have_count(1)
    page.locator(".restricted summary").first.click()
    settle(page)


def explained(page: Page) -> None:
    """Wait until what comes next is explained, and take two features away together."""
    expect(page.locator(".next .effects")).to_be_visible(timeout=60_000)
    for row in range(2):
        page.locator(".next .effects tbody tr").nth(row).get_by_role("checkbox").check()
    expect(page.locator(".next .joint tbody tr")).to_have_count(3)
    settle(page)


def patched(page: Page) -> None:
    """Tick the first feature that is listed."""
    expect(page.locator("#comparison .compared")).to_be_visible(timeout=60_000)
    page.locator("[data-tick]").first.check()
    expect(page.locator(".patched")).to_be_visible(timeout=60_000)
    settle(page)


def switch_saes(page: Page) -> None:
    """Open the splice switch, and edit a feature of the first SAE."""
    page.get_by_text("Splice switch").click()
    page.locator("#switch fieldset").first.get_by_text("Edited, error kept").click()
    expect(page.locator("#switch tbody tr").first).to_be_visible(timeout=60_000)
    settle(page)


def proven(page: Page) -> None:
    """Wait until the proof that the address asks for is done."""
    expect(page.locator(".proof-sentence")).to_be_visible(timeout=90_000)
    settle(page)


def tested(page: Page) -> None:
    """Wait until the text in the address was tested."""
    expect(page.locator(".result .tokens")).to_be_visible(timeout=60_000)
    settle(page)


def open_card(page: Page) -> None:
    """Open the card of a context's number."""
    page.get_by_role("button", name="Reproduce").first.click()
    expect(page.locator("#card .value")).to_be_visible(timeout=60_000)


def drawn(page: Page) -> None:
    """Wait until the map is drawn."""
    expect(page.locator("#map-plot[data-ready]")).to_be_attached(timeout=60_000)
    settle(page)


def searched_map(page: Page) -> None:
    """Wait until the features that the address searches for are marked and listed."""
    drawn(page)
    expect(page.locator("#map-rows tr").first).to_be_visible(timeout=60_000)
    settle(page)


def found(page: Page) -> None:
    """Wait until the features of the texts in the address are listed."""
    expect(page.locator(".by-example li").first).to_be_visible(timeout=60_000)
    settle(page)


def neighbours_measured(page: Page) -> None:
    """Measure what fires together with a feature."""
    page.locator("[data-together-ask]").click()
    expect(page.locator("[data-together-answer] table").first).to_be_visible(timeout=90_000)
    settle(page)


TOURED: Final = {"feature": FEATURE, "from": "features?q=ship", "tour": 3}
TESTED: Final = {"feature": FEATURE, "text": "The ship sailed \N{GRINNING FACE}."}


def prompt(**state: object) -> str:
    """The address of the prompt page with a text."""
    return f"/prompt?{urlencode({'text': TEXT, **state})}"


def gather(page: Page) -> None:
    """Gather the feature of the page, and unfold the tray."""
    page.locator("main").get_by_role("button", name="Gather").click()
    expect(page.locator(".tray")).to_be_visible()
    if not page.locator("#tray-body").is_visible():
        page.locator(".tray > button").click()
    settle(page)


# Its letters and the picture are several tokens each, and the first line reads to the left.
def listed(page: Page) -> None:
    """Put a feature into a list of its own and look at that."""
    page.get_by_text("Add to list").click()
    page.get_by_label("Name of a new list").fill("looked at")
    page.keyboard.press("Enter")
    expect(page.locator(".in-lists [data-said]")).to_have_text("Kept.")
    page.get_by_role("link", name="All lists").click()
    page.get_by_role("link", name="looked at").first.click()
    expect(page.locator("[data-entry] .tokens").first).to_be_visible()


MIXED: Final = "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \U0001f600\nA ship"


EDITS: Final = f'[{{"feature":{FEATURE},"mode":"set","strength":1}}]'
STEERING: Final = urlencode({"prompt": "The old man walked into the", "tokens": 12, "edits": EDITS})
OTHER: Final = 'The queen looked at the dark water, and the old man said: "The ship is very late."'
PROOF: Final = urlencode({"proof": 0, "proof_seeds": 3, "proof_open": "1"})
# Too weak, one that steers, and others under which the text falls apart.
STRENGTHS: Final = {"ladder_strengths": "0.01, 1, 2, 3, 4, 5, 6"}
LADDER: Final = urlencode({"ladder": 0, "ladder_tokens": 20, "ladder_seeds": 2, **STRENGTHS})

EXAMPLES: Final = urlencode(
    {"positives": f"{TEXT}\nThe ship sailed.", "negatives": "She baked bread.\nIt is late."}
)
ROWS: Final = "SELECT rank, activation, token, text, title FROM feature_contexts WHERE feature = 5"
COLOURED: Final = (
    "SELECT feature, kind, gap, tokens, activations FROM feature_contexts WHERE feature < 3"
)

STATES: Final = (
    State(name="overview", address="/"),
    State(name="features", address="/features"),
    State(name="features searched for", address="/features?q=ship"),
    State(name="no feature matches", address="/features?q=no+such+feature"),
    State(name="feature", address=f"/features?feature={FEATURE}"),
    State(
        name="feature of a search, gathered, in the tour",
        address=f"/features?{urlencode(TOURED)}",
        act=gather,
    ),
    State(name="feature with a text", address=f"/features?{urlencode(TESTED)}", act=tested),
    State(name="feature of partial characters", address=f"/features?feature={of_first_bytes()}"),
    State(name="dead feature", address=f"/features?feature={dead()}"),
    State(
        name="feature with neighbours",
        address=f"/features?feature={FEATURE}",
        act=neighbours_measured,
    ),
    State(name="card", address=f"/features?feature={FEATURE}", act=open_card),
    State(name="prompt", address="/prompt"),
    State(name="prompt analysed", address=prompt()),
    State(name="prompt with a token", address=prompt(), act=choose_token),
    State(name="prompt with a feature", address=prompt(feature=FEATURE, view="feature")),
    State(name="prompt with both", address=prompt(feature=FEATURE, view="feature", token=3)),
    State(name="prompt with features counted", address=prompt(view="active", hide=0.01)),
    State(name="prompt of partial characters", address=prompt(text=MIXED, token=4)),
    State(name="prompt explained", address=prompt(token=8, earlier=1), act=explained),
    State(name="two texts patched", address=prompt(other=OTHER, pair=2), act=patched),
    State(name="two texts", address=prompt(other=OTHER)),
    State(name="splice switch", address=prompt(), act=switch_saes),
    State(name="prompt refused", address=prompt(text="long " * 600)),
    State(name="steer", address="/steer"),
    State(name="steer after a run", address=f"/steer?{STEERING}", act=run_steering),
    State(name="steer with a ladder", address=f"/steer?{STEERING}&{LADDER}", act=climb_ladder),
    State(name="steer with a proof", address=f"/steer?{STEERING}&{PROOF}", act=proven),
    State(name="api", address="/api"),
    State(name="catalog", address="/catalog"),
    State(name="blind test", address="/blind"),
    State(name="blind test of a meaning", address="/blind?rater=Ann&per_sae=3"),
    State(name="blind test of intruders", address="/blind?rater=Ann&per_sae=3&kind=intruders"),
    State(name="map", address="/map", act=drawn),
    State(name="map searched", address="/map?colour=source&q=ship&feature=5", act=searched_map),
    State(name="features by example", address="/find"),
    State(name="features by example found", address=f"/find?{EXAMPLES}", act=found),
    State(name="lists", address="/lists"),
    State(name="a list", address=f"/features?feature={FEATURE}", act=listed),
    State(name="sql", address="/sql"),
    State(name="sql answered", address=f"/sql?{urlencode({'q': ROWS})}"),
    State(name="sql in colour", address=f"/sql?{urlencode({'q': COLOURED})}"),
    State(name="sql refused", address="/sql?q=SELECT%20nothing%20FROM%20features"),
    State(name="no such page", address="/nowhere"),
)


def canvas(browser: Browser, scheme: Scheme) -> BrowserContext:
    """A context whose pages hold the checks and do not move."""
    context = browser.new_context(
        viewport={"width": 1440, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    for script in SCRIPTS:
        context.add_init_script(path=Path(__file__).with_name(script))
    return context


def settle(page: Page) -> None:
    """Wait until nothing says that it is busy and nothing has changed for `QUIET_MS`."""
    # A proof or a ladder that the address asks for takes as long on busy cores.
    expect(page.locator("[aria-busy=true]")).to_have_count(0, timeout=90_000)
    page.evaluate(
        """async (quiet) => {
          await document.fonts.ready;
          await new Promise((done) => {
            const wait = () => setTimeout(() => { observer.disconnect(); done(); }, quiet);
            let timer = wait();
            const observer = new MutationObserver(() => { clearTimeout(timer); timer = wait(); });
            const what = { subtree: true, childList: true, characterData: true, attributes: true };
            observer.observe(document, what);
          });
        }""",
        QUIET_MS,
    )


def show(page: Page, root: str, state: State) -> None:
    """Bring a page into a state."""
    page.goto(root + state.address)
    expect(page.locator("main h1").first).to_be_visible()
    settle(page)
    state.act(page)
    page.mouse.move(0, 0)


@contextmanager
def opened_page(context: BrowserContext, root: str, state: State) -> Iterator[Page]:
    """A page of a canvas in a state of the site at `root`, closed in the end."""
    page = context.new_page()
    page.set_default_timeout(20_000)
    try:
        show(page, root, state)
        yield page
    finally:
        page.close()


def look(page: Page, view: View) -> list[str]:
    """Complaints about what the page shows in one window."""
    page.emulate_media(
        forced_colors="active" if view.forced else "none",
        contrast="more" if view.more_contrast else "no-preference",
        reduced_motion="reduce",
    )
    page.set_viewport_size({"width": view.width, "height": view.height})
    if view.scale != 1 or view.touch:
        devtools = page.context.new_cdp_session(page)
        if view.touch:
            touch = {"enabled": True, "maxTouchPoints": 1}
            devtools.send("Emulation.setTouchEmulationEnabled", touch)
        else:
            metrics = {"width": view.width, "height": view.height, "mobile": False}
            metrics["deviceScaleFactor"] = view.scale
            devtools.send("Emulation.setDeviceMetricsOverride", metrics)
    if "rings" in view.checks:
        page.keyboard.press("Tab")
    return page.evaluate(
        """async (checks) => {
          // A window that is held for hidden draws no frames: its layout is there at once.
          const frames = (done) => requestAnimationFrame(() => requestAnimationFrame(done));
          const patience = (done) => setTimeout(done, 2000);
          await Promise.race([new Promise(frames), new Promise(patience)]);
          scrollTo({ left: 0, top: 0, behavior: "instant" });
          visual.still();
          const back = visual.flatten();
          const found = checks.flatMap((check) =>
            check === "contrast in all states" ? visual.contrast(true) : visual[check](false));
          back();
          return found;
        }""",
        view.checks,
    )


def inspect(page: Page, views: tuple[View, ...] = VIEWS) -> list[str]:
    """Complaints, each with its views; those that differ in texts and numbers alone are one."""
    like: dict[str, list[str]] = {}
    where: dict[str, dict[str, None]] = {}
    for view in views:
        for complaint in look(page, view):
            kind = re.sub(r'"[^"]*"|\d+(\.\d+)?', "", complaint)
            like.setdefault(kind, []).append(complaint)
            where.setdefault(kind, {})[view.name] = None
    return [
        f"{complaints[0]} [{', '.join(where[kind])}; {len(complaints)} in all]"
        for kind, complaints in like.items()
    ]
