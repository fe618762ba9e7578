"""Several people steer at once: one batch, and each gets their own answer."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import httpx
import pytest

from app.endpoints import Api
from app.server import RunningApp
from sae_core.bundle import Bundle
from sae_core.generation_run import GenerationRun
from tests.serving import answer, join, listening, running

PLACES = 3
TEXTS = ("The river follows the harbour.", "A student", "The old clock measures", "My neighbour")


@pytest.fixture(scope="module")
def app(tiny_bundle: Bundle) -> Iterator[RunningApp]:
    with running(tiny_bundle, max_generations=PLACES, max_seconds=600.0) as app:
        app.workbench.load()
        yield app


def given(number: int, **changed: Any) -> dict[str, Any]:
    edit = {"feature": 5 + number, "strength": 1.0 + number}
    return {
        "prompt": TEXTS[number],
        "edits": [edit],
        "max_new_tokens": 10 + 3 * number,
        "temperature": 0.8 if number else 0.0,
        "seed": number,
    } | changed


def assert_alike(result: dict[str, Any], alone: dict[str, Any]) -> None:
    assert result["settings"] == alone["settings"]
    assert result["edited"] == alone["edited"]
    for arm in ("base", "steered"):
        assert [token["id"] for token in result[arm]] == [token["id"] for token in alone[arm]]
        for token, other in zip(result[arm], alone[arm], strict=True):
            assert token["own"] == pytest.approx(other["own"], abs=1e-4)
            assert token["after"] == pytest.approx(other["after"], abs=1e-4)


def generating(app: RunningApp) -> int:
    queue: Any = app._server.get_blocks()._queue
    return queue.event_queue_per_concurrency_id["generate"].current_concurrency


async def until(is_so: Any) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)


@contextmanager
def model_held(app: RunningApp) -> Iterator[None]:
    """Inside the block no forward is run."""
    lock, held, done = app.workbench.load().lm.lock, threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait(60)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert held.wait(60)
    try:
        yield
    finally:
        done.set()
        holder.join()


def client_of(app: RunningApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=app.url, timeout=60)


def test_each_gets_what_they_would_alone_and_the_next_waits_for_a_place(app: RunningApp) -> None:
    alone = [Api(app.workbench).steer(**given(number)) for number in range(4)]

    async def asked() -> list[dict[str, Any]]:
        async with client_of(app) as client, AsyncExitStack() as streams:
            heard = []
            with model_held(app):
                for number in range(4):
                    await join(client, "steer", f"person{number}", **given(number))
                    stream = listening(client, f"person{number}")
                    heard.append(await streams.enter_async_context(stream))
                    await until(lambda n=number: generating(app) == min(n + 1, PLACES))
                async for message in heard[-1]:
                    if message["msg"] == "estimation":
                        assert message["rank"] == 0, "the fourth waits, and is the next"
                        break
            said = [[message async for message in messages] for messages in heard]
        done = [m for messages in said for m in messages if m["msg"] == "process_completed"]
        assert all(message["success"] for message in done)
        return [message["output"]["data"][0] for message in done]

    for result, expected in zip(asyncio.run(asked()), alone, strict=True):
        assert_alike(result, expected)


def test_who_leaves_frees_the_place_and_others_go_on(app: RunningApp) -> None:
    alone = Api(app.workbench).steer(**given(1))
    generations = app.workbench.load().generations

    async def asked() -> dict[str, Any]:
        async with client_of(app) as client:
            with model_held(app):  # so that neither is over before the other has its place
                await join(client, "steer", "leaves", **given(0, max_new_tokens=150))
                await until(lambda: generating(app) == 1)
                stays = asyncio.create_task(answer(client, "steer", "stays", **given(1)))
                await until(lambda: generating(app) == 2)
            async with listening(client, "leaves") as messages:
                async for message in messages:
                    if message["msg"] == "process_generating":
                        break
            told = await stays
            await until(lambda: not generating(app) and not generations.people)
            return told["output"]["data"][0]

    assert_alike(asyncio.run(asked()), alone)


def test_an_error_of_one_is_theirs_alone(app: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Api(app.workbench).steer(**given(1))
    plain = GenerationRun.prepare

    def prepare(self: GenerationRun, *args: Any) -> Any:
        if self.watch == [("tiny", 7)] and self.length > 9:
            raise ValueError("That edit cannot be made.")
        return plain(self, *args)

    monkeypatch.setattr(GenerationRun, "prepare", prepare)

    async def asked() -> list[dict[str, Any]]:
        async with client_of(app) as client:
            questions = (answer(client, "steer", f"error{n}", **given(n)) for n in (1, 2))
            return list(await asyncio.gather(*questions))

    good, bad = asyncio.run(asked())
    assert_alike(good["output"]["data"][0], alone)
    assert not bad["success"]
    assert "That edit cannot be made." in bad["output"]["error"]
