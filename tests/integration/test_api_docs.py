"""The examples of docs/ and of the API page, run as they stand but for bundle and address."""

import html
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client

from app.endpoints import ENDPOINTS, Endpoint
from app.requests import parameters_of
from app.server import RunningApp
from app.settings import Settings
from app.web.api_view import shown
from sae_core.bundle import Bundle
from sae_core.index import SORTS
from tests import tiny
from tests.serving import running
from tests.unit.service_support import as_json

DOCS = Path(__file__).parents[2] / "docs"
HERE = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def app(tiny_bundle: Bundle) -> Iterator[RunningApp]:
    with running(tiny_bundle, mcp=True, max_seconds=600.0) as app:
        app.workbench.load()
        yield app


@pytest.fixture(scope="module")
def page(app: RunningApp) -> str:
    response = httpx.get(f"{app.url}/api", timeout=60)
    assert response.status_code == 200
    return response.text


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )


def in_a_shell(command: str) -> Any:
    """What a shell prints for an example: the data of the last event."""
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=240, check=True
    )
    kind, _, data = done.stdout.strip().rpartition("event: ")[2].partition("\ndata: ")
    assert kind == "complete", done.stdout
    return json.loads(data)[0]


# docs/

EXAMPLES = [
    *(("steering.md", number) for number in range(6)),
    *(("api.md", number) for number in range(2)),
    ("reproduce.md", 0),
    ("effects.md", 0),
]


def test_the_docs_have_the_examples_that_are_tested_here() -> None:
    pages = ("steering.md", "api.md", "reproduce.md", "effects.md")
    assert [len(blocks(page, "python")) for page in pages] == [6, 2, 1, 1]
    assert [len(blocks("steering.md", "json")), len(blocks("api.md", "sh"))] == [1, 1]


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_the_python_examples_run(
    name: str,
    number: int,
    tiny_bundle: Bundle,
    chat_bundle: Bundle,
    app: RunningApp,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = blocks(name, "python")[number]
    places = {
        "app/demo": str(tiny_bundle.path),
        "my-chat-bundle": str(chat_bundle.path),
        HERE: app.url,
    }
    (where,) = [place for place in places if place in code]
    code = code.replace(where, places[where])
    exec(compile(code, f"docs/{name}, example {number}", "exec"), {})
    assert len(capsys.readouterr().out.split()) > 3


def test_the_json_example_is_understood(app: RunningApp) -> None:
    written = json.loads(blocks("steering.md", "json")[0]) | {"sae": ""}
    client = Client(app.url, verbose=False)
    answer = client.predict(**written, api_name="/steer")
    client.close()
    assert answer["settings"]["sae"] == tiny.SAE_NAME
    assert [edit["mode"] for edit in answer["edits"]] == ["set", "ablate"]


def test_the_shell_example_is_answered(app: RunningApp) -> None:
    (command,) = blocks("api.md", "sh")
    answer = in_a_shell(command.replace(HERE, app.url))
    assert answer["text"] == "The old man walked into the room."


def test_the_table_lists_every_argument_and_default() -> None:
    expected = {
        f"/{endpoint.name}": [
            each.name if each.required else f"{each.name}={json.dumps(each.default)}"
            for each in parameters_of(endpoint.request, Settings())
        ]
        for endpoint in ENDPOINTS
    }
    text = (DOCS / "api.md").read_text()
    rows = re.findall(r"^\| `(/\w+)` \| (.*?) \|", text, re.MULTILINE)
    assert {name: re.findall(r"`(.*?)`", arguments) for name, arguments in rows} == expected
    (sorts,) = re.findall(r"`sort` is one of (.*)\.$", text, re.MULTILINE)
    assert re.findall(r"`(\w+)`", sorts) == list(SORTS)


# The API page


def section(page: str, endpoint: Endpoint) -> str:
    """An endpoint's part of the page."""
    (result,) = re.findall(rf'<section [^>]*id="{endpoint.name}".*?</section>', page, re.DOTALL)
    return result


def snippet(page: str, endpoint: Endpoint, kind: str) -> str:
    """An example's code, as a person copies it."""
    result = section(page, endpoint)
    (code,) = re.findall(rf'<code data-snippet="{kind}"[^>]*>(.*?)</code>', result, re.DOTALL)
    copied = re.findall(r'data-copy="(.*?)"', result, re.DOTALL)
    assert html.unescape(code) in [html.unescape(each) for each in copied]
    return html.unescape(code)


def here(page: str) -> str:
    """The address that the page's examples name until a browser says its own."""
    (address,) = set(re.findall(r'data-here="(.*?)"', page))
    return address


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_the_page_says_what_the_definition_says(page: str, endpoint: Endpoint) -> None:
    text = html.unescape(section(page, endpoint))
    settings = Settings(threads=1)
    assert endpoint.summary in text
    assert endpoint.returns in text
    for each in parameters_of(endpoint.request, settings):
        assert f"<code>{each.name}</code>" in text
        assert each.sentence in text
        assert each.limits in text
        assert f'name="{each.name}"' in text
        for inner in each.items:
            assert f"<code>{each.name}[].{inner.name}</code>" in text
            assert inner.sentence in text
    assert shown(endpoint, settings, HERE).limits in text


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_the_page_s_examples_run(
    app: RunningApp, page: str, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    address = here(page)
    answer = in_a_shell(snippet(page, endpoint, "curl").replace(address, app.url))
    code = snippet(page, endpoint, "python").replace(address, app.url)
    exec(compile(code, f"{endpoint.name} in Python", "exec"), {})
    printed = capsys.readouterr().out.strip().split("\n")
    assert as_json(answer) == eval(printed[-1])  # what Python prints of plain values
    assert len(printed[-1]) > 40
