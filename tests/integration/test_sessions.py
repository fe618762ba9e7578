"""Nothing is kept of who has left: what many sessions leave behind is what few do."""

import asyncio
import gc
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gradio_client import Client

from app.server import SESSIONS, RunningApp
from sae_core.bundle import Bundle
from tests.serving import INDEX, arguments_of, running

FEW, MANY = 10, 30
WORDS = "The river follows the harbour at noon and the old clock returns two letters. "
KEPT_BYTES = 20_000
"""What a session may leave behind on average; a state of Gradio's alone is 300,000."""


@pytest.fixture(scope="module")
def app(tiny_bundle: Bundle) -> Iterator[RunningApp]:
    with running(tiny_bundle, max_cached_megabytes=0.05) as app:
        app.workbench.load()
        yield app


def asked_as_pages_do(app: RunningApp, number: int) -> None:
    """A fresh session with one analysis."""
    session, text = f"page{number}", f"{number} {WORDS * 2}"
    with httpx.Client(base_url=app.url, timeout=30) as client:
        body = {
            "data": arguments_of("prompt_features", text=text),
            "fn_index": INDEX["prompt_features"],
            "session_hash": session,
        }
        assert client.post("/gradio_api/queue/join", json=body).status_code == 200
        told = client.get(f"/gradio_api/queue/data?session_hash={session}").text
        assert '"success":true' in told


def asked_and_left(app: RunningApp, number: int) -> None:
    """A session whose stream is broken off in the middle of a run."""
    session = f"left{number}"
    with httpx.Client(base_url=app.url, timeout=30) as client:
        body = {
            "data": arguments_of("steer", prompt=WORDS, edits=[{"feature": 5}], max_new_tokens=9),
            "fn_index": INDEX["steer"],
            "session_hash": session,
        }
        assert client.post("/gradio_api/queue/join", json=body).status_code == 200
        address = f"/gradio_api/queue/data?session_hash={session}"
        with client.stream("GET", address) as stream:
            next(stream.iter_raw())


def asked_with_the_client(app: RunningApp, number: int) -> None:
    """A client of Gradio's with its session, heartbeat and all."""
    client = Client(app.url, verbose=False)
    client.predict(f"{number} {WORDS}", api_name="/prompt_features")
    client.close()


def census() -> Counter[str]:
    """How many objects there are of each type of Gradio's, asyncio's and ours.

    A timer that was cancelled holds nothing; the loop drops it within its minute, in heaps.
    """
    gc.collect()
    types = (type(each) for each in gc.get_objects() if not is_cancelled_timer(each))
    named = (f"{each.__module__}.{each.__qualname__}" for each in types)
    return Counter(each for each in named if each.startswith(("gradio.", "app.", "asyncio.")))


def is_cancelled_timer(value: object) -> bool:
    return type(value) is asyncio.TimerHandle and value.cancelled()


@pytest.mark.parametrize("ask", [asked_as_pages_do, asked_and_left, asked_with_the_client])
def test_sessions_leave_nothing_behind(app: RunningApp, ask: Any) -> None:
    for number in range(FEW):
        ask(app, number)
    before = census()
    tracemalloc.start()
    try:
        start, _ = tracemalloc.get_traced_memory()
        for number in range(FEW, FEW + MANY):
            ask(app, number)
        after = census()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    more = {name: count for name, count in (after - before).items() if count > SESSIONS}
    assert not more
    assert (grown - start) / MANY < KEPT_BYTES


def test_analyses_are_kept_within_their_limit(tiny_bundle: Bundle) -> None:
    with running(tiny_bundle, max_cached_megabytes=0.02) as app:
        engine = app.workbench.load()
        for number in range(20):
            ids = engine.token_ids(f"{number} {WORDS}")
            first = engine.analyse(ids, "tiny", None)
            assert engine.analyse(ids, "tiny", None) is first
        kept = [value for each in engine._analyses.values() for value in vars(each).values()]
        assert 0 < sum(getattr(value, "nbytes", 0) for value in kept) <= 20_000
