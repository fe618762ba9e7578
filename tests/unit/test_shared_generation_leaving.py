"""Generations of several people: who leaves waits for nobody, wherever and whenever that is."""

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sae_core import shared_generation
from sae_core.generation import generate
from sae_core.shared_generation import SharedGeneration
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests.unit.shared_generation_support import assert_alike, ids_of, job_of, spliced
from tests.waiting import wait_until

LIMIT = 60
"""Seconds after which something is taken to hang."""


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    return spliced(tiny_model, tiny_tokenizer)


def started(work: Callable[[], Any]) -> threading.Event:
    """Begin something in a thread of its own; the event tells that it is done."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    threading.Thread(target=run, daemon=True).start()
    return done


@contextmanager
def during_forwards(model: Any, work: Callable[[int], None]) -> Iterator[None]:
    """Inside the block each forward does this first, with the number of its rows."""
    handle = model.register_forward_pre_hook(
        lambda _module, _args, kwargs: work(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


def assert_empty(shared: SharedGeneration) -> None:
    assert not shared._members
    assert shared._cache is None
    assert not shared._laid


def test_the_leaders_own_thread_may_collect_an_abandoned_one_in_a_forward(lm: SplicedLM) -> None:
    shared, job = SharedGeneration(lm), job_of(lm, 1, max_new_tokens=6, eos=frozenset())
    rows: list[int] = []
    gc.disable()  # so that it is found where the test wants it
    try:
        abandoned: Any = shared.generate(**job_of(lm, 2))
        next(abandoned)
        stays = shared.generate(**job)
        steps = [next(stays)]
        alive, cycle = weakref.ref(abandoned), [abandoned]
        cycle.append(cycle)
        del abandoned, cycle

        def collect(size: int) -> None:
            rows.append(size)
            if len(rows) == 2:
                assert alive() is not None
                gc.collect()

        with during_forwards(lm.model, collect):
            assert started(lambda: steps.extend(stays)).wait(LIMIT)
    finally:
        gc.enable()
    assert alive() is None
    assert rows == [4, 4, 2, 2, 2]
    assert_alike(steps, list(generate(lm, **job)))
    assert_empty(shared)


def test_who_holds_the_models_lock_may_close_one_while_the_leader_waits_for_it(
    lm: SplicedLM,
) -> None:
    shared, job = SharedGeneration(lm), job_of(lm, 1, max_new_tokens=4, eos=frozenset())
    leaves, stays = shared.generate(**job_of(lm, 2)), shared.generate(**job)
    next(leaves)
    steps, rows = [next(stays)], list[int]()

    def hold_and_close() -> None:
        with lm.lock:
            holds.set()
            wait_until(lambda: shared._is_led)
            leaves.close()

    holds = threading.Event()
    with during_forwards(lm.model, rows.append):
        closed = started(hold_and_close)
        assert holds.wait(LIMIT)
        done = started(lambda: steps.extend(stays))
        assert closed.wait(LIMIT)
        assert done.wait(LIMIT)
    assert rows == [2, 2, 2], "nothing was begun for who had left"
    assert_alike(steps, list(generate(lm, **job)))
    assert_empty(shared)


def test_closing_returns_while_a_forward_is_running(lm: SplicedLM) -> None:
    shared, job = SharedGeneration(lm), job_of(lm, 1, max_new_tokens=4, eos=frozenset())
    leaves, stays = shared.generate(**job_of(lm, 2)), shared.generate(**job)
    next(leaves)
    steps, rows = [next(stays)], list[int]()
    running, go_on = threading.Event(), threading.Event()

    def held(size: int) -> None:
        rows.append(size)
        running.set()
        assert go_on.wait(LIMIT)

    with during_forwards(lm.model, held):
        done = started(lambda: steps.extend(stays))
        assert running.wait(LIMIT)
        try:
            assert started(leaves.close).wait(LIMIT / 2), "closing waits for the forward"
            assert not done.is_set()
        finally:
            go_on.set()
        assert done.wait(LIMIT)
    assert rows == [4, 2, 2], "what was running ended, and nothing further was begun"
    assert_alike(steps, list(generate(lm, **job)))
    assert_empty(shared)


def test_the_last_may_leave_in_the_midst_of_the_forward_that_another_has_left(
    lm: SplicedLM,
) -> None:
    """Then the leader forgets all."""
    shared = SharedGeneration(lm)
    leaves, leads = (shared.generate(**job_of(lm, n, eos=frozenset())) for n in (2, 1))
    next(leaves)
    next(leads)

    def leave(_size: int) -> None:
        leaves.close()
        raise KeyboardInterrupt

    with during_forwards(lm.model, leave), pytest.raises(KeyboardInterrupt):
        list(leads)
    assert_empty(shared)


@contextmanager
def at_line(number: int, work: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Inside the block `work` is done in this thread, as the garbage collector may do it, before
    line `number` of those run where it is seen to who is there. Gives whether it came so far.
    """
    own, lines = shared_generation.__file__, ("_next", "_drop_gone", "_lead", "_lay")
    count, before = 0, sys.gettrace()

    def trace(frame: Any, event: str, _arg: Any) -> Any:
        nonlocal count
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if file != threading.__file__ and (file != own or name not in lines):
            return None
        if event == "line":
            count += 1
            if count == number:
                work()
        return trace

    sys.settrace(trace)
    try:
        yield lambda: count >= number
    finally:
        sys.settrace(before)


def test_one_may_be_closed_between_any_two_lines(lm: SplicedLM) -> None:
    ids: Any = encode_text(lm.tokenizer, "A student")
    job: dict[str, Any] = {"ids": ids, "arms": [[]], "max_new_tokens": 3, "eos": frozenset()}
    alone, number, came = ids_of(list(generate(lm, **job))), 0, True
    while came:
        number += 1
        shared = SharedGeneration(lm)
        leaves, stays = (shared.generate(**{**job, "max_new_tokens": n}) for n in (9, 3))
        next(leaves)
        steps = [next(stays)]
        with at_line(number, leaves.close) as has_come:
            steps.append(next(stays))
        came = has_come()
        leaves.close()
        rows: list[int] = []
        with during_forwards(lm.model, rows.append):
            steps.extend(stays)
        assert rows == [1], f"line {number}: the third token is made for one alone"
        assert ids_of(steps) == alone
        assert_empty(shared)
    assert number > 30, "hardly a line was seen"
