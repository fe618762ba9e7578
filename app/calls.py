"""What is asked of the endpoints over HTTP, looked at before Gradio's queue takes it in.

Gradio answers what it does not understand with 500, or takes it in and fails later. Here an unknown
endpoint is 404, a body that is no JSON 400, and a missing or unknown argument or one of a wrong
type 422, each with one sentence, and the parameter it is about as `field`. What is asked through
`/queue/join`, as pages and `gradio_client` do, gets the sentence in its stream. Here is also where
it is seen that somebody has gone.
"""

import asyncio
import json
import re
from typing import Any, Final
from urllib.parse import parse_qs

from app.endpoints import BY_NAME, ENDPOINTS, Endpoint
from app.gate import ASGIApp, Message, Receive, Refusal, Scope, Send, refuse, replayed, route_path
from app.requests import RequestError, parsed
from app.settings import Settings
from app.work_queue import WorkQueue

_CALL: Final = re.compile(r"/gradio_api/call/(?P<v2>v2/)?(?P<name>[^/]+)(?:/(?P<event>[^/]+))?/?")
_JOIN: Final = "/gradio_api/queue/join"
_CANCEL: Final = "/gradio_api/cancel"
_DATA: Final = "/gradio_api/queue/data"

LONGEST_SESSION: Final = 100
"""Characters of a session's name."""
NO_ENDPOINT: Final = "There is no endpoint {name}: use one of {names}."
NO_RUN: Final = "There is no such run: its answer was fetched, or waited too long for that."


class _RefusedError(Exception):
    """A request that Gradio is not to see."""

    def __init__(self, status: int, sentence: str, field: str = "") -> None:
        super().__init__(sentence)
        self.refusal = Refusal(status, sentence, field)


class Calls:
    """`app` behind a look at what is asked of its endpoints; `queue` is what they wait in."""

    def __init__(self, app: ASGIApp, queue: WorkQueue, settings: Settings) -> None:
        self._app, self._queue, self._settings = app, queue, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with a sentence, or pass on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = route_path(scope)
        try:
            if path == _JOIN and scope["method"] == "POST":
                body = _object_of(await _body(receive))
                _check_joined(body)
                return await self._app(*_as_json(scope, body, receive), send)
            if path == _CANCEL and scope["method"] == "POST":
                body = _object_of(await _body(receive))
                return await self._app(*_as_json(scope, body, receive), send)
            if path == _DATA:
                given = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])
                return await self._stream(scope, receive, send, given[0])
            if (call := _CALL.fullmatch(path)) is not None:
                return await self._call(call, scope, receive, send)
        except _RefusedError as refused:
            return await refuse(send, refused.refusal)
        return await self._app(scope, receive, send)

    async def _call(self, call: re.Match[str], scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = _endpoint(call["name"])
        if call["event"] is not None:
            return await self._stream(scope, receive, send, self._queue.session_of(call["event"]))
        if scope["method"] == "POST":
            body = _object_of(await _body(receive))
            given = body if call["v2"] else self._positional(endpoint, body)
            try:
                parsed(endpoint.request, given, self._settings)
            except RequestError as error:
                raise _RefusedError(422, str(error), error.field) from error
            scope, receive = _as_json(scope, body, receive)
        return await self._app(scope, receive, send)

    def _positional(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """Arguments by name from those in order; those left out are written as None."""
        names = list(endpoint.request.model_fields)
        data = body.get("data")
        if not isinstance(data, list):
            raise _RefusedError(422, "data must be a list of arguments in order.", "data")
        if len(data) > len(names):
            raise _RefusedError(
                422,
                f"{endpoint.name} takes {len(names)} arguments, not {len(data)}: "
                f"{', '.join(names)}.",
                "data",
            )
        session = body.get("session_hash") or ""
        if not isinstance(session, str) or len(session) > LONGEST_SESSION:
            raise _RefusedError(422, "session_hash must be a short text.", "session_hash")
        body["data"] = [*data, *[None] * (len(names) - len(data))]
        return dict(zip(names, body["data"], strict=True))

    async def _stream(
        self, scope: Scope, receive: Receive, send: Send, session: str | None
    ) -> None:
        """Answers as they come; whoever breaks off is forgotten at once."""
        if not session or not self._queue.has_session(session):
            raise _RefusedError(404, NO_RUN)
        broken_off = False

        async def heard() -> Message:
            nonlocal broken_off
            message = await receive()
            broken_off |= message["type"] == "http.disconnect"
            return message

        self._queue.listens(session)
        try:
            await self._app(scope, heard, send)
        except asyncio.CancelledError:
            broken_off = True
            raise
        finally:
            await self._queue.leaves(session, broken_off=broken_off)


def _endpoint(name: str) -> Endpoint:
    if name not in BY_NAME:
        raise _RefusedError(404, NO_ENDPOINT.format(name=name[:60], names=", ".join(BY_NAME)))
    return BY_NAME[name]


def _check_joined(body: dict[str, Any]) -> None:
    """The form of what Gradio's clients send; the arguments are looked at when their turn comes."""
    index = body.get("fn_index")
    if type(index) is not int or not 0 <= index < len(ENDPOINTS):
        raise _RefusedError(404, f"There is no endpoint of the number {json.dumps(index)[:60]}.")
    names = list(ENDPOINTS[index].request.model_fields)
    session = body.get("session_hash")
    if not isinstance(session, str) or not 0 < len(session) <= LONGEST_SESSION:
        raise _RefusedError(400, "session_hash must be a short text of your own.", "session_hash")
    data = body.get("data")
    if not isinstance(data, list) or len(data) > len(names):
        raise _RefusedError(400, f"data must be a list of {', '.join(names)}.", "data")
    body["data"] = [*data, *[None] * (len(names) - len(data))]


async def _body(receive: Receive) -> bytes:
    """The whole body; the gate has read and measured it."""
    return (await receive())["body"]


def _object_of(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, "The request's body is not JSON.") from error
    if not isinstance(value, dict):
        raise _RefusedError(400, "The request's body must be a JSON object.")
    return value


def _as_json(scope: Scope, body: dict[str, Any], receive: Receive) -> tuple[Scope, Receive]:
    """A request whose body is `body`, whatever kind it was said to be of."""
    written = json.dumps(body).encode()
    described = (b"content-type", b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in described]
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(written))]
    return {**scope, "headers": headers}, replayed(written, receive)
