"""What the API page shows: each endpoint from its definition, and how it is called."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.endpoints import ENDPOINTS, Endpoint, places
from app.engine.workbench import Workbench
from app.requests import Kind, Parameter, parameters_of
from app.settings import Settings

LONG_TEXTS = ("text", "other_text", "prompt")
"""Parameters whose values are more than a line."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A parameter in the table and in the form."""

    parameter: Parameter
    control: str
    """`line`, `text`, `written` (as in the example), `choice`, `sae` or `tick`."""
    default: str
    """What an empty field stands for, else the shape of what is written there."""
    filled: str
    """What the form begins with."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An endpoint as the page shows it."""

    name: str
    summary: str
    returns: str
    limits: str
    fields: tuple[Field, ...]
    curl: str
    python: str


def api(workbench: Workbench, query: Mapping[str, str]) -> dict[str, Any]:
    """Every endpoint with its parameters."""
    settings = workbench.settings
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    # Where people reach it only their browser knows: js/api.js puts that in its place.
    here = f"http://{host}:{settings.port}"
    return {"here": here, "shown": [shown(each, settings, here) for each in ENDPOINTS]}


def shown(endpoint: Endpoint, settings: Settings, here: str) -> Shown:
    """An endpoint under these settings, called at the address `here`."""
    return Shown(
        name=endpoint.name,
        summary=endpoint.summary,
        returns=endpoint.returns,
        limits=limits_of(endpoint, settings),
        fields=tuple(
            _field(each, endpoint.example.get(each.name))
            for each in parameters_of(endpoint.request, settings)
        ),
        curl=curl_of(endpoint, here),
        python=python_of(endpoint, here),
    )


def limits_of(endpoint: Endpoint, settings: Settings) -> str:
    """Its kind of work, how many of that kind run at once, and how many may wait."""
    work, most = endpoint.work, places(endpoint.work, settings)
    waiting = getattr(settings, f"max_waiting_{work}")
    if most is None:
        return f"{work.sentence}; at most {waiting:,} wait."
    at_once = "one at a time" if most == 1 else f"{most} at once"
    return f"{work.sentence}: {at_once}, and at most {waiting:,} wait."


def curl_of(endpoint: Endpoint, here: str) -> str:
    """The example as two requests in a shell: one asks and is told a number, one fetches."""
    url = f"{here}/gradio_api/call"
    given = shlex.quote(_json(endpoint.example))
    return (
        f"curl -s {url}/v2/{endpoint.name} -H 'Content-Type: application/json' \\\n"
        f"  -d {given} | cut -d'\"' -f4 \\\n"
        f"  | xargs -I ID curl -sN {url}/{endpoint.name}/ID"
    )


def python_of(endpoint: Endpoint, here: str) -> str:
    """The example with `gradio_client`; a stream's answers are taken as they come."""
    given = {**endpoint.example, "api_name": f"/{endpoint.name}"}
    arguments = "\n" + "".join(f"    {name}={value!r},\n" for name, value in given.items())
    head = f'from gradio_client import Client\n\nclient = Client("{here}/")\n'
    if endpoint.streams:
        return f"{head}job = client.submit({arguments})\nfor answer in job:\n    print(answer)\n"
    return f"{head}answer = client.predict({arguments})\nprint(answer)\n"


def _field(parameter: Parameter, example: Any) -> Field:
    return Field(
        parameter=parameter,
        control=_control(parameter),
        default=_shape(parameter) if parameter.default is None else _written(parameter.default),
        filled="" if example is None else _written(example),
    )


def _control(parameter: Parameter) -> str:
    if parameter.name == "sae":
        return "sae"
    if parameter.name in LONG_TEXTS:
        return "text"
    return {
        Kind.FLAG: "tick",
        Kind.CHOICE: "choice",
        Kind.ITEMS: "written",
        Kind.GROUP: "written",
    }.get(parameter.kind, "line")


def _shape(parameter: Parameter) -> str:
    """Items with what they require: `[{"role": …, "content": …}]`."""
    required = ", ".join(f'"{each.name}": …' for each in parameter.items if each.required)
    return f"[{{{required}}}]" if required else ""


def _written(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
