"""The gate: who may ask for what, whatever stands behind it."""

import asyncio
import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.gate import LARGEST_BODY, LOOPBACK, Access, Gate, host_name, route_path
from app.users import users_of

BASE = "http://127.0.0.1:7860"
EARLY = Path(__file__).parents[2] / "app/web/js/early.js"
PAGES = re.compile(r"/|/features|/static/.*")


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """An app that says what it saw, and lets every origin read it."""
    message = await receive()
    headers = dict(scope["headers"])
    seen = {
        "path": route_path(scope),
        "scheme": scope["scheme"],
        "body": len(message.get("body", b"")),
        "forwarded": headers.get(b"x-forwarded-host", b"").decode(),
    }
    answer = [(b"access-control-allow-origin", b"*"), (b"x-app", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": answer})
    await send({"type": "http.response.body", "body": repr(seen).encode()})


async def nowhere(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def ask(path: str = "/", *, method: str = "GET", access: Any = None, **request: Any) -> Any:
    """The answer to one request through a gate with `access`'s rules."""
    rules = {"hosts": LOOPBACK, "pages": PAGES, **(access or {})}
    gate: Any = Gate(behind, Access(**rules), nowhere)

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=gate)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            return await client.request(method, path, **request)

    return asyncio.run(asked())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:7860", "LOCALHOST:1", "[::1]:7860"])
def test_loopback_names_are_answered(host: str) -> None:
    assert ask(headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[::2]", "10.0.0.7"]
)
@pytest.mark.parametrize("path", ["/", "/features", "/config", "/nowhere"])
def test_a_foreign_host_is_refused_whatever_it_asks_for(host: str, path: str) -> None:
    answer = ask(path, headers={"host": host})
    assert answer.status_code == 400
    assert "--allowed-hosts" in answer.json()["detail"]


def test_every_address_is_answered_where_the_app_listens_on_all_but_no_name_is() -> None:
    access = {"hosts": LOOPBACK | {"0.0.0.0"}}
    assert ask(access=access, headers={"host": "10.0.0.7:80"}).status_code == 200
    assert ask(access=access, headers={"host": "evil.example"}).status_code == 400
    named = {"hosts": LOOPBACK | {"mine.example"}}
    assert ask(access=named, headers={"host": "mine.example"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8888"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_no_other_site_asks(headers: dict[str, str], method: str) -> None:
    answer = ask(method=method, headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": BASE},
        {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
        # A link on another site, or its iframe: it opens a page and cannot read it.
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_own_pages_and_programs_ask(headers: dict[str, str]) -> None:
    assert ask(headers=headers).status_code == 200


def test_every_answer_has_the_headers_of_security_and_none_that_lets_other_origins_read() -> None:
    refused = {"host": "evil.example"}
    for answer in (ask(), ask("/nowhere"), ask(headers=refused), ask(headers={"origin": "x://y"})):
        policy = answer.headers["content-security-policy"]
        script = policy.partition("script-src ")[2].partition(";")[0]
        own = b64encode(hashlib.sha256(EARLY.read_bytes()).digest()).decode()
        assert script == f"'self' 'sha256-{own}'"
        assert "frame-ancestors 'self'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not [name for name in answer.headers if name.startswith("access-control")]
    embedded = ask(access={"frame_ancestors": "https://notes.example"})
    assert "frame-ancestors https://notes.example" in embedded.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload",
        "/gradio_api/run/steer",
        "/gradio_api/api/steer",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/proxy=https://x.hf.space/",
        "/gradio_api/startup-events",
        "/gradio_api/openapi.json",
        "/gradio_api/dev/reload",
        "/gradio_api/reset",
        "/gradio_api/stream/1/close",
        "/gradio_api/deep_link",
        "/gradio_api/mcp/",
        "/monitoring",
        "/monitoring/summary",
        "/openapi.json",
        "/docs",
        "/theme.css",
        "/login",
        "/assets/index.js",
        "/svelte/x",
        "/custom_component/a/b/c/d.js",
        "/features/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_what_the_app_does_not_use_is_not_there(path: str, method: str) -> None:
    assert ask(path, method=method).status_code == 404


def test_tools_are_there_where_they_are_offered() -> None:
    assert ask("/gradio_api/mcp/", access={"mcp": True}).status_code == 200


async def _pieces(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


def test_a_long_body_is_refused_whatever_it_says_of_its_length() -> None:
    join = "/gradio_api/queue/join"
    fits, too_long = b"x" * LARGEST_BODY, b"x" * (LARGEST_BODY + 1)
    assert ask(join, method="POST", content=fits).status_code == 200
    assert f"'body': {LARGEST_BODY}" in ask(join, method="POST", content=fits).text
    assert ask(join, method="POST", content=too_long).status_code == 413
    chunked = _pieces(11, LARGEST_BODY // 10)
    assert ask(join, method="POST", content=chunked).status_code == 413
    whole = ask(join, method="POST", content=_pieces(3, 1000))
    assert "'body': 3000" in whole.text


def test_forwarded_headers_count_only_where_a_proxy_was_named() -> None:
    forwarded = {"x-forwarded-host": "mine.example", "x-forwarded-proto": "https"}
    assert "'forwarded': ''" in ask(headers=forwarded).text
    proxied = {"proxied": True, "hosts": LOOPBACK | {"mine.example"}}
    assert "'forwarded': 'mine.example'" in ask(access=proxied, headers=forwarded).text
    own = forwarded | {"origin": "https://mine.example"}
    assert ask(access=proxied, headers=own).status_code == 200
    assert ask(headers=own).status_code == 403
    foreign = {"x-forwarded-host": "evil.example", "origin": "https://evil.example"}
    assert ask(access=proxied, headers=foreign).status_code == 400


def test_the_scheme_that_a_client_claims_does_not_count() -> None:
    async def seen(proxied: bool) -> str:
        told: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            told.append(scope["scheme"])

        gate = Gate(app, Access(hosts=LOOPBACK, pages=PAGES, proxied=proxied), nowhere)
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "scheme": "https",
            "headers": [(b"host", b"localhost")],
        }
        await gate(scope, receive=_nothing, send=_ignored)
        return told[0]

    assert asyncio.run(seen(False)) == "http"
    assert asyncio.run(seen(True)) == "https"


async def _nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}


async def _ignored(message: Any) -> None:
    pass


@pytest.mark.parametrize("path", ["/jumpscope/features", "/features"])
def test_a_path_in_front_may_be_stripped_by_the_proxy_or_not(path: str) -> None:
    assert "'path': '/features'" in ask(path, access={"root_path": "/jumpscope"}).text


def test_the_path_in_front_alone_leads_to_the_first_page() -> None:
    answer = ask("/jumpscope", access={"root_path": "/jumpscope"})
    assert (answer.status_code, answer.headers["location"]) == (308, "/jumpscope/")
    assert ask("/jumpscopes", access={"root_path": "/jumpscope"}).status_code == 404


def test_head_is_answered_as_get_is_without_a_body() -> None:
    answer = ask("/features", method="HEAD")
    assert (answer.status_code, answer.headers["x-app"], answer.content) == (200, "1", b"")


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


def test_a_password_is_asked_for_where_one_was_set() -> None:
    access = {"users": users_of("ada:lo:ve lace")}
    refused = ask(access=access)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic ")
    for wrong in (
        basic("ada", "lo"),
        basic("bob", ""),
        basic("", ""),
        {"authorization": "Basic ==="},
        {"authorization": "Bearer lo:ve lace"},
        {"authorization": "Basic " + b64encode(b"\xff\xfe:x").decode()},
    ):
        assert ask(access=access, headers=wrong).status_code == 401
        # Nor does it say what is there.
        assert ask("/nowhere", access=access, headers=wrong).status_code == 401
    assert ask(access=access, headers=basic("ada", "lo:ve lace")).status_code == 200


def test_users_come_from_a_file_or_a_pair(tmp_path: Any) -> None:
    file = tmp_path / "users"
    file.write_text("# who may come in\nada:one\n\nbob:two\n")
    assert users_of(str(file)) == {"ada": "one", "bob": "two"}
    assert users_of("") == {}
    for wrong in ("ada", ":x", "ada:"):
        with pytest.raises(ValueError, match="user:password"):
            users_of(wrong)
    file.write_text("# nobody\n")
    with pytest.raises(ValueError, match="no user"):
        users_of(str(file))


@pytest.mark.parametrize(
    ("host", "name"),
    [("a.b:1", "a.b"), ("A.b", "a.b"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("::1", "::1")],
)
def test_host_name(host: str, name: str) -> None:
    assert host_name(host) == name
