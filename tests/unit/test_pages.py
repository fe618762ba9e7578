"""What the pages add to the service: frames of a run, stopping, compact answers, examples."""

import json
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.pages import channel, examples, prompt, steer
from app.service import Service


class Run:
    """A steering run of `count` tokens that notes whether it was closed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.made = 0
        self.closed = False

    def stream(self) -> Generator[dict[str, Any]]:
        try:
            for made in range(self.count + 1):
                self.made = made
                token = {"text": "x", "own": [1.0], "after": [2.0], "id": 7}
                yield {
                    "prompt_tokens": [
                        {"text": "<bos>", "special": True},
                        {"text": "The", "special": False},
                    ],
                    "base": [token] * self.made,
                    "steered": [token] * self.made,
                    "edits": [],
                    "settings": {"max_new_tokens": self.count},
                    "done": self.made == self.count,
                    "note": None,
                }
        finally:
            self.closed = True


def test_the_first_and_the_last_frame_of_a_run_are_always_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steer, "FRAME_SECONDS", 3600.0)
    run = Run(50)
    frames = [frame["run"] for frame in steer._frames(run.stream())]
    assert [len(frame["base"]) for frame in frames] == [0, 50]
    assert frames[-1]["done"]
    assert frames[-1]["prompt"] == "The"
    assert frames[-1]["conversation"] is None
    assert set(frames[-1]["base"][0]) == {"text", "own", "after"}


def test_closing_the_frames_closes_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steer, "FRAME_SECONDS", 0.0)
    run = Run(50)
    frames = steer._frames(run.stream())
    next(frames)
    next(frames)
    frames.close()
    assert run.closed
    assert run.made < 3


def test_a_stopped_question_is_known_once_to_its_own_session() -> None:
    stopped = channel._Stopped()
    stopped.add("a", 1)
    assert not stopped.take("b", 1)
    assert not stopped.take("a", 2)
    assert stopped.take("a", 1)
    assert not stopped.take("a", 1)
    for question in range(2000):
        stopped.add("a", question)
    assert not stopped.take("a", 0)
    assert stopped.take("a", 1999)


def test_answers_are_strict_json_and_errors_sentences(caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> dict[str, Any]:
        raise ValueError("Too long.")

    def fail() -> dict[str, Any]:
        raise KeyError("secret")

    assert json.loads(channel._packed(3, lambda: {"a": "é"})) == {"a": "é", "id": 3, "final": True}
    assert json.loads(channel._packed(3, refuse))["error"] == "Too long."
    assert json.loads(channel._packed(4, fail))["error"] == channel.FAILED
    assert "secret" in caplog.text
    assert json.loads(channel._packed(5, lambda: {"a": float("nan")}))["error"] == channel.FAILED


def test_the_prompt_page_gets_activations_to_four_digits() -> None:
    found = {
        "tokens": [{"i": 0, "text": "a", "active_features": [[1, 2.0]]}],
        "features": [{"feature": 1, "tokens": [[0, 12.345678]]}],
        "totals": {},
    }
    compact = prompt._compact(found)
    assert compact["tokens"] == [{"i": 0, "text": "a"}]
    assert compact["features"][0]["tokens"] == [[0, 12.35]]
    assert found["features"][0]["tokens"] == [[0, 12.345678]]


def test_examples_that_are_not_what_they_should_be_are_left_out() -> None:
    text, chat = {"prompt": "The", "edits": []}, {"messages": [], "edits": []}
    written = {"prompts": ["A text.", 7], "steer": [text, {}, "no", chat]}
    service = cast(
        Service, SimpleNamespace(bundle=SimpleNamespace(examples=written, sae_names=["a"]))
    )
    assert examples.prompts(service) == ["A text."]
    assert examples.steerings(service) == [text, chat]
