"""The gate in front of the app: who may ask for what, before anything of Gradio sees it.

An ASGI application around another one. It answers only to the app's own host names, nothing across
origins, offers only the routes that the app uses, reads a request's body up to a limit, forgets
what proxies say unless one was named, asks for a password where one was set, and puts the security
headers on every answer.
"""

import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.users import is_user
from app.web import assets

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
WILDCARDS: Final = frozenset({"0.0.0.0", "::"})
"""Hosts that stand for all addresses of the machine."""

# What Gradio's clients need beside the endpoints themselves. `run`, `api` (both pass by the queue),
# `upload`, `file`, `proxy`, `dev`, `monitoring`, `openapi.json` and all else are not here.
_GRADIO: Final = re.compile(
    r"/config/?|/gradio_api/(info/?|queue/(join|data)|cancel|heartbeat/[^/]+"
    r"|call/[^/]+(/[^/]+){0,2}/?)"
)
_MCP: Final = re.compile(r"/gradio_api/mcp(/.*)?")
_STRIPPED_PREFIXES: Final = (b"x-forwarded-", b"forwarded", b"x-real-ip")
_DROPPED_PREFIX: Final = b"access-control-"
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS"})

LARGEST_BODY: Final = 1_000_000
"""Bytes of a request; the longest prompt and eight edits are far below."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may come in."""

    hosts: Collection[str]
    """Host names (without ports) that the app answers to, lower case. One of `WILDCARDS` stands for
    every address; addresses are no names that somebody could point elsewhere."""
    pages: re.Pattern[str]
    """Paths of the app's own routes."""
    users: Mapping[str, str] = field(default_factory=dict)
    """Passwords by user name; empty lets everyone in."""
    mcp: bool = False
    """Whether tools are offered."""
    root_path: str = ""
    """The path that a proxy serves the app under, whether it strips it or not."""
    proxied: bool = False
    """Whether a proxy of ours says how people reach the app."""
    frame_ancestors: str = "'self'"
    """Where pages may be embedded, as the content-security policy has it."""

    def answers_to(self, host: str) -> bool:
        """Whether a Host header names the app."""
        name = host_name(host)
        return name in self.hosts or (bool(WILDCARDS & set(self.hosts)) and _is_address(name))

    def allows(self, path: str) -> bool:
        """Whether the app has such a route."""
        patterns = (self.pages, _GRADIO, *([_MCP] if self.mcp else []))
        return any(pattern.fullmatch(path) for pattern in patterns)


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    sentence: str
    field: str = ""
    """The parameter that the sentence is about."""
    headers: tuple[tuple[bytes, bytes], ...] = ()


TOO_LONG: Final = Refusal(413, "This request is too long: shorten it.")
FOREIGN_HOST: Final = Refusal(400, "This host name is not the app's: name it with --allowed-hosts.")
FOREIGN_ORIGIN: Final = Refusal(403, "Another site may not ask this app.")
NO_USER: Final = Refusal(
    401,
    "Give a user name and a password.",
    headers=((b"www-authenticate", b'Basic realm="Jumpscope", charset="UTF-8"'),),
)


class Gate:
    """`app` behind the rules of `access`, which may be replaced while it runs."""

    def __init__(self, app: ASGIApp, access: Access, not_found: ASGIApp) -> None:
        self.access = access
        self._app, self._not_found = app, not_found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse, or pass on."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        send = self._with_headers(send)
        if (refusal := self._refusal(scope["headers"])) is not None:
            return await refuse(send, refusal)
        scope = self._as_ours(scope)
        path = route_path(scope)
        if not path:
            # Relative links of a page need the slash at its address's end.
            return await _redirect(send, f"{self.access.root_path}/")
        if not self.access.allows(path):
            return await self._not_found(scope, receive, send)
        if scope["method"] not in _WITHOUT_BODY:
            body = await _read(receive)
            if body is None:
                return await refuse(send, TOO_LONG)
            receive = replayed(body, receive)
        elif scope["method"] == "HEAD" and self.access.pages.fullmatch(path):
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        return await self._app(scope, receive, send)

    def _refusal(self, headers: Collection[tuple[bytes, bytes]]) -> Refusal | None:
        """Why a request may not come in; None if it may."""
        access = self.access
        given = {name: value.decode("latin-1") for name, value in headers}
        hosts = [given.get(b"host", "")]
        if access.proxied and (outer := given.get(b"x-forwarded-host")):
            hosts.append(outer.partition(",")[0].strip())
        if sum(name == b"host" for name, _ in headers) != 1 or not all(
            map(access.answers_to, hosts)
        ):
            return FOREIGN_HOST
        if not _is_same_origin(given, hosts):
            return FOREIGN_ORIGIN
        if access.users and not is_user(access.users, given.get(b"authorization", "")):
            return NO_USER
        return None

    def _as_ours(self, scope: Scope) -> Scope:
        """The request as the app is to see it: under its path, and only its own proxy's word."""
        scope = {**scope, "root_path": self.access.root_path}
        if not self.access.proxied:
            # The server in front of us has believed what it was told of the scheme.
            scope["scheme"] = "http"
            scope["headers"] = [
                (name, value)
                for name, value in scope["headers"]
                if not name.lower().startswith(_STRIPPED_PREFIXES)
            ]
        return scope

    def _with_headers(self, send: Send) -> Send:
        ours = [
            (
                b"content-security-policy",
                f"default-src 'none'; script-src 'self' {assets.source_of('js/early.js')}; "
                "style-src 'self'; style-src-attr 'unsafe-inline'; img-src 'self' data:; "
                "connect-src 'self'; base-uri 'none'; "
                f"form-action 'self'; frame-ancestors {self.access.frame_ancestors}".encode(),
            ),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-resource-policy", b"same-origin"),
        ]
        own = {name for name, _ in ours}

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [
                    (name, value)
                    for name, value in message.get("headers", [])
                    if name.lower() not in own and not name.lower().startswith(_DROPPED_PREFIX)
                ]
                message = {**message, "headers": [*kept, *ours]}
            await send(message)

        return sent


def route_path(scope: Scope) -> str:
    """The path within the app, without the one that a proxy serves it under (alone it is empty)."""
    root, path = scope.get("root_path", ""), scope["path"]
    return path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else path


def host_name(host: str) -> str:
    """The name in a Host header, without its port: `[::1]:7860` is `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` for who comes next, with a body that has been read already."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return left.pop() if left else await receive()

    return received


async def refuse(send: Send, refusal: Refusal) -> None:
    """Answer with the sentence as JSON, and the parameter it is about."""
    said = {"detail": refusal.sentence} | ({"field": refusal.field} if refusal.field else {})
    headers = [(b"content-type", b"application/json"), *refusal.headers]
    start = {"type": "http.response.start", "status": refusal.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})


async def _redirect(send: Send, where: str) -> None:
    headers = [(b"location", where.encode())]
    await send({"type": "http.response.start", "status": 308, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same_origin(headers: Mapping[bytes, str], hosts: Collection[str]) -> bool:
    """Whether a request comes from the app's own pages, from no page, or opens a page."""
    origin = headers.get(b"origin")
    if origin is None:
        site = headers.get(b"sec-fetch-site", "none")
        return site in ("none", "same-origin") or headers.get(b"sec-fetch-mode") == "navigate"
    return origin.partition("://")[2].lower() in {host.lower() for host in hosts}


async def _read(receive: Receive) -> bytes | None:
    """A request's body, however it is cut into pieces; None if it is too long, or never ended."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body", False):
            return body


def _without_body(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return sent
