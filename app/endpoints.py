"""The app's endpoints, made from their table: for the pages, `gradio_client`, plain HTTP and MCP.

An `Endpoint` joins a request (`app.requests`) with the function of `app.service` that answers it.
From the request come the Python signature and the docstring that Gradio turns into its API and
tools, the API page, and the docs. `Api` offers the same functions within Python.
"""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from app.endpoint import Answer as Answer
from app.endpoint import Endpoint as Endpoint
from app.endpoint import Work as Work
from app.endpoint import places as places
from app.endpoint_table import ENDPOINTS as ENDPOINTS
from app.engine.workbench import Workbench
from app.requests import Kind, Request, parameters_of, parsed
from app.service.labels import with_labels
from app.settings import Settings

BY_NAME: Final[Mapping[str, Endpoint]] = {endpoint.name: endpoint for endpoint in ENDPOINTS}


def function_of(endpoint: Endpoint, workbench: Workbench) -> Callable[..., Any]:
    """The endpoint as a Python function with the request's parameters, for one workbench.

    It raises RequestError. Every parameter has a default, None where the request requires it, so
    that what is missing gets our sentence. One that streams is a generator function, one that waits
    a coroutine function.
    """
    settings = workbench.settings
    returned = Iterator[Answer] if endpoint.streams else Answer
    signature = inspect.Signature(
        [
            inspect.Parameter(
                each.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                annotation=_TYPES[each.kind],
                default=each.default,
            )
            for each in parameters_of(endpoint.request, settings)
        ],
        return_annotation=returned,
    )

    def request(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        return parsed(endpoint.request, signature.bind(*args, **kwargs).arguments, settings)

    def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return endpoint.answer(workbench, request(args, kwargs))

    labelled = partial(with_labels, workbench)

    def plain(*args: Any, **kwargs: Any) -> Any:
        return labelled(answer(args, kwargs))

    def streaming(*args: Any, **kwargs: Any) -> Any:
        yield from map(labelled, answer(args, kwargs))

    async def waiting(*args: Any, **kwargs: Any) -> Any:
        return await answer(args, kwargs)

    function: Any = streaming if endpoint.streams else waiting if endpoint.waits else plain
    function.__name__ = function.__qualname__ = endpoint.name
    function.__doc__ = docstring(endpoint, settings)
    function.__annotations__ = {
        **{each.name: each.annotation for each in signature.parameters.values()},
        "return": returned,
    }
    function.__signature__ = signature
    return function


_TYPES: Final[Mapping[Kind, Any]] = {
    Kind.WHOLE: int,
    Kind.NUMBER: float,
    Kind.TEXT: str,
    Kind.FLAG: bool,
    Kind.CHOICE: str,
    Kind.ITEMS: list[dict],
    Kind.GROUP: dict,
}
"""Python's types of the parameters, as Gradio tells its clients."""


def docstring(endpoint: Endpoint, settings: Settings) -> str:
    """What the endpoint answers, its parameters with bounds and units, and what it returns."""
    lines = [endpoint.summary, "", "Parameters:"]
    for each in parameters_of(endpoint.request, settings):
        limits = f" ({each.limits})" if each.limits else ""
        lines.append(f"    {each.name}: {each.sentence}{limits}")
    return "\n".join([*lines, "Returns:", f"    {endpoint.returns}"])


class Api:
    """The endpoints within Python, without a server: `Api(workbench).steer("The", [...])`.

    Each is called as it is over HTTP and answers the same; a stream answers its last value.
    """

    def __init__(self, workbench: Workbench) -> None:
        self.workbench = workbench

    def __getattr__(self, name: str) -> Callable[..., Answer]:
        endpoint = BY_NAME.get(name)
        if endpoint is None:
            raise AttributeError(f"There is no endpoint {name}: use one of {', '.join(BY_NAME)}.")
        function = function_of(endpoint, self.workbench)
        if endpoint.streams:
            return _last_of(function)
        return _waited_for(function) if endpoint.waits else function


def _last_of(function: Callable[..., Iterator[Answer]]) -> Callable[..., Answer]:
    def last(*args: Any, **kwargs: Any) -> Answer:
        *_, answer = function(*args, **kwargs)
        return answer

    return last


def _waited_for(function: Callable[..., Coroutine[Any, Any, Answer]]) -> Callable[..., Answer]:
    def waited(*args: Any, **kwargs: Any) -> Answer:
        # In a thread of its own: a notebook's has a running loop already.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(function(*args, **kwargs))).result()

    return waited
