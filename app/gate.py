"""The gate in front of the app: who may ask for what, before anything of Gradio sees it.

An ASGI application around another one. It answers only to the app's own host names, nothing across
origins, offers only the routes that the app uses, forgets what proxies say unless one was named,
asks for a password where one was set, and puts the security headers on every answer.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

# What Gradio's clients need beside the endpoints themselves. `run`, `api` (which pass by the queue),
# `upload`, `file`, `proxy`, `dev`, `monitoring`, `openapi.json` and all else are not here.
_GRADIO: Final = re.compile(
    r"/config/?|/gradio_api/(info/?|startup-events|queue/(join|data)|cancel|heartbeat/[^/]+"
    r"|call/[^/]+(/[^/]+){0,2}/?)"
)
_MCP: Final = re.compile(r"/gradio_api/mcp(/.*)?")
_STRIPPED_PREFIXES: Final = (b"x-forwarded-", b"forwarded")
_DROPPED_PREFIX: Final = b"access-control-"

LARGEST_BODY: Final = 1_000_000
"""Bytes of a request; the longest prompt and eight edits are far below."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may come in."""

    hosts: Collection[str]
    """Host names (without ports) that the app answers to, lower case."""
    pages: re.Pattern[str]
    """Paths of the app's own routes."""
    users: Mapping[str, str] = field(default_factory=dict)
    """Passwords by user name; empty lets everyone in."""
    mcp: bool = False
    """Whether tools are offered."""
    proxied: bool = False
    """Whether a proxy of ours says how people reach the app."""
    frame_ancestors: str = "'self'"
    """Where pages may be embedded, as the content-security policy has it."""

    def allows(self, path: str) -> bool:
        """Whether the app has such a route."""
        patterns = (self.pages, _GRADIO, *([_MCP] if self.mcp else []))
        return any(pattern.fullmatch(path) for pattern in patterns)


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
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if host_name(host) not in self.access.hosts:
            return await _refuse(
                send, 400, "This host name is not the app's: name it with --allowed-hosts."
            )
        if not self._same_origin(headers, host):
            return await _refuse(send, 403, "Another site may not ask this app.")
        if self.access.users and not _knows(self.access.users, headers.get(b"authorization", "")):
            return await _refuse(
                send,
                401,
                "Give a user name and a password.",
                [(b"www-authenticate", b'Basic realm="Jumpscope", charset="UTF-8"')],
            )
        if not self.access.allows(route_path(scope)):
            return await self._not_found(scope, receive, send)
        if _length(headers) > LARGEST_BODY:
            return await _refuse(send, 413, "This request is too long: shorten it.")
        if not self.access.proxied:
            scope["headers"] = [
                (name, value)
                for name, value in scope["headers"]
                if not name.lower().startswith(_STRIPPED_PREFIXES)
            ]
        return await self._app(scope, receive, send)

    def _same_origin(self, headers: Mapping[bytes, str], host: str) -> bool:
        """Whether a request comes from the app's own pages, or from no page at all."""
        origin = headers.get(b"origin")
        if origin is None:
            return headers.get(b"sec-fetch-site", "none") != "cross-site" or (
                headers.get(b"sec-fetch-mode") == "navigate"
            )
        named = {host}
        if self.access.proxied and (outer := headers.get(b"x-forwarded-host")):
            named.add(outer.partition(",")[0].strip())
        return origin.partition("://")[2].lower() in {name.lower() for name in named}

    def _with_headers(self, send: Send) -> Send:
        ours = [
            (
                b"content-security-policy",
                "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr "
                "'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
                f"form-action 'self'; frame-ancestors {self.access.frame_ancestors}".encode(),
            ),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-resource-policy", b"same-origin"),
        ]
        own = {name for name, _ in ours}

        async def sent(message: MutableMapping[str, Any]) -> None:
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
    """The path within the app, without the path that a proxy serves it under."""
    root, path = scope.get("root_path", ""), scope["path"]
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def host_name(host: str) -> str:
    """The name in a Host header, without its port: `[::1]:7860` is `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def _length(headers: Mapping[bytes, str]) -> int:
    written = headers.get(b"content-length", "0")
    return int(written) if written.isdecimal() else 0


def _knows(users: Mapping[str, str], authorization: str) -> bool:
    """Whether an Authorization header is of a user, compared in constant time."""
    kind, _, coded = authorization.partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        user, _, password = base64.b64decode(coded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return False
    expected = users.get(user, "")
    equal = hmac.compare_digest(_digest(password), _digest(expected))
    return user in users and equal


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


async def _refuse(
    send: Send, status: int, sentence: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    body = json.dumps({"detail": sentence}).encode()
    kind = (b"content-type", b"application/json")
    start = {"type": "http.response.start", "status": status, "headers": [kind, *(headers or [])]}
    await send(start)
    await send({"type": "http.response.body", "body": body})
