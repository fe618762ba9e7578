"""The client of OpenAI-compatible endpoints: answers, refusals, tries, the key."""

import json
import logging
import socket
from typing import Any

import pytest

from sae_core.explain.chat_client import (
    KEY_VARIABLE,
    LONGEST_PAUSE,
    ChatClient,
    EndpointError,
)
from tests.chat_endpoint import Endpoint, endpoint

MESSAGES = [{"role": "user", "content": "What?"}]
KEY = "sk-a-key-that-nobody-may-read"


def says(text: str) -> Any:
    return lambda _messages: text


def client(state: Endpoint, pauses: list[float] | None = None, **options: Any) -> ChatClient:
    waited = [] if pauses is None else pauses
    return ChatClient(endpoint=state.url, model="rule", sleep=waited.append, **options)


def test_an_answer_is_the_completion_s_text_and_the_key_is_a_bearer_token() -> None:
    with endpoint(rule=says("That.")) as state:
        assert client(state, key=KEY).complete(MESSAGES, 17) == "That."
        assert client(state).complete(MESSAGES, 17) == "That."
    assert state.paths[0] == "/v1/chat/completions"
    assert state.keys == [f"Bearer {KEY}", ""]
    asked = {"model": "rule", "messages": MESSAGES, "temperature": 0, "max_tokens": 17}
    assert state.requests[0] == asked


def test_a_busy_endpoint_is_asked_again_after_growing_pauses() -> None:
    pauses: list[float] = []
    with endpoint(rule=says("Now."), statuses=[429, 500, 503]) as state:
        assert client(state, pauses).complete(MESSAGES, 5) == "Now."
    assert pauses == [1, 2, 4]
    assert len(state.requests) == 4


@pytest.mark.parametrize(("asked", "pause"), [("7", 7), ("9999", LONGEST_PAUSE), ("soon", 1)])
def test_a_pause_that_the_endpoint_asks_for_is_kept_within_bounds(asked: str, pause: float) -> None:
    pauses: list[float] = []
    with endpoint(rule=says("Now."), statuses=[429], headers={"retry-after": asked}) as state:
        client(state, pauses).complete(MESSAGES, 5)
    assert pauses == [pause]


def test_an_endpoint_that_stays_busy_is_given_up() -> None:
    pauses: list[float] = []
    with (
        endpoint(statuses=[503] * 9) as state,
        pytest.raises(ValueError, match=r"busy or failing \(status 503: No more of that\)\.$"),
    ):
        client(state, pauses, tries=3).complete(MESSAGES, 5)
    assert len(state.requests) == 3
    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, f"refuses the key.*{KEY_VARIABLE}"),
        (404, "no model rule.*/v1"),
        (400, "refuses the request .status 400: No more of that"),
        (302, "status 302"),
    ],
)
def test_a_refusal_is_final_and_a_redirect_is_not_followed(status: int, said: str) -> None:
    elsewhere = {"location": "/v1/elsewhere"}
    with endpoint(statuses=[status], headers=elsewhere) as state:
        with pytest.raises(ValueError, match=said):
            client(state, key=KEY).complete(MESSAGES, 5)
        assert state.paths == ["/v1/chat/completions"]


def test_nobody_reads_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = b'{"error": "The key %b is wrong."}' % KEY.encode()
    with endpoint(statuses=[429, 401], refusal=echo) as state:
        asking = client(state, key=KEY)
        with pytest.raises(ValueError, match=r"The key … is wrong") as caught:
            asking.complete(MESSAGES, 5)
    assert caplog.records
    assert KEY not in caplog.text + str(caught.value) + repr(asking)


