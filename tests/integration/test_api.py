"""The seven endpoints through `gradio_client` and plain HTTP, on a server of this process."""

import json
import re
import shlex
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from app.api import LIMITS, add_endpoints
from app.service import Service
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.index import SORTS
from tests import tiny

ENDPOINTS = {
    "/feature",
    "/search_features",
    "/prompt_features",
    "/delta_loss",
    "/steer",
    "/check",
    "/reproduce",
}
TEXT = "The old clock measures two letters. 🙂"
EDIT = {"feature": 5, "mode": "set", "strength": 2, "positions": "all"}


@pytest.fixture(scope="module")
def service(tiny_bundle: Bundle) -> Service:
    return Service(Settings(threads=1, max_rows=20), tiny_bundle)


@contextmanager
def served(service: Service) -> Iterator[str]:
    """The address of a server with the endpoints alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with gr.Blocks(analytics_enabled=False) as blocks:
        add_endpoints(service)
    blocks.queue(max_size=service.settings.max_queue)
    _, address, _ = blocks.launch(
        server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True
    )
    try:
        yield address
    finally:
        blocks.close()


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with served(service) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Client]:
    client = Client(url, verbose=False, analytics_enabled=False)
    yield client
    client.close()


def as_json(value: object) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


def test_exactly_the_seven_endpoints_are_public_and_described(client: Client) -> None:
    described = client.view_api(return_format="dict")
    assert isinstance(described, dict)
    named = described["named_endpoints"]
    assert set(named) == ENDPOINTS
    for endpoint in named.values():
        assert endpoint["description"]
        for parameter in endpoint["parameters"]:
            assert parameter["parameter_has_default"] or parameter["parameter_name"] in (
                "feature",
                "text",
                "prompt",
                "edits",
                "asked",
            )


def test_feature(client: Client, service: Service) -> None:
    assert client.predict(5, api_name="/feature") == as_json(service.feature(None, 5))
    assert client.predict(feature=5, sae=tiny.SAE_NAME, api_name="/feature")["next"] == 6


def test_search_features(client: Client, service: Service) -> None:
    found = client.predict(api_name="/search_features")
    assert found == as_json(service.search_features(limit=20))
    found = client.predict(query="#7", sort="id", descending=False, api_name="/search_features")
    assert [row["feature"] for row in found["features"]] == [7]


def test_prompt_features(client: Client, service: Service) -> None:
    found = client.predict(TEXT, api_name="/prompt_features")
    assert found == as_json(service.prompt_features(TEXT, limit=20))
    assert "".join(token["text"] for token in found["tokens"][1:]) == TEXT
    assert found["tokens"][0]["loss"] is None
    assert found["definitions"]["kl"]


def test_delta_loss(client: Client, service: Service) -> None:
    found = client.predict(text=TEXT, api_name="/delta_loss")
    assert found == as_json(service.delta_loss(TEXT))


def test_a_conversation(chat_bundle: Bundle) -> None:
    turns = [{"role": "user", "content": "Where does the river go?"}]
    service = Service(Settings(threads=1, max_rows=20), chat_bundle)
    with served(service) as url, closing(Client(url, verbose=False)) as client:
        options: dict[str, Any] = {"max_new_tokens": 4, "temperature": 0}
        found = client.predict(messages=turns, edits=[EDIT], **options, api_name="/steer")
        assert found == as_json(service.steer(edits=[EDIT], messages=turns, **options))
        assert client.predict(**found["settings"], api_name="/steer") == found
        found = client.predict(messages=turns, api_name="/prompt_features")
        assert found == as_json(service.prompt_features(messages=turns, limit=20))
        found = client.predict(messages=turns, api_name="/delta_loss")
        assert found == as_json(service.delta_loss(messages=turns))
        said = [{"role": "system", "content": "x"}, *turns]
        with pytest.raises(AppError, match="no system turn"):
            client.predict(messages=said, api_name="/delta_loss")


def test_steer(client: Client, service: Service) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0, "seed": 1}
    found = client.predict("The river", [EDIT], **options, api_name="/steer")
    assert found == as_json(service.steer("The river", [EDIT], **options))
    assert len(found["steered"]) == 6
    assert client.predict(**found["settings"], api_name="/steer") == found


@pytest.mark.parametrize(
    ("endpoint", "arguments", "says"),
    [
        ("/feature", {"feature": 99}, "whole number from 0 to 63, not 99"),
        ("/feature", {"feature": "five"}, "whole number from 0 to 63, not 'five'"),
        ("/feature", {"feature": None}, "whole number"),
        ("/feature", {"feature": 1, "sae": "other"}, "must be one of tiny"),
        ("/search_features", {"limit": 1000}, "from 1 to 20"),
        ("/search_features", {"sort": "nonsense"}, "sort order must be one of"),
        ("/search_features", {"min_frequency": "low"}, "number from 0 to 1"),
        ("/prompt_features", {"text": "  \n"}, "empty"),
        ("/prompt_features", {"text": 5}, "must be text"),
        ("/delta_loss", {"text": "x" * 100_000}, "limit of 256 tokens"),
        ("/delta_loss", {"messages": [{"role": "user", "content": "x"}]}, "no chat template"),
        ("/steer", {"prompt": "", "edits": [EDIT]}, "empty"),
        ("/steer", {"prompt": "The"}, "at least one edit"),
        ("/steer", {"prompt": "The", "edits": []}, "at least one edit"),
        ("/steer", {"prompt": "The", "edits": "x"}, "at least one edit"),
        ("/steer", {"prompt": "The", "edits": [EDIT], "seed": 0.5}, "Seed must be"),
    ],
)
def test_a_mistake_comes_back_as_one_sentence(
    client: Client, endpoint: str, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(AppError, match=says) as caught:
        client.predict(**arguments, api_name=endpoint)
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said


def test_plain_http_answers_the_same_json(url: str, service: Service) -> None:
    ask = urllib.request.Request(
        f"{url}gradio_api/run/delta_loss",
        data=json.dumps({"data": [TEXT, "", None]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(ask, timeout=60) as response:
        (found,) = json.loads(response.read())["data"]
    assert found == as_json(service.delta_loss(TEXT))


def test_check(client: Client, service: Service) -> None:
    found = client.predict(api_name="/check")
    assert found == as_json(service.check())
    assert found["state"] == found["check"]["verdict"]
    assert found["check"]["tokens"] >= 4000
    with pytest.raises(AppError, match="The SAE must be one of"):
        client.predict("none", api_name="/check")


def test_reproduce(client: Client, service: Service) -> None:
    asked = {"quantity": "loss", "text": TEXT, "token": 3}
    found = client.predict(asked, api_name="/reproduce")
    assert found == as_json(service.reproduce(asked))
    assert found["value"] == service.delta_loss(TEXT)["tokens"][3]["loss"]
    with pytest.raises(AppError, match="Say which number"):
        client.predict("loss", api_name="/reproduce")


def test_clients_at_once_get_their_own_answers(client: Client, service: Service) -> None:
    texts = [f"{TEXT} {n}" for n in range(4)]
    steering = client.submit("The ship", [EDIT], max_new_tokens=20, api_name="/steer")
    jobs = [client.submit(text, api_name="/prompt_features") for text in texts]
    pages = [client.submit(n, api_name="/feature") for n in range(4)]
    for text, job in zip(texts, jobs, strict=True):
        assert job.result(timeout=60)["text"] == text
    assert [page.result(timeout=60)["feature"] for page in pages] == list(range(4))
    assert len(steering.result(timeout=60)["base"]) == 20


def test_every_group_has_a_limit() -> None:
    assert set(LIMITS) == {"index", "analyse", "generate", "check"}
    assert all(limit >= 1 for limit in LIMITS.values())


# The documentation, run as it stands but for the bundle and the address

DOCS = Path(__file__).parents[2] / "docs"


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )


EXAMPLES = [
    *(("steering.md", number) for number in range(4)),
    ("api.md", 0),
    ("reproduce.md", 0),
]


def test_the_pages_have_the_examples_that_are_tested_here() -> None:
    pages = ("steering.md", "api.md", "reproduce.md")
    assert [len(_blocks(page, "python")) for page in pages] == [4, 1, 1]
    assert [len(_blocks("steering.md", "json")), len(_blocks("api.md", "sh"))] == [1, 1]


@pytest.mark.parametrize(("page", "number"), EXAMPLES)
def test_the_python_examples_run(
    page: str,
    number: int,
    tiny_bundle: Bundle,
    chat_bundle: Bundle,
    url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = _blocks(page, "python")[number]
    places = {
        "app/demo": str(tiny_bundle.path),
        "my-chat-bundle": str(chat_bundle.path),
        "http://127.0.0.1:7860": url,
    }
    (where,) = [place for place in places if place in code]
    code = code.replace(where, places[where])
    exec(compile(code, f"docs/{page}, example {number}", "exec"), {})
    assert len(capsys.readouterr().out.split()) > 3


def test_the_json_example_is_understood(client: Client) -> None:
    written = json.loads(_blocks("steering.md", "json")[0]) | {"sae": ""}
    found = client.predict(**written, api_name="/steer")
    assert found["settings"]["sae"] == tiny.SAE_NAME
    assert [edit["mode"] for edit in found["edits"]] == ["set", "ablate"]


def test_the_http_example_is_answered(url: str) -> None:
    (command,) = _blocks("api.md", "sh")
    command = command.replace("\\\n", "").replace("http://127.0.0.1:7860/", url)
    words = shlex.split(command)
    assert words[:2] == ["curl", "-s"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    name, _, value = options["-H"].partition(": ")
    ask = urllib.request.Request(words[2], options["-d"].encode(), {name: value})
    with urllib.request.urlopen(ask, timeout=60) as response:
        (found,) = json.loads(response.read())["data"]
    assert found["text"] == "The old man walked into the room."


def test_the_page_lists_every_argument_and_default(tiny_bundle: Bundle) -> None:
    with gr.Blocks(analytics_enabled=False) as blocks:
        add_endpoints(Service(Settings(), tiny_bundle))
    named: dict[str, Any] = dict(blocks.get_api_info()["named_endpoints"])
    expected = {
        name: [
            f"{parameter['parameter_name']}={json.dumps(parameter['parameter_default'])}"
            if parameter["parameter_has_default"]
            else parameter["parameter_name"]
            for parameter in endpoint["parameters"]
        ]
        for name, endpoint in named.items()
    }
    page = (DOCS / "api.md").read_text()
    rows = re.findall(r"^\| `(/\w+)` \| (.*?) \|", page, re.MULTILINE)
    assert {name: re.findall(r"`(.*?)`", arguments) for name, arguments in rows} == expected
    (sorts,) = re.findall(r"`sort` is one of (.*)\.$", page, re.MULTILINE)
    assert re.findall(r"`(\w+)`", sorts) == list(SORTS)
