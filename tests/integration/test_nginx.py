"""The app under a path behind nginx, with the configuration of docs/deployment.md."""

import asyncio
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from app.server import RunningApp
from sae_core.bundle import Bundle
from tests.nginx import documented, serving
from tests.serving import answer, assert_gradios_client_is_answered, join, listening, running

PAGES = ("", "features", "features?q=river", "features?feature=5", "prompt", "steer", "api")
NAME = "lab.example.org"


def location(port: int, *, strips: bool) -> str:
    """The block of docs/deployment.md for an app on `port`; a proxy may also pass paths whole."""
    block = documented("proxy_pass http://127.0.0.1:7860/;")
    return block.replace("127.0.0.1:7860/;", f"127.0.0.1:{port}{'/' if strips else ''};")


@pytest.fixture(scope="module")
def app(tiny_bundle: Bundle) -> Iterator[RunningApp]:
    with running(tiny_bundle, root_path="/jumpscope", allowed_hosts=NAME) as app:
        app.workbench.load()
        yield app


@pytest.fixture(scope="module", params=[True, False], ids=["stripped", "whole"])
def outside(
    app: RunningApp, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of the app as nginx serves it."""
    inner = location(int(app.url.rpartition(":")[2]), strips=request.param)
    with serving(tmp_path_factory.mktemp("nginx"), inner) as port:
        yield f"http://127.0.0.1:{port}/jumpscope/"


class Links(HTMLParser):
    """Addresses that a page loads or leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.leads: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        for name in ("src", "href", "action"):
            if (address := given.get(name)) is not None:
                kind = self.loads if tag in ("script", "link", "img") else self.leads
                kind.add(address)


def links_of(html: str) -> Links:
    links = Links()
    links.feed(html)
    return links


def check_links(client: httpx.Client, page: str, html: str) -> None:
    """Every link of a page stays under the path and leads somewhere."""
    links = links_of(html)
    assert links.loads
    for address in links.loads | links.leads:
        whole = urljoin(page, address)
        if address.startswith("#") or urlsplit(whole).scheme not in ("http", "https"):
            continue
        assert urlsplit(whole).path.startswith("/jumpscope/"), (page, address)
        told = client.get(whole, follow_redirects=True)
        assert told.status_code == 200, (page, address)
        assert told.url.path.startswith("/jumpscope/"), (page, address)
        if address in links.loads:
            assert "immutable" in told.headers["cache-control"], (page, address)


@pytest.mark.parametrize("page", PAGES)
def test_pages_and_all_that_they_load_are_served_under_the_path(outside: str, page: str) -> None:
    with httpx.Client(timeout=60, headers={"accept": "text/html"}) as client:
        told = client.get(outside + page)
        assert told.status_code == 200
        check_links(client, outside + page, told.text)


@pytest.mark.parametrize("page", ["nowhere", "no/such/page", "features/5", "static/x/nothing.js"])
def test_the_page_for_what_is_not_there_keeps_its_frame(outside: str, page: str) -> None:
    with httpx.Client(timeout=60, headers={"accept": "text/html"}) as client:
        told = client.get(outside + page)
        assert told.status_code == 404
        if "text/html" in told.headers["content-type"]:
            check_links(client, outside + page, told.text)


def test_the_path_without_its_slash_leads_to_the_first_page(outside: str) -> None:
    told = httpx.get(outside.rstrip("/"), follow_redirects=True, timeout=60)
    assert told.status_code == 200
    assert urlsplit(str(told.url)).path == "/jumpscope/"


def test_a_stream_arrives_step_by_step_and_a_break_is_noticed(outside: str, app: Any) -> None:
    queue = app._server.get_blocks()._queue
    given = {"prompt": "The river", "edits": [{"feature": 5}], "max_new_tokens": 100}

    async def asked() -> None:
        async with httpx.AsyncClient(base_url=outside, timeout=60) as client:
            assert (await join(client, "steer", "proxied", **given)).status_code == 200
            async with listening(client, "proxied") as messages:
                kinds = []
                async for message in messages:
                    kinds.append(message["msg"])
                    if kinds.count("process_generating") == 2:
                        break
            assert "process_completed" not in kinds
            for _ in range(2000):
                if not queue.pending_messages_per_session and not queue.event_ids_to_events:
                    break
                await asyncio.sleep(0.01)
            assert not queue.pending_messages_per_session
            assert (await answer(client, "feature", "after", feature=5))["success"]

    asyncio.run(asked())


def test_gradios_client_works_through_it(outside: str) -> None:
    assert_gradios_client_is_answered(outside)


def test_people_come_by_the_name_that_was_allowed_and_no_other(outside: str) -> None:
    own = {"host": NAME, "origin": f"https://{NAME}"}
    assert httpx.get(outside, headers=own, timeout=60).status_code == 200
    config = httpx.get(f"{outside}config", headers=own, timeout=60).json()
    assert config["root"] == f"http://{NAME}/jumpscope"
    foreign = {"host": "evil.example", "origin": "https://evil.example"}
    assert httpx.get(outside, headers=foreign, timeout=60).status_code == 400
    other = {"host": NAME, "origin": "https://evil.example"}
    assert httpx.get(outside, headers=other, timeout=60).status_code == 403
