"""A real Chromium on a real server: the app on the bundled demo, and on the tiny bundle.

Every page watches itself: an error in the console or in a script, or a request to any other host,
fails the test that opened it.
"""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

from app.commands.shared import open_bundle
from app.endpoints import Api
from app.engine.workbench import Workbench
from app.server import serve
from app.settings import Settings
from sae_core.bundle import Bundle, write_bundle

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}

expect.set_options(timeout=20_000)

# The sessions that the running test has opened.
_OPENED: list[BrowserContext] = []


@dataclass(frozen=True, kw_only=True)
class Site:
    """A running server and the workbench behind it."""

    url: str
    workbench: Workbench

    @property
    def api(self) -> Api:
        """The endpoints, called within this process."""
        return Api(self.workbench)


@contextmanager
def served(bundle: Bundle, **changed: Any) -> Iterator[Site]:
    """The app on a free port of this process, under settings changed for the test.

    It outlives the pages that show it: one that still loads would report the end of its server.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings: dict[str, Any] = {
        "port": port,
        "open_browser": False,
        "threads": 1,
        "device": "cpu",
    }
    running = serve(Settings(**settings | changed), bundle)
    try:
        yield Site(url=running.url, workbench=running.workbench)
    finally:
        for context in list(_OPENED):
            if any(page.url.startswith(f"{running.url}/") for page in context.pages):
                context.close()
                _OPENED.remove(context)
        running.close()


def query(page: Page) -> dict[str, str]:
    """The values of a page's address."""
    return {name: values[-1] for name, values in parse_qs(urlparse(page.url).query).items()}


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The demo. It is part of the package, so its absence is a failure, not a reason to skip."""
    # With one place for steering, so that a second run shows how it waits.
    with served(open_bundle("demo"), max_generations=1) as running:
        # Pages ask on until the check is over, and some tests count requests.
        assert running.api.check()["state"] == "green"
        yield running


@pytest.fixture(scope="module")
def own_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The demo with a file of notes of the test file's own."""
    path = tmp_path_factory.mktemp("notes") / "notes.duckdb"
    with served(open_bundle("demo"), notes=str(path), check_tokens=0) as running:
        yield running


@pytest.fixture
def clean(own_site: Site) -> Site:
    """`own_site`, and nothing is kept."""
    path = own_site.workbench.notes.file.path
    assert isinstance(path, Path)
    path.unlink(missing_ok=True)
    return own_site


@pytest.fixture(scope="session")
def hostile_site(tiny_bundle: Bundle) -> Iterator[Site]:
    """The tiny bundle, whose corpus holds a text that would be run if it were not escaped."""
    with served(tiny_bundle) as running:
        yield running


@pytest.fixture(scope="session")
def unindexed_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The demo's model and SAEs without indexes, and an SAE whose file is cut off."""
    folder = tmp_path_factory.mktemp("unindexed")
    demo = open_bundle("demo")
    first, second = demo.sae_names[:2]
    broken = folder / "weights"
    shutil.copytree(demo.sae_path(first), broken, ignore=shutil.ignore_patterns("*.duckdb"))
    weights = broken / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    sources = {name: str(demo.sae_path(name).resolve()) for name in (first, second)}
    bundle = write_bundle(
        folder,
        name="unindexed",
        title=demo.title,
        model=str((demo.path / demo.model).resolve()),
        saes=[
            *({"name": name, "source": source} for name, source in sources.items()),
            {"name": "broken", "source": "weights"},
        ],
    )
    with served(bundle) as running:
        running.workbench.load()
        yield running


def chromium() -> str:
    """The system's Chromium; `JUMPSCOPE_CHROMIUM` names another one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    result = os.environ.get("JUMPSCOPE_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), ""
    )
    assert result, f"No Chromium found: install one of {', '.join(names)}."
    return result


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium that all tests share; each has contexts of its own in it."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        yield started
        started.close()


def complain(message: ConsoleMessage, complaints: list[str]) -> None:
    """Note an error of the console, but for a page whose own address means nothing: it says so."""
    where = message.location["url"]
    of_the_page = message.page is not None and where == message.page.url
    if message.type == "error" and not (of_the_page and "status of 404" in message.text):
        complaints.append(f"console: {message.text} ({where})")


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """`opened(address, ...)`: a page in a fresh session, watched until the test ends."""
    complaints: list[str] = []

    def open_page(address: str, *, phone: bool = False, scheme: str = "light") -> Page:
        context = browser.new_context(
            viewport=PHONE if phone else DESKTOP,  # pyright: ignore[reportArgumentType]
            color_scheme=scheme,  # pyright: ignore[reportArgumentType]
            has_touch=phone,
            permissions=["clipboard-read", "clipboard-write"],
        )
        _OPENED.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        home = "/".join(address.split("/")[:3]) + "/"
        page.on("pageerror", lambda error: complaints.append(f"script error: {error}"))
        page.on("console", lambda message: complain(message, complaints))
        page.on(
            "request",
            lambda request: (
                None
                # A page of the app cannot ask for a file: the browser refuses that, and says so.
                if request.url.startswith((home, "data:", "blob:", "file:"))
                else complaints.append(f"request to {request.url}")
            ),
        )
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto(address)
        return page

    yield open_page
    while _OPENED:
        _OPENED.pop().close()
    assert not complaints


@pytest.fixture(scope="module")
def feature(site: Site) -> int:
    """One that is worth opening."""
    return site.workbench.index().highlights(1)[0]["feature"]
