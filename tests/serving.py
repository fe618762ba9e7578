"""A running app on a free port, and what tests ask it over HTTP."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
from gradio_client import Client

from app.endpoints import ENDPOINTS
from app.server import RunningApp, serve
from app.settings import Settings
from sae_core.bundle import Bundle

INDEX = {endpoint.name: number for number, endpoint in enumerate(ENDPOINTS)}
"""Gradio's number of each endpoint."""


@contextmanager
def running(bundle: Bundle, **changed: Any) -> Iterator[RunningApp]:
    """The app on a free port of this process, under settings changed for the test."""
    settings: dict[str, Any] = {
        "port": 0,
        "open_browser": False,
        "threads": 1,
        "device": "cpu",
        "dtype": "float32",
        "check_tokens": 0,
    }
    app = serve(Settings(**settings | changed), bundle)
    try:
        yield app
    finally:
        app.close()


def arguments_of(name: str, **given: Any) -> list[Any]:
    """An endpoint's arguments in order; what is left out is None."""
    fields = next(each for each in ENDPOINTS if each.name == name).request.model_fields
    assert set(given) <= set(fields)
    return [given.get(field) for field in fields]


async def join(client: httpx.AsyncClient, name: str, session: str, **given: Any) -> httpx.Response:
    """Ask an endpoint through the queue, as pages do."""
    body = {
        "data": arguments_of(name, **given),
        "fn_index": INDEX[name],
        "session_hash": session,
    }
    return await client.post("gradio_api/queue/join", json=body)


@asynccontextmanager
async def listening(
    client: httpx.AsyncClient, session: str
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """What the server tells a session; leaving the block breaks the stream off."""
    address = f"gradio_api/queue/data?session_hash={session}"
    async with client.stream("GET", address) as stream:
        assert stream.status_code == 200, await stream.aread()

        async def messages() -> AsyncIterator[dict[str, Any]]:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

        yield messages()


async def answer(
    client: httpx.AsyncClient, name: str, session: str, **given: Any
) -> dict[str, Any]:
    """The last message about one question, asked and awaited."""
    response = await join(client, name, session, **given)
    assert response.status_code == 200, response.text
    async with listening(client, session) as messages:
        async for message in messages:
            if message["msg"] == "process_completed":
                return message
    raise AssertionError("the stream ended without an answer")


def assert_gradios_client_is_answered(url: str) -> None:
    """An answer and a stream, by Gradio's own client."""
    client = Client(url, verbose=False)
    try:
        assert client.predict(5, api_name="/feature")["feature"] == 5
        job = client.submit("The river", [{"feature": 5}], max_new_tokens=5, api_name="/steer")
        assert job.result()["steered"]
    finally:
        client.close()