@pytest.mark.parametrize(
    "raw", [b"<html>Hello</html>", b"[]", b'{"choices": []}', b"\xff", b'{"choices": [{}]}', b""]
)
def test_nonsense_is_said(raw: bytes) -> None:
    with endpoint(raw=raw) as state, pytest.raises(ValueError, match="something else than a chat"):
        client(state).complete(MESSAGES, 5)


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ("Unsupported value: 'temperature' does not support 0.", {"max_tokens": 5}),
        (
            "'max_tokens' is not supported: use 'max_completion_tokens' instead.",
            {"temperature": 0, "max_completion_tokens": 5},
        ),
        ("No temperature and no max_tokens here.", {"max_completion_tokens": 5}),
    ],
)
def test_what_a_model_refuses_by_name_is_not_sent_again(words: str, sent: dict[str, int]) -> None:
    refusal = json.dumps({"error": {"message": "x" * 300 + " " + words}}).encode()
    with endpoint(rule=says("That."), statuses=[400], refusal=refusal) as state:
        asking = client(state)
        assert [asking.complete(MESSAGES, 5) for _ in range(2)] == ["That."] * 2
    first, *rest = state.requests
    assert first["temperature"] == 0
    assert rest == [{"model": "rule", "messages": MESSAGES} | sent] * 2


def test_a_refusal_that_goes_on_naming_them_is_final() -> None:
    refusal = b'{"error": {"message": "temperature and max_tokens are wrong"}}'
    with endpoint(statuses=[400] * 9, refusal=refusal) as state:
        with pytest.raises(ValueError, match=r"\(status 400: temperature and"):
            client(state).complete(MESSAGES, 5)
        assert len(state.requests) == 2


@pytest.mark.parametrize(
    ("options", "public"),
    [
        ({"statuses": [401]}, "refuses the request (status 401)."),
        ({"statuses": [404]}, "refuses the request (status 404)."),
        ({"statuses": [400]}, "refuses the request (status 400)."),
        ({"statuses": [503]}, "is busy or failing (status 503)."),
        ({"raw": b"billing account 4711"}, "answers something else than a chat completion."),
    ],
)
def test_what_is_public_of_a_refusal_has_none_of_the_endpoint_s_words(
    options: dict[str, Any], public: str
) -> None:
    refusal = b'{"error": {"message": "billing account 4711"}}'
    with endpoint(refusal=refusal, **options) as state, pytest.raises(EndpointError) as caught:
        client(state, tries=1).complete(MESSAGES, 5)
    assert caught.value.public == f"127.0.0.1 {public}"
    assert ("4711" in str(caught.value)) is ("raw" not in options)


def test_half_a_character_is_no_answer_s() -> None:
    with endpoint(raw=b'{"choices": [{"message": {"content": "a\\ud800b"}}]}') as state:
        assert client(state).complete(MESSAGES, 5) == "a?b"


def test_a_model_that_says_nothing_has_an_empty_answer() -> None:
    with endpoint(raw=b'{"choices": [{"message": {"content": null}}]}') as state:
        assert client(state).complete(MESSAGES, 5) == ""


def test_an_endpoint_that_is_not_there_is_said_after_the_last_try() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens to nobody
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        pauses: list[float] = []
        absent = ChatClient(endpoint=url, model="rule", tries=2, sleep=pauses.append)
        with pytest.raises(ValueError, match=r"cannot be reached \(connection refused\)"):
            absent.complete(MESSAGES, 5)
    assert pauses == [1]


def test_silence_ends() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()  # and never answers
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/v1"
        silent = ChatClient(endpoint=url, model="rule", tries=1, timeout=0.2)
        with pytest.raises(ValueError, match=r"cannot be reached \(timed out\)"):
            silent.complete(MESSAGES, 5)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:8000/v1",
        "file:///etc/passwd",
        "http://",
        "http://user:word@host/v1",
        "http://host:port/v1",
        "http://host/v1?key=1",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="the endpoint is no address") as caught:
        ChatClient(endpoint=address, model="rule")
    assert "word" not in str(caught.value)


def test_a_model_must_be_named_and_a_key_must_be_one() -> None:
    with pytest.raises(ValueError, match="no model is named"):
        ChatClient(endpoint="http://localhost/v1", model=" ")
    with pytest.raises(ValueError, match="characters that no key has"):
        ChatClient(endpoint="http://localhost/v1", model="rule", key="one\ntwo")
