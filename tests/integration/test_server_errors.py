"""What a program that asks over plain HTTP is told: the right status, one sentence, the field."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.endpoints import ENDPOINTS
from app.sentences import without_paths
from app.server import RunningApp
from sae_core.bundle import Bundle
from tests.serving import running

NAMES = [endpoint.name for endpoint in ENDPOINTS]
REQUIRED = [
    (endpoint.name, name)
    for endpoint in ENDPOINTS
    for name, info in endpoint.request.model_fields.items()
    if info.is_required()
]


@pytest.fixture(scope="module")
def app(tiny_bundle: Bundle) -> Iterator[RunningApp]:
    with running(tiny_bundle) as app:
        yield app


@pytest.fixture
def client(app: RunningApp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=app.url, timeout=30) as client:
        yield client


def told(answer: httpx.Response, status: int) -> dict[str, Any]:
    """What an answer says, which must be one sentence for a person."""
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert re.fullmatch(r"[A-Za-z].*[.]", said["detail"])
    assert not re.search(r"/work|/home|/tmp|Traceback|None|\bdict\b|\bstr\b", said["detail"])
    return said


@pytest.mark.parametrize("way", ["call", "call/v2"])
def test_an_unknown_endpoint_is_not_there(client: httpx.Client, way: str) -> None:
    for name in ("nothing", "steer2", "lambda"):
        said = told(client.post(f"/gradio_api/{way}/{name}", json={"data": []}), 404)
        assert "steer" in said["detail"]
        told(client.get(f"/gradio_api/{way}/{name}/123"), 404)


@pytest.mark.parametrize(("name", "field"), REQUIRED)
def test_a_missing_argument_is_named(client: httpx.Client, name: str, field: str) -> None:
    for path, body in ((f"call/{name}", {"data": []}), (f"call/v2/{name}", {})):
        assert told(client.post(f"/gradio_api/{path}", json=body), 422)["field"] == field


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=NAMES)
def test_an_unknown_argument_and_one_too_many_are_refused(
    client: httpx.Client, endpoint: Any
) -> None:
    address = f"/gradio_api/call/v2/{endpoint.name}"
    assert told(client.post(address, json={"nonsense": 1}), 422)["field"]
    many = {"data": [None] * (len(endpoint.request.model_fields) + 1)}
    told(client.post(f"/gradio_api/call/{endpoint.name}", json=many), 422)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=NAMES)
@pytest.mark.parametrize("wrong", [{"a": 1}, [[]], object], ids=["group", "list", "absent"])
def test_an_argument_of_a_wrong_type_is_named(
    client: httpx.Client, endpoint: Any, wrong: Any
) -> None:
    first, info = next(iter(endpoint.request.model_fields.items()))
    if wrong is object or (isinstance(wrong, dict) and "dict" in str(info.annotation)):
        body: Any = {"datum": []}
        told(client.post(f"/gradio_api/call/{endpoint.name}", json=body), 422)
        return
    said = told(client.post(f"/gradio_api/call/v2/{endpoint.name}", json={first: wrong}), 422)
    assert said["field"].startswith(first)


@pytest.mark.parametrize(
    "path", ["call/steer", "call/v2/steer", "queue/join", "call/feature", "cancel"]
)
@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b"[" * 5000, b'{"a": tru}'])
def test_what_is_no_json_is_told_so(client: httpx.Client, path: str, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post(f"/gradio_api/{path}", content=body, headers=headers)
    assert answer.status_code in (400, 422)
    assert re.fullmatch(r"[A-Za-z].*[.]", answer.json()["detail"])


@pytest.mark.parametrize("body", [b"[]", b"3", b'"x"', b"null"])
def test_json_that_is_no_object_is_told_so(client: httpx.Client, body: bytes) -> None:
    for path in ("call/steer", "call/v2/steer", "queue/join"):
        told(client.post(f"/gradio_api/{path}", content=body), 400)


@pytest.mark.parametrize("index", [99, -1, None, "0", 1.5, True])
def test_an_unknown_number_of_an_endpoint_is_not_there(client: httpx.Client, index: Any) -> None:
    body = {"fn_index": index, "data": [], "session_hash": "s"}
    told(client.post("/gradio_api/queue/join", json=body), 404)


@pytest.mark.parametrize("session", [None, "", 3, "x" * 101])
def test_who_asks_must_say_a_name(client: httpx.Client, session: Any) -> None:
    body = {"fn_index": 0, "data": [1], "session_hash": session}
    told(client.post("/gradio_api/queue/join", json=body), 400)


def test_a_run_that_nobody_asked_for_is_not_there(client: httpx.Client) -> None:
    told(client.get("/gradio_api/call/steer/123"), 404)
    told(client.get("/gradio_api/queue/data?session_hash=123"), 404)
    told(client.get("/gradio_api/queue/data"), 404)


def test_a_right_question_is_answered_either_way_and_once(client: httpx.Client) -> None:
    for path, body in (("call", {"data": [5]}), ("call/v2", {"feature": 5})):
        # As curl sends it: nothing says that it is JSON.
        asked = client.post(
            f"/gradio_api/{path}/feature",
            content=httpx.Request("POST", "http://x", json=body).content,
        )
        address = f"/gradio_api/{path}/feature/{asked.json()['event_id']}"
        answer = client.get(address)
        assert "event: complete" in answer.text
        assert '"feature": 5' in answer.text
        told(client.get(address), 404)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_a_method_that_is_not_used_is_refused(client: httpx.Client, method: str) -> None:
    for path in ("/", "/features", "/gradio_api/call/steer", "/gradio_api/queue/join"):
        assert client.request(method, path).status_code == 405


@pytest.mark.parametrize("path", ["/state", "/static/x/css/base.css"])
def test_head_is_answered(client: httpx.Client, path: str) -> None:
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        (
            "the model /home/u/my-model cannot be loaded: no.",
            "the model my-model cannot be loaded: no.",
        ),
        ("'/a/b/c.txt' is gone.", "'c.txt' is gone."),
        ("/tmp/x/y.", "y."),
        (r"C:\Users\me\x.txt is gone.", "x.txt is gone."),
        ("~/models/x is no folder.", "x is no folder."),
        (
            "see https://a.example/b/c and google/gemma-2-2b.",
            "see https://a.example/b/c and google/gemma-2-2b.",
        ),
        (
            "/a/b/c is no SAE: jumpscope index --bundle /a/b --sae c builds it from text in /d/e.",
            "c is no SAE: jumpscope index --bundle /a/b --sae c builds it from text in e.",
        ),
        ("layer_20/width_16k/canonical and/or", "layer_20/width_16k/canonical and/or"),
    ],
)
def test_sentences_do_not_say_where_files_lie_but_for_a_command_that_works(
    sentence: str, shown: str
) -> None:
    assert without_paths(sentence) == shown
