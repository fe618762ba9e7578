"""Many people at once: each kind of work has a limit of its own, and nobody waits for another's.

The work is held back (`tests/held_work.py`), so that what waits waits for as long as a test needs.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import Any

import httpx
import pytest

from app.endpoints import ENDPOINTS, Work, places
from app.server import RunningApp
from app.work_queue import WorkQueue
from sae_core.bundle import Bundle
from tests.held_work import held
from tests.serving import answer, join, listening, running

TEXT = "The river follows the harbour."
OTHER = "The river leaves the harbour."
RUN = {"prompt": TEXT, "edits": [{"feature": 5, "strength": 1.0}], "max_new_tokens": 3}
GIVEN: dict[str, dict[str, Any]] = {
    "feature": {"feature": 5},
    "search_features": {},
    "sql": {"query": "SELECT 1"},
    "prompt_features": {"text": TEXT},
    "delta_loss": {"text": TEXT},
    "test_text": {"text": TEXT, "feature": 5},
    "tokens": {"text": TEXT},
    "effects": {"text": TEXT},
    "compare": {"text": TEXT, "other_text": OTHER},
    "patch": {"text": TEXT, "other_text": OTHER, "features": [5]},
    "splice": {"text": TEXT},
    "steer": RUN,
    "ladder": {**RUN, "strengths": [1.0], "seeds": 1},
    "prove": {**RUN, "seeds": 3},
    "explain": {"feature": 5},
    "ratings": {},
    "notes": {"feature": 5, "starred": "yes"},
    "lists": {},
    "saved": {},
    "map": {"features": [5]},
    "check": {},
    "threshold": {"feature": 5, "tokens": 100},
    "find": {"positives": [TEXT], "negatives": [OTHER]},
    "co_activation": {"feature": 5, "tokens": 100},
    "reproduce": {"asked": {"quantity": "delta_lm_loss", "text": TEXT}},
}
LIMITS = {
    Work.INDEX: 7,
    Work.ANALYSE: 6,
    Work.GENERATE: 5,
    Work.SERIES: 4,
    Work.CHECK: 8,
    Work.SQL: 3,
    Work.EXPLAIN: 2,
}
CROWD = 80
PAGES = ("/", "/prompt", "/steer", "/api", "/state", "/nowhere")


@pytest.fixture(scope="module")
def app(tiny_bundle: Bundle) -> Iterator[RunningApp]:
    limits = {f"max_waiting_{work}": limit for work, limit in LIMITS.items()}
    limits |= {"max_generations": 1, "check_tokens": 200}
    with running(tiny_bundle, max_waiting_seconds=600.0, **limits) as app:
        app.workbench.load()
        app.workbench.checker.begin("tiny")
        assert asyncio.run(app.workbench.checker.finished("tiny"))["state"] != "failed"
        yield app


def queue_of(app: RunningApp) -> WorkQueue:
    queue = app._server.get_blocks()._queue
    assert isinstance(queue, WorkQueue)
    return queue


@asynccontextmanager
async def client_of(app: RunningApp) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=300)
    async with httpx.AsyncClient(base_url=app.url, timeout=120, limits=limits) as client:
        yield client


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that must come about by itself."""
    for _ in range(2000):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came about")


def is_generating(app: RunningApp) -> bool:
    """Whether a steering run has left the queue for its place."""
    return queue_of(app).event_queue_per_concurrency_id["generate"].current_concurrency == 1


def working_threads() -> int:
    """Threads of the server's pool that are at something; the others look for work in a queue."""
    names = {each.ident: each.name for each in threading.enumerate()}
    frames = sys._current_frames().items()
    workers = [frame for ident, frame in frames if "AnyIO worker" in names.get(ident, "")]
    return sum(not _looks_for_work(frame) for frame in workers)


def _looks_for_work(frame: FrameType) -> bool:
    innermost = [frame, frame.f_back]
    return any(each and each.f_code.co_filename.endswith("/queue.py") for each in innermost)


