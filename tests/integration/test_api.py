"""Every endpoint through `gradio_client` and plain HTTP, on a server of this process."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from app.endpoints import ENDPOINTS, Api, Endpoint, Work, places
from app.requests import parameters_of
from app.server import RunningApp
from app.settings import Settings
from sae_core.bundle import Bundle
from tests import tiny
from tests.serving import running
from tests.unit.service_support import as_json

TEXT = "The old clock measures two letters. 🙂"
EDIT = {"feature": 5, "mode": "set", "strength": 2, "positions": "all"}
CHECK_TOKENS = 700


@pytest.fixture(scope="module")
def app(tiny_bundle: Bundle) -> Iterator[RunningApp]:
    with running(tiny_bundle, max_rows=20, check_tokens=CHECK_TOKENS, max_seconds=600.0) as app:
        app.workbench.load()
        yield app


@pytest.fixture(scope="module")
def api(app: RunningApp) -> Api:
    """What the server answers with, called within this process."""
    return Api(app.workbench)


@pytest.fixture(scope="module")
def client(app: RunningApp) -> Iterator[Client]:
    client = Client(app.url, verbose=False, analytics_enabled=False)
    yield client
    client.close()


def over_http(url: str, name: str, arguments: dict[str, Any]) -> list[tuple[str, Any]]:
    """Kinds and data of the events that plain HTTP gives for a call."""
    with httpx.Client(base_url=url, timeout=120) as http:
        asked = http.post(f"/gradio_api/call/v2/{name}", json=arguments, timeout=60)
        assert asked.status_code == 200, asked.text
        told = http.get(f"/gradio_api/call/{name}/{asked.json()['event_id']}").text
    events = [event.split("\n") for event in told.strip().split("\n\n")]
    return [
        (kind.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for kind, data in events
    ]


def test_exactly_the_endpoints_are_public_and_described(client: Client, app: RunningApp) -> None:
    described = client.view_api(return_format="dict")
    assert isinstance(described, dict)
    named = described["named_endpoints"]
    assert set(named) == {f"/{endpoint.name}" for endpoint in ENDPOINTS}
    for endpoint in ENDPOINTS:
        told = named[f"/{endpoint.name}"]
        assert endpoint.summary in told["description"]
        assert [each["parameter_name"] for each in told["parameters"]] == [
            each.name for each in parameters_of(endpoint.request, app.workbench.settings)
        ]
        # What is missing gets our sentence, not one of Python's.
        assert all(each["parameter_has_default"] for each in told["parameters"])


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_client_gets_the_same_answer(
    client: Client, app: RunningApp, api: Api, endpoint: Endpoint
) -> None:
    within = as_json(getattr(api, endpoint.name)(**endpoint.example))
    assert within
    assert client.predict(**endpoint.example, api_name=f"/{endpoint.name}") == within
    (*_, (kind, data)) = over_http(app.url, endpoint.name, dict(endpoint.example))
    assert kind == "complete"
    assert data == [within]


def test_arguments_may_come_in_order(client: Client, app: RunningApp, api: Api) -> None:
    assert client.predict(5, tiny.SAE_NAME, api_name="/feature") == as_json(api.feature(5))
    assert client.predict(TEXT, "", 3, api_name="/prompt_features") == as_json(
        api.prompt_features(TEXT, limit=3)
    )
    with httpx.Client(base_url=app.url, timeout=60) as http:
        asked = http.post("/gradio_api/call/delta_loss", json={"data": [TEXT]}).json()
        told = http.get(f"/gradio_api/call/delta_loss/{asked['event_id']}").text
    assert json.loads(told.partition("data: ")[2])[0] == as_json(api.delta_loss(TEXT))


def test_texts_come_back_as_they_went_in(client: Client) -> None:
    for text in (TEXT, tiny.HOSTILE):
        actual = client.predict(text, api_name="/prompt_features")
        assert "".join(token["text"] for token in actual["tokens"][1:]) == text
        assert actual["tokens"][0]["loss"] is None


def test_a_run_is_streamed(client: Client, app: RunningApp, api: Api) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0, "seed": 1}
    whole = as_json(api.steer("The river", [EDIT], **options))
    job = client.submit("The river", [EDIT], **options, api_name="/steer")
    answers = list(job)
    assert answers[-1] == job.result() == whole
    asked = {"prompt": "The river", "edits": [EDIT], **options}
    events = over_http(app.url, "steer", asked)
    assert {kind for kind, _ in events[:-1]} == {"generating"}
    grown: list[Any]
    for grown in (answers, [data[0] for _, data in events]):
        lengths = [len(answer["steered"]) for answer in grown]
        assert lengths == sorted(lengths)
        assert (lengths[0], lengths[-1]) == (0, 6)
        assert all(
            answer["steered"] == whole["steered"][:n]
            for answer, n in zip(grown, lengths, strict=True)
        )
    assert client.predict(**whole["settings"], api_name="/steer") == whole


def test_a_conversation(chat_bundle: Bundle) -> None:
    turns = [{"role": "user", "content": "Where does the river go?"}]
    with running(chat_bundle) as app:
        client, api = Client(app.url, verbose=False), Api(app.workbench)
        options: dict[str, Any] = {"max_new_tokens": 4, "temperature": 0}
        actual = client.predict(messages=turns, edits=[EDIT], **options, api_name="/steer")
        assert actual == as_json(api.steer(edits=[EDIT], messages=turns, **options))
        assert client.predict(**actual["settings"], api_name="/steer") == actual
        for name in ("prompt_features", "delta_loss", "tokens"):
            actual = client.predict(messages=turns, api_name=f"/{name}")
            assert actual == as_json(getattr(api, name)(messages=turns))
        said = [{"role": "system", "content": "x"}, *turns]
        with pytest.raises(AppError, match="no system turn"):
            client.predict(messages=said, api_name="/delta_loss")
        client.close()


MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    ("feature", {"feature": 99}, "no feature 99: this SAE has 0 to 63", "feature"),
    ("feature", {"feature": "five"}, "whole number, 0 or more, not “five”", "feature"),
    ("feature", {}, "Feature is missing", "feature"),
    ("feature", {"feature": 1, "sae": "other"}, "use one of tiny", "sae"),
    ("search_features", {"limit": 1000}, "from 1 to 20, not 1000", "limit"),
    ("search_features", {"sort": "nonsense"}, "Sort order must be one of", "sort"),
    ("search_features", {"min_frequency": "low"}, "number from 0 to 1", "min_frequency"),
    ("search_features", {"min_frequency": 0.5, "max_frequency": 0.1}, "swap", "min_frequency"),
    ("prompt_features", {"text": "  \n"}, "empty", "text"),
    ("prompt_features", {"text": 5}, "Text must be text", "text"),
    ("delta_loss", {"text": "x" * 100_000}, "limit of 256 tokens", "text"),
    ("delta_loss", {"messages": [{"role": "user", "content": "x"}]}, "chat template", "messages"),
    ("test_text", {"text": "x"}, "Feature is missing", "feature"),
    ("tokens", {"text": ""}, "empty", "text"),
    ("steer", {"prompt": "", "edits": [EDIT]}, "empty", "prompt"),
    ("steer", {"prompt": "The"}, "at least one edit", "edits"),
    ("steer", {"prompt": "The", "edits": []}, "at least one edit", "edits"),
    ("steer", {"prompt": "The", "edits": "x"}, "one or more edits", "edits"),
    ("steer", {"prompt": "The", "edits": [EDIT], "seed": 0.5}, "Seed must be", "seed"),
    (
        "steer",
        {"prompt": "The", "edits": [EDIT, {**EDIT, "strength": 101}]},
        "The strength of edit 2",
        "edits.1.strength",
    ),
    ("check", {"sae": "none"}, "There is no SAE “none”", "sae"),
    ("reproduce", {"asked": "loss"}, "Say which number", "asked"),
    ("reproduce", {"asked": {"quantity": "beauty"}}, "Quantity must be one of", "quantity"),
]


@pytest.mark.parametrize(("name", "arguments", "says", "field"), MISTAKES)
def test_a_mistake_comes_back_as_one_sentence_about_its_parameter(
    client: Client, app: RunningApp, name: str, arguments: dict[str, Any], says: str, field: str
) -> None:
    with pytest.raises(AppError, match=says) as caught:
        client.predict(**arguments, api_name=f"/{name}")
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    asked = httpx.post(f"{app.url}/gradio_api/call/v2/{name}", json=arguments, timeout=60)
    if asked.status_code == 422:
        assert asked.json() == {"detail": said, "field": field}
        return
    # Known only to who answers it: the model's context, the SAE's features.
    event = asked.json()["event_id"]
    told = httpx.get(f"{app.url}/gradio_api/call/{name}/{event}", timeout=60).text
    assert told.startswith("event: error\n")
    answer = json.loads(told.strip().rpartition("\ndata: ")[2])
    assert (answer["error"], answer["title"]) == (said, field)


def test_an_unknown_parameter_is_named(app: RunningApp) -> None:
    asked = httpx.post(
        f"{app.url}/gradio_api/call/v2/feature", json={"feature": 5, "colour": 1}, timeout=60
    )
    assert asked.status_code == 422
    assert asked.json() == {
        "detail": "There is no parameter “colour”: use feature, sae.",
        "field": "colour",
    }


def test_check(client: Client) -> None:
    actual = client.predict(api_name="/check")
    assert actual["state"] == actual["check"]["verdict"]
    assert actual["check"]["tokens"] >= CHECK_TOKENS


def test_reproduce(client: Client, api: Api) -> None:
    asked = {"quantity": "loss", "text": TEXT, "token": 3}
    actual = client.predict(asked, api_name="/reproduce")
    assert actual["value"] == api.delta_loss(TEXT)["tokens"][3]["loss"]


def test_clients_at_once_get_their_own_answers(client: Client) -> None:
    texts = [f"{TEXT} {n}" for n in range(4)]
    steering = client.submit("The ship", [EDIT], max_new_tokens=20, api_name="/steer")
    jobs = [client.submit(text, api_name="/prompt_features") for text in texts]
    pages = [client.submit(n, api_name="/feature") for n in range(4)]
    for text, job in zip(texts, jobs, strict=True):
        assert job.result(timeout=240)["text"] == text
    assert [page.result(timeout=240)["feature"] for page in pages] == list(range(4))
    assert len(steering.result(timeout=240)["base"]) == 20


def test_every_kind_of_work_has_places_and_a_limit() -> None:
    assert set(Work) == {endpoint.work for endpoint in ENDPOINTS}
    assert places(Work.GENERATE, Settings(max_generations=3)) == 3
    for work in Work:
        assert (places(work, Settings()) is None) == (work is Work.CHECK)
        assert work.sentence
        assert getattr(Settings(), f"max_waiting_{work}") >= 1


def test_calls_within_python_are_those_of_a_function(api: Api) -> None:
    assert api.feature(feature=5) == api.feature(5, "")
    with pytest.raises(AttributeError, match="There is no endpoint nothing: use one of feature, "):
        api.nothing()
    with pytest.raises(TypeError, match="too many"):
        api.feature(5, "", "more")
