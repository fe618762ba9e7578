"""The badge in a browser: it follows a running check, and red casts doubt on every number."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.commands.shared import open_bundle
from app.endpoints import Api
from app.engine import checker
from sae_core import check as sae_check
from sae_core.bundle import Bundle
from tests import tiny
from tests.browser.conftest import Site, served

Opened = Callable[..., Page]
EDITS = '[{"feature":5,"mode":"ablate","positions":"all"}]'
PAGES = {
    "list": "/features",
    "feature": "/features?feature=5",
    "prompt": "/prompt?text=The%20river",
    "steer": f"/steer?prompt=The&tokens=3&edits={EDITS}",
}


@pytest.fixture(scope="module")
def red_site(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The tiny bundle, whose SAE says that it reads where it does not."""
    folder = tmp_path_factory.mktemp("bundle") / "red"
    shutil.copytree(tiny_bundle.path, folder)
    with served(Bundle.open(folder)) as right:
        result = Api(right.workbench).check()["check"]
    file = folder / "saes" / tiny.SAE_NAME / "cfg.json"
    written = json.loads(file.read_text())
    measured = {"l0": result["l0"], "fvu": result["fvu"]}
    written["metadata"]["jumpscope"] |= {"site": "mlp_out/1", "measured": measured}
    file.write_text(json.dumps(written))
    with served(Bundle.open(folder)) as running:
        assert Api(running.workbench).check()["state"] == "red"
        yield running


def test_the_badge_turns_from_checking_to_green_by_itself(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, check_sae = threading.Event(), sae_check.check_sae

    def later(*args: Any, **options: Any) -> Any:
        assert go.wait(60)
        return check_sae(*args, **options)

    monkeypatch.setattr(checker, "HEAD_START", 0.0)
    monkeypatch.setattr(sae_check, "check_sae", later)
    monkeypatch.setattr(sae_check, "saved_check", lambda *_: None)
    with served(open_bundle("demo")) as site:
        page = opened(site.url)
        badge, panel = page.locator("#badge"), page.locator("#check")
        expect(badge).to_contain_text("checking")
        expect(panel).to_contain_text("are being measured")
        go.set()
        expect(badge).to_contain_text("checked", timeout=120_000)
        result = Api(site.workbench).check()
        expect(panel).to_contain_text(result["sentence"])
        expect(panel).to_contain_text(f"Measured on {result['check']['tokens']:,} tokens")
        expect(page.locator(".doubt")).to_have_count(0)
        # The sentence is analysed once the model is loaded, and the watch of the index begins late.
        expect(page.locator("#living-answer .living-next li")).to_have_count(4, timeout=120_000)
        page.wait_for_event("requestfinished", lambda request: "/revision?" in request.url)
        # Nothing more is asked once the check is over, but whether the index is still the same.
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.wait_for_timeout(1200)
        assert [each for each in requests if "/revision?" not in each] == []


def test_each_sae_has_its_own_badge(site: Site, opened: Opened) -> None:
    other = site.workbench.bundle.sae_names[-1]
    page = opened(site.url)
    expect(page.locator("#badge")).to_contain_text("checked")
    page.get_by_label("SAE", exact=True).select_option(other)
    expect(page.locator("#check")).to_contain_text(Api(site.workbench).check(sae=other)["sentence"])
    expect(page.locator("#badge a")).to_have_attribute("href", f"./?sae={other}")


@pytest.mark.parametrize("name", PAGES)
def test_red_casts_doubt_on_the_numbers_of_every_page(
    red_site: Site, opened: Opened, name: str
) -> None:
    page = opened(red_site.url + PAGES[name])
    expect(page.locator("#badge")).to_contain_text("wrong")
    line = page.locator(".doubt")
    expect(line).to_be_visible()
    expect(line).to_contain_text("These numbers may be wrong: ")
    expect(line).to_contain_text("resid_post/1")
    if name == "steer":  # a page that is left while it generates says so in the console
        expect(page.locator("#run-status")).to_contain_text("Done: 3 tokens")
    line.get_by_role("link", name="See the check").click()
    expect(page.locator("#check h2")).to_contain_text("wrong")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_red_panel_can_be_read(red_site: Site, opened: Opened, scheme: str) -> None:
    page = opened(red_site.url, phone=True, scheme=scheme)
    expect(page.locator(".doubt")).to_be_visible()
    page.locator("#check summary").click()
    expect(page.locator("#check .tried table")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_what_could_not_be_checked_says_so(
    tiny_bundle: Bundle, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any, **_options: Any) -> Any:
        raise ValueError(f"No text: {tiny.HOSTILE}")

    monkeypatch.setattr(checker, "HEAD_START", 0.0)
    monkeypatch.setattr(sae_check, "check_sae", refuse)
    with served(tiny_bundle) as site:
        page = opened(site.url)
        expect(page.locator("#badge")).to_contain_text("unchecked")
        expect(page.locator("#check")).to_contain_text(
            f"could not be checked: No text: {tiny.HOSTILE}"
        )
        assert page.locator("#check img").count() == 0


@pytest.mark.parametrize("state", ["green", "checking", "failed"])
@pytest.mark.parametrize("width", [320, 390, 420, 440, 441, 700])
def test_the_badge_takes_no_line_of_its_own(
    opened: Opened, site: Site, width: int, state: str
) -> None:
    page = opened(site.url)
    page.set_viewport_size({"width": width, "height": 800})
    drawn = page.evaluate(
        """state => {
          const badge = document.querySelector("#badge .badge");
          badge.className = `badge ${state}`;
          const word = badge.querySelector(".word");
          word.textContent = {green: "checked", checking: "checking", failed: "unchecked"}[state];
          const lines = [...document.querySelectorAll("#sae, .top .pages a")];
          const box = (e) => e.getBoundingClientRect();
          const {top, bottom} = box(badge);
          const beside = lines.filter((e) => box(e).top < bottom && box(e).bottom > top);
          return {beside: beside.length, wide: document.documentElement.scrollWidth};
        }""",
        state,
    )
    assert drawn["beside"] > 0
    assert drawn["wide"] <= width


@pytest.mark.parametrize("width", [1440, 1024, 901])
def test_a_wide_page_s_frame_is_one_line(site: Site, opened: Opened, width: int) -> None:
    page = opened(site.url + "/features")
    page.set_viewport_size({"width": width, "height": 800})
    tops = page.locator("header.top nav, header.top .where").evaluate_all(
        "parts => parts.map((part) => part.getBoundingClientRect())"
        ".map(({ top, bottom }) => [top, bottom])"
    )
    (_, nav_bottom), (where_top, _) = tops
    assert where_top < nav_bottom