def idle(app: RunningApp) -> bool:
    """Whether nothing runs, waits, or is remembered of any session."""
    queue = queue_of(app)
    counts = [
        *(each.current_concurrency for each in queue.event_queue_per_concurrency_id.values()),
        len(queue),
        len(queue.pending_messages_per_session),
        len(queue.pending_event_ids_session),
        len(queue.event_ids_to_events),
    ]
    return not any(counts)


def run(app: RunningApp, asked: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    """A test's questions; afterwards nothing may be left of them."""

    async def whole() -> None:
        async with client_of(app) as client:
            await asked(client)
        await until(lambda: idle(app))

    asyncio.run(whole())


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_a_crowd_at_one_endpoint_stops_no_page_and_holds_no_thread(
    app: RunningApp, endpoint: Any
) -> None:
    name, work = endpoint.name, endpoint.work
    most = places(work, app.workbench.settings) or 0

    async def asked(client: httpx.AsyncClient) -> None:
        async with AsyncExitStack() as streams:
            with held(app):
                sessions = [f"{name}{number}" for number in range(CROWD)]
                # Those that fill the places come first, so that the others find them taken.
                first, others = sessions[:most], sessions[most:]
                answers = [await join(client, name, each, **GIVEN[name]) for each in first]
                await until(lambda: not len(queue_of(app)))
                answers += await asyncio.gather(
                    *(join(client, name, each, **GIVEN[name]) for each in others)
                )
                taken = [s for s, a in zip(sessions, answers, strict=True) if a.status_code == 200]
                refused = [each for each in answers if each.status_code != 200]
                assert len(taken) == most + LIMITS[work]
                for each in refused:
                    assert each.status_code == 503
                    assert "queue is full" in each.json()["detail"]
                heard = [await streams.enter_async_context(listening(client, s)) for s in taken]
                await until(lambda: working_threads() <= most)
                for path in PAGES:
                    assert (await client.get(path)).status_code in (200, 404)
            for messages in heard:
                said = [message async for message in messages]
                assert said[-1]["msg"] == "close_stream"
                assert said[-2]["success"], said[-2]

    run(app, asked)


@pytest.mark.parametrize("way", ["call", "call/v2"])
def test_plain_http_meets_the_same_limit(app: RunningApp, way: str) -> None:
    async def asked(client: httpx.AsyncClient) -> None:
        body = RUN if way == "call/v2" else {"data": [RUN["prompt"], RUN["edits"], "", 3]}
        with held(app):
            answers = [await client.post(f"/gradio_api/{way}/steer", json=body)]
            await until(lambda: not len(queue_of(app)))
            for _ in range(LIMITS[Work.GENERATE] + 1):
                answers.append(await client.post(f"/gradio_api/{way}/steer", json=body))
            assert [each.status_code for each in answers[:-1]] == [200] * (len(answers) - 1)
            assert answers[-1].status_code == 503
            assert "queue is full" in answers[-1].json()["detail"]
        for each in answers[:-1]:
            told = await client.get(f"/gradio_api/{way}/steer/{each.json()['event_id']}")
            assert "event: complete" in told.text

    run(app, asked)


def test_an_index_is_read_while_steering_is_full(app: RunningApp) -> None:
    async def asked(client: httpx.AsyncClient) -> None:
        workbench = app.workbench
        read, number_of = workbench.sources.features, workbench.feature_number
        async with AsyncExitStack() as streams:
            with held(app):
                # The model alone is held.
                workbench.sources.features, workbench.feature_number = read, number_of
                for number in range(1 + LIMITS[Work.GENERATE]):
                    session = f"steer{number}"
                    assert (await join(client, "steer", session, **RUN)).status_code == 200
                    await streams.enter_async_context(listening(client, session))
                    await until(
                        lambda: (
                            queue_of(app)
                            .event_queue_per_concurrency_id["generate"]
                            .current_concurrency
                            == 1
                        )
                    )
                assert (await join(client, "steer", "late", **RUN)).status_code == 503
                told = await asyncio.gather(
                    *(answer(client, "feature", f"index{n}", feature=n) for n in range(5))
                )
                assert [each["output"]["data"][0]["feature"] for each in told] == list(range(5))

    run(app, asked)


async def place_of(messages: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """The next message about a place in the queue."""
    async for message in messages:
        if message["msg"] == "estimation":
            return message
    raise AssertionError("the stream ended")


def test_who_waits_hears_of_their_place_and_of_how_long_and_who_leaves_frees_theirs(
    app: RunningApp,
) -> None:
    async def asked(client: httpx.AsyncClient) -> None:
        assert (await answer(client, "steer", "before", **RUN))["success"]
        queue = queue_of(app)
        mean = next(
            t.avg_time for fn, t in queue.process_time_per_fn.items() if fn.api_name == "steer"
        )
        async with AsyncExitStack() as streams:
            with held(app):
                await join(client, "steer", "running", **RUN)
                await streams.enter_async_context(listening(client, "running"))
                await until(lambda: queue.waiting("generate") == 0)
                heard: list[AsyncIterator[dict[str, Any]]] = []
                leaving = AsyncExitStack()
                for number in range(3):
                    await join(client, "steer", f"waits{number}", **RUN)
                    owner = leaving if number == 0 else streams
                    heard.append(
                        await owner.enter_async_context(listening(client, f"waits{number}"))
                    )
                places = [await place_of(messages) for messages in heard]
                assert [each["rank"] for each in places] == [0, 1, 2]
                etas = [each["rank_eta"] for each in places]
                # One place: each waits for one run more than the one before, and for its own.
                assert mean <= etas[0] <= 2 * mean + 0.01
                assert etas[1] - etas[0] <= mean + 0.01 < etas[2] - etas[0] + 0.02
                assert queue.waiting("generate") == 3
                await leaving.aclose()
                await until(lambda: queue.waiting("generate") == 2)
                assert [(await place_of(messages))["rank"] for messages in heard[1:]] == [0, 1]
            for messages in heard[1:]:
                said = [message["msg"] async for message in messages]
                assert said[-2:] == ["process_completed", "close_stream"]

    run(app, asked)


def test_a_closed_tab_stops_its_run_and_the_next_one_starts(app: RunningApp) -> None:
    long = RUN | {"max_new_tokens": 150}

    async def asked(client: httpx.AsyncClient) -> None:
        await join(client, "steer", "closed", **long)
        async with listening(client, "closed") as messages:
            async for message in messages:
                if message["msg"] == "process_generating":
                    break
        # Its 150 tokens are not waited for: the place is free before they could all be there.
        told = await answer(client, "steer", "next", **RUN)
        assert told["success"]

    run(app, asked)


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "running"])
def test_a_run_is_cancelled_as_gradios_clients_do_it(app: RunningApp, waits: bool) -> None:
    async def asked(client: httpx.AsyncClient) -> None:
        queue = queue_of(app)
        async with AsyncExitStack() as streams:
            with held(app):
                for number in range(2 if waits else 1):
                    joined = await join(client, "steer", f"cancel{number}", **RUN)
                    heard = await streams.enter_async_context(listening(client, f"cancel{number}"))
                    await until(
                        lambda: (
                            queue.event_queue_per_concurrency_id["generate"].current_concurrency
                            == 1
                        )
                    )
                assert queue.waiting("generate") == waits
                body = {
                    "session_hash": f"cancel{int(waits)}",
                    "fn_index": [each.name for each in ENDPOINTS].index("steer"),
                    "event_id": joined.json()["event_id"],
                }
                cancelling = asyncio.create_task(client.post("/gradio_api/cancel", json=body))
                if waits:
                    assert (await cancelling).status_code == 200
                    assert queue.waiting("generate") == 0
            assert (await cancelling).status_code == 200
            said = [message["msg"] async for message in heard]
            assert said[-1] == "close_stream"

    run(app, asked)


def test_who_never_listens_is_given_up(tiny_bundle: Bundle) -> None:
    with running(tiny_bundle, max_waiting_seconds=0.3, max_generations=1) as app:
        app.workbench.load()

        async def asked(client: httpx.AsyncClient) -> None:
            with held(app):
                for number in range(3):
                    assert (await join(client, "steer", f"gone{number}", **RUN)).status_code == 200
                await until(lambda: not len(queue_of(app)))
                assert not queue_of(app).pending_messages_per_session
            late = await client.get("/gradio_api/queue/data?session_hash=gone1")
            assert late.status_code == 404

        run(app, asked)
