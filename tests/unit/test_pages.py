"""The routes of pages: whole HTML at any depth, addresses that lead on or mean nothing, the state
that is asked for again, and static files that may be kept.
"""

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from app.engine.workbench import Workbench
from app.service.overview import example_prompts, example_runs
from app.settings import Settings
from app.web import assets, pages
from sae_core.bundle import Bundle
from tests.unit.page_support import assert_plain
from tests.unit.render_support import Document

NAMES = (
    "/",
    "/features",
    "/prompt",
    "/steer",
    "/sql",
    "/api",
    "/blind",
    "/catalog",
    "/find",
    "/lists",
    "/map",
)


@pytest.fixture(scope="module")
def workbench(tiny_bundle: Bundle) -> Workbench:
    return Workbench(Settings(device="cpu", check_tokens=0), tiny_bundle)


def ask(workbench: Workbench, address: str, **headers: str) -> httpx.Response:
    """The answer of the pages' routes, without the server around them."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    pages.add_routes(app, workbench)

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(address, headers=headers)

    return asyncio.run(asked())


def missing(workbench: Workbench, path: str, accept: str) -> httpx.Response:
    """The answer to a path that the app does not have."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=pages.not_found(workbench))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path, headers={"accept": accept})

    return asyncio.run(asked())


def linked(html: str) -> list[str]:
    """Addresses of all that a page loads and links to."""
    addresses = re.findall(r'(?:href|src)="([^"]*)"', html)
    return [each for each in addresses if not each.startswith(("#", "data:"))]


@pytest.mark.parametrize("path", NAMES)
def test_a_page_is_whole_its_addresses_relative_and_its_code_elsewhere(
    workbench: Workbench, path: str
) -> None:
    answer = ask(workbench, path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    page = Document(answer.text)
    assert len(page.all("h1")) == len(page.all("main")) == 1
    addresses = linked(answer.text)
    assert len(addresses) > 10
    assert not [each for each in addresses if each.startswith("/") or "://" in each]
    # The one whose hash the Content-Security-Policy names (tests/unit/test_gate.py).
    assert page.code == [assets.inline("js/early.js")]
    assert not page.all("style")
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]


@pytest.mark.parametrize("path", NAMES)
def test_all_that_a_page_loads_is_there_to_be_kept(workbench: Workbench, path: str) -> None:
    files = [each for each in linked(ask(workbench, path).text) if each.startswith("static/")]
    assert len(files) >= 5
    for file in files:
        answer = ask(workbench, f"/{file}")
        assert answer.status_code == 200, file
        assert "immutable" in answer.headers["cache-control"]
        kind = "text/css" if file.endswith(".css") else "text/javascript"
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"


def test_an_older_address_of_a_file_is_answered_and_not_kept(workbench: Workbench) -> None:
    current, older = (
        ask(workbench, f"/static/{version}/css/frame.css")
        for version in (assets.version(), "0123456789ab")
    )
    assert older.text == current.text
    assert older.headers["cache-control"] == "no-store"
    assert ask(workbench, f"/static/{assets.version()}/js/none.js").status_code == 404
    for path in ("pages.py", "..%2Fsettings.py", "templates/base.html"):
        assert ask(workbench, f"/static/{assets.version()}/{path}").status_code == 404


def test_an_address_keeps_its_content_while_files_change(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"/static/{assets.version()}/js/dom.js"
    served = ask(workbench, address).text
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"of a later version")
    assert ask(workbench, address).text == served


def test_the_frame_s_sheet_has_each_of_its_parts_once(workbench: Workbench) -> None:
    whole = ask(workbench, f"/static/{assets.version()}/css/frame.css").text
    for name in ("colours", "base", "fields", "parts", "tokens", "overlays"):
        text = (assets.FOLDER / "css" / f"{name}.css").read_text(encoding="utf-8")
        assert whole.count(text) == 1


@pytest.mark.parametrize(
    ("cookie", "theme"),
    [("", "system"), ("jumpscope-theme=dark", "dark"), ("jumpscope-theme=<b>", "system")],
)
def test_a_page_is_drawn_in_the_colours_that_were_chosen(
    workbench: Workbench, cookie: str, theme: str
) -> None:
    [root] = Document(ask(workbench, "/", cookie=cookie).text).all("html")
    assert root["data-theme"] == theme


