"""The endpoints as tools, driven with the official client of the Model Context Protocol."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from app.endpoints import ENDPOINTS, Api
from app.requests import parameters_of
from app.server import RunningApp
from app.settings import Settings
from app.tools import PATH, Tools
from app.work_queue import WorkQueue
from sae_core.bundle import Bundle
from sae_core.shared_generation import SharedGeneration
from tests.serving import running
from tests.unit.service_support import as_json

STEER: dict[str, Any] = {"prompt": "The river", "edits": [{"feature": 5}], "max_new_tokens": 4}


@pytest.fixture(scope="module")
def app(tiny_bundle: Bundle) -> Iterator[RunningApp]:
    with running(tiny_bundle, mcp=True, max_seconds=600.0, max_generations=1) as app:
        app.workbench.load()
        yield app


@asynccontextmanager
async def connected(app: RunningApp, **headers: str) -> AsyncIterator[ClientSession]:
    async with (
        httpx.AsyncClient(headers=headers, timeout=240) as http,
        streamable_http_client(f"{app.url}{PATH}", http_client=http) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


def called(app: RunningApp, name: str, arguments: dict[str, Any]) -> CallToolResult:
    async def call() -> CallToolResult:
        async with connected(app) as session:
            return await session.call_tool(name, arguments)

    return asyncio.run(call())


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def test_the_tools_are_the_endpoints_with_their_bounds_and_sentences(app: RunningApp) -> None:
    async def listed() -> list[Any]:
        async with connected(app) as session:
            return (await session.list_tools()).tools

    tools = asyncio.run(listed())
    assert [tool.name for tool in tools] == [endpoint.name for endpoint in ENDPOINTS]
    for tool, endpoint in zip(tools, ENDPOINTS, strict=True):
        assert tool.description.startswith(endpoint.summary)
        schema = tool.inputSchema
        parameters = parameters_of(endpoint.request, app.workbench.settings)
        assert list(schema["properties"]) == [each.name for each in parameters]
        assert schema["required"] == [each.name for each in parameters if each.required]
        for each in parameters:
            described = schema["properties"][each.name]
            assert each.sentence in described["description"]
            assert described.get("default") == each.default
    steering = next(tool for tool in tools if tool.name == "steer").inputSchema["properties"]
    assert (steering["max_new_tokens"]["minimum"], steering["max_new_tokens"]["maximum"]) == (
        1,
        200,
    )
    assert steering["edits"]["maxItems"] == 8
    edit = steering["edits"]["items"]
    assert edit["required"] == ["feature"]
    assert edit["properties"]["strength"]["maximum"] == 100
    assert edit["properties"]["mode"]["enum"] == ["set", "scale", "add", "ablate", "cap"]
    assert "max_act" not in edit["properties"]
    ladder = next(tool for tool in tools if tool.name == "ladder").inputSchema["properties"]
    assert ladder["strengths"]["items"] == {"type": "number"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("feature", {"feature": 5}),
        ("search_features", {"query": "#7"}),
        ("prompt_features", {"text": "The old clock 🙂"}),
        ("compare", {"text": "The old clock", "other_text": "The ship", "limit": 5}),
        ("patch", {"text": "The old clock", "other_text": "The ship", "features": [5, 6]}),
        ("splice", {"text": "The old clock"}),
        ("steer", STEER),
        ("ladder", {**STEER, "strengths": [0.5, 2], "seeds": 1}),
        ("prove", {**STEER, "seeds": 3}),
        ("check", {}),
    ],
)
def test_a_tool_answers_as_its_endpoint(
    app: RunningApp, name: str, arguments: dict[str, Any]
) -> None:
    result = called(app, name, arguments)
    assert not result.isError
    assert json.loads(text_of(result)) == as_json(getattr(Api(app.workbench), name)(**arguments))


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("feature", {"feature": "five"}, "Feature must be a whole number, 0 or more, not “five”."),
        ("feature", {"feature": 99}, "There is no feature 99: this SAE has 0 to 63."),
        ("feature", {}, "Feature is missing: give a whole number, 0 or more."),
        (
            "steer",
            {**STEER, "edits": []},
            "Add at least one edit: choose a feature and what to do with it.",
        ),
        ("feature", {"feature": 1, "x": 2}, "There is no parameter “x”: use feature, sae."),
        (
            "nothing",
            {},
            f"There is no endpoint nothing: use one of {', '.join(e.name for e in ENDPOINTS)}.",
        ),
    ],
)
def test_a_mistake_is_our_sentence(
    app: RunningApp, name: str, arguments: dict[str, Any], sentence: str
) -> None:
    result = called(app, name, arguments)
    assert result.isError
    assert text_of(result) == sentence


def test_who_leaves_ends_the_run(app: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the next run would wait for 200 tokens that nobody reads."""
    steps: list[int] = []
    gone = threading.Event()

    def counted(*args: Any, **options: Any) -> Iterator[Any]:
        steps.append(0)
        for step in whole(*args, **options):
            steps[-1] += 1
            yield step
            assert gone.wait(60)

    async def leaves(self: WorkQueue, session: str, *, broken_off: bool) -> None:
        gone.set()
        await noticed(self, session, broken_off=broken_off)

    whole, noticed = SharedGeneration.generate, WorkQueue.leaves
    monkeypatch.setattr(WorkQueue, "leaves", leaves)
    monkeypatch.setattr(SharedGeneration, "generate", counted)

    async def run() -> None:
        async with connected(app) as session:
            await session.call_tool("steer", {**STEER, "max_new_tokens": 200})

    async def leave() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            while not steps:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    asyncio.run(leave())
    assert not called(app, "steer", STEER).isError
    assert len(steps) == 2
    assert steps[0] < 200


def test_passwords_and_hosts_hold_for_tools_too(tiny_bundle: Bundle) -> None:
    with running(tiny_bundle, mcp=True, auth="ann:secret") as app:
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        accept = {"accept": "application/json, text/event-stream"}
        url = f"{app.url}{PATH}"
        assert httpx.post(url, json=message, headers=accept, timeout=60).status_code == 401
        known = {**accept, "authorization": "Basic YW5uOnNlY3JldA=="}
        assert httpx.post(url, json=message, headers=known, timeout=60).status_code == 200
        foreign = {**known, "host": "evil.example"}
        assert httpx.post(url, json=message, headers=foreign, timeout=60).status_code == 400
        across = {**known, "origin": "http://evil.example"}
        assert httpx.post(url, json=message, headers=across, timeout=60).status_code == 403

        async def features() -> CallToolResult:
            async with connected(app, authorization=known["authorization"]) as session:
                return await session.call_tool("feature", {"feature": 5})

        assert json.loads(text_of(asyncio.run(features())))["feature"] == 5


def test_tools_are_offered_only_when_asked_for(tiny_bundle: Bundle) -> None:
    with running(tiny_bundle) as app:
        assert httpx.post(f"{app.url}{PATH}", json={}, timeout=60).status_code == 404


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.tools.find_spec", lambda _name: None)

    async def calls(*_: Any) -> None: ...

    with pytest.raises(ValueError, match=r"pip install 'jumpscope\[mcp\]'"):
        Tools(calls, Settings())
