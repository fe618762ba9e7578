"""The endpoints as tools of the Model Context Protocol, for `jumpscope serve --mcp`.

A tool's description and schema are made from the endpoint's definition. A call of a tool asks the
endpoint as any client does, so that it waits in the same queue under the same limits, and a mistake
comes back as the same sentence.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any, Final

import httpx

from app.endpoints import ENDPOINTS
from app.gate import ASGIApp, Receive, Scope, Send
from app.requests import Kind, Parameter, parameters_of
from app.settings import Settings

PATH: Final = "/gradio_api/mcp"
NEEDS: Final = "--mcp needs the package mcp: pip install 'jumpscope[mcp]' brings it."
INSTRUCTIONS: Final = (
    "Sparse autoencoders spliced into a language model: look at features, see what fires on a text "
    "and what the splice costs, and steer. Begin with search_features or prompt_features."
)


class Tools:
    """An ASGI application that speaks the protocol; `calls` is the one that answers endpoints.

    It answers inside `running` alone.
    """

    def __init__(self, calls: ASGIApp, settings: Settings) -> None:
        if find_spec("mcp") is None:
            raise ValueError(NEEDS)
        # Only here: it comes with an extra.
        from mcp.server.lowlevel import Server
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
        from mcp.types import TextContent, Tool

        self._calls = calls
        server: Server[Any, Any] = Server("Jumpscope", instructions=INSTRUCTIONS)
        tools = [
            Tool(
                name=endpoint.name,
                description=f"{endpoint.summary} Answers {endpoint.returns}",
                inputSchema=schema_of(parameters_of(endpoint.request, settings)),
            )
            for endpoint in ENDPOINTS
        ]

        @server.list_tools()
        async def list_tools() -> list[Tool]:
            return tools

        # What is wrong with arguments is said by the endpoint, in a sentence.
        @server.call_tool(validate_input=False)
        async def call_tool(name: str, arguments: dict[str, Any]) -> list[TextContent]:
            answer = await self._answer(name, arguments)
            return [TextContent(type="text", text=json.dumps(answer, ensure_ascii=False))]

        # No sessions: nothing of a caller is kept. Answers are streams, so that it is seen when a
        # caller has gone.
        self._manager = StreamableHTTPSessionManager(server, stateless=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one message."""
        await self._manager.handle_request(scope, receive, send)

    @asynccontextmanager
    async def running(self, _app: object) -> AsyncIterator[None]:
        """As long as the server runs."""
        async with self._manager.run():
            yield

    async def _answer(self, name: str, arguments: dict[str, Any]) -> Any:
        """An endpoint's last answer; ValueError with the sentence that it refuses with."""
        transport = httpx.ASGITransport(app=self._calls)  # pyright: ignore[reportArgumentType]
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", timeout=None
        ) as client:
            response = await client.post(f"/gradio_api/call/v2/{name}", json=arguments)
            if response.is_error:
                raise ValueError(response.json()["detail"])
            event = response.json()["event_id"]
            told = await client.get(f"/gradio_api/call/{name}/{event}")
        return _last(told.text)


def _last(stream: str) -> Any:
    """The answer at the end of a stream of events; ValueError if that is an error."""
    kind, _, data = stream.strip().rpartition("event: ")[2].partition("\ndata: ")
    value = json.loads(data)
    if kind != "complete":
        raise ValueError(value["error"] if isinstance(value, dict) else str(value))
    return value[0]


def schema_of(parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The JSON schema of an object with these parameters: types, bounds, defaults, sentences."""
    return {
        "type": "object",
        "properties": {each.name: _property(each) for each in parameters},
        "required": [each.name for each in parameters if each.required],
        "additionalProperties": False,
    }


def _property(parameter: Parameter) -> dict[str, Any]:
    unit = f" ({parameter.unit})" if parameter.unit else ""
    described = {"description": parameter.sentence + unit, **_type(parameter)}
    return described if parameter.default is None else {**described, "default": parameter.default}


def _type(parameter: Parameter) -> dict[str, Any]:
    match parameter.kind:
        case Kind.WHOLE:
            return {"type": "integer", **_bounds(parameter, "minimum", "maximum")}
        case Kind.NUMBER:
            return {"type": "number", **_bounds(parameter, "minimum", "maximum")}
        case Kind.TEXT:
            return {"type": "string", **_bounds(parameter, "minLength", "maxLength")}
        case Kind.FLAG:
            return {"type": "boolean"}
        case Kind.CHOICE:
            words = {"type": "string", "enum": list(parameter.choices)}
            numbers = {"type": "array", "items": {"type": "integer", "minimum": 0}}
            return {"anyOf": [words, numbers]} if parameter.or_numbers else words
        case Kind.ITEMS:
            plain = "string" if parameter.texts else "number" if parameter.fractions else "integer"
            item = schema_of(parameter.items) if parameter.items else {"type": plain}
            return {"type": "array", "items": item, **_bounds(parameter, "minItems", "maxItems")}
        case Kind.GROUP:
            return {"type": "object"}


def _bounds(parameter: Parameter, least: str, most: str) -> dict[str, float]:
    bounds = {least: parameter.least, most: parameter.most}
    return {name: bound for name, bound in bounds.items() if bound is not None}