def test_a_random_feature_leads_to_its_own_address(workbench: Workbench) -> None:
    answer = ask(workbench, "/features?feature=random")
    assert answer.status_code == 303
    assert re.fullmatch(r"features\?feature=\d+", answer.headers["location"])


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/?sae=none", "There is no SAE “none”"),
        ("/features?sae=<img>", "There is no SAE “<img>”"),
        ("/features?feature=64", "There is no feature 64"),
        ("/features?page=0", "page"),
        ("/features?min=much", "min"),
    ],
)
def test_an_address_that_means_nothing_says_why_in_the_frame(
    workbench: Workbench, address: str, words: str
) -> None:
    answer = ask(workbench, address)
    assert answer.status_code == 404
    page = Document(answer.text)
    assert words in page.text
    assert [each for each in page.all("p") if each.get("role") == "alert"]
    assert page.all("nav")
    assert not page.all("img")


@pytest.mark.parametrize(
    ("path", "root"), [("/nowhere", ""), ("/a/b/c", "../../"), ("/features/", "../")]
)
def test_a_missing_page_finds_the_app_s_root_at_any_depth(
    workbench: Workbench, path: str, root: str
) -> None:
    answer = missing(workbench, path, "text/html,*/*")
    assert answer.status_code == 404
    assert Document(answer.text).all("html")[0]["data-root"] == root
    addresses = linked(answer.text)
    assert addresses
    assert all(each.startswith(root) for each in addresses)
    for each in addresses:
        reached = httpx.URL(f"http://127.0.0.1{path}").join(each).path
        assert reached in NAMES or reached.startswith("/static/")


def test_programs_get_a_sentence_for_a_missing_path(workbench: Workbench) -> None:
    answer = missing(workbench, "/nowhere", "application/json")
    assert (answer.status_code, answer.json()) == (404, {"detail": "The app has no such address."})


def test_the_state_is_that_of_the_saes_named(workbench: Workbench) -> None:
    [name] = workbench.bundle.sae_names
    for address in ("/state", f"/state?sae={name}", f"/state?sae={name}&sae="):
        answer = ask(workbench, address)
        assert answer.headers["cache-control"] == "no-store"
        state = answer.json()
        assert (state["loaded"], state["chat"], state["problem"]) == (False, None, None)
        assert "not loaded yet" in state["memory"]
        assert list(state["checks"]) == [name]
        assert state["checks"][name]["state"] == "off"
    refused = ask(workbench, "/state?sae=none")
    assert refused.status_code == 404
    assert "There is no SAE “none”" in refused.json()["detail"]


def test_a_page_brings_the_state_that_its_script_begins_with(workbench: Workbench) -> None:
    html = ask(workbench, "/prompt").text
    [text] = re.findall(r'<script type="application/json" id="state">(.*?)</script>', html)
    state = json.loads(text)
    asked = ask(workbench, "/state").json()
    assert {**asked, "checks": None, "memory": None} == {**state, "checks": None, "memory": None}
    assert list(state["checks"]) == list(asked["checks"])


def test_a_model_that_is_being_loaded_is_said_where_it_is_needed(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def notice(path: str) -> list[dict[str, str]]:
        return Document(ask(workbench, path).text).all("p", id="loading")

    assert notice("/") == []
    assert "hidden" in notice("/prompt")[0]
    monkeypatch.setattr(workbench, "is_loading", lambda: True)
    assert "hidden" not in notice("/prompt")[0]
    assert "hidden" not in notice("/steer")[0]


def test_examples_that_are_not_what_they_should_be_are_left_out() -> None:
    text, chat = {"prompt": "The", "edits": []}, {"messages": [], "edits": []}
    written = {"prompts": ["A text.", 7], "steer": [text, {}, "no", chat]}
    bundle = SimpleNamespace(examples=written, sae_names=["a"])
    workbench = cast(Workbench, SimpleNamespace(bundle=bundle))
    assert example_prompts(workbench) == ["A text."]
    assert example_runs(workbench) == [text, chat]


def test_hostile_words_of_a_bundle_stay_words(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    monkeypatch.setattr(workbench, "_model_problem", hostile)
    rows: list[dict[str, Any]] = workbench.saes()
    monkeypatch.setattr(workbench, "saes", lambda: [{**row, "label": hostile} for row in rows])
    for path in ("/", "/prompt"):
        page = Document(ask(workbench, path).text)
        assert_plain(page)
