"""The app's work held back where it asks for the model, an index or the file of notes, so that what
waits for it waits for as long as a test needs.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from app.engine.workbench import SQL_AT_ONCE
from app.server import RunningApp
from sae_core.notes import Topic

_PATIENCE = 120.0
"""Seconds after which what is held goes on, so that nothing hangs; the block fails then."""
_KEPT = ("explanations", "ratings", "lists", "saved")
"""Topics of the file of notes that are not in memory."""


@contextmanager
def held(app: RunningApp) -> Iterator[None]:
    """Inside the block no work ends: the model is not to be had, indexes are not read, nor what is
    kept of explanations, ratings, lists and saved pages, and nothing is kept.
    """
    workbench, going_on = app.workbench, threading.Event()
    load, engine = workbench.load, workbench.load()
    read, number_of = workbench.sources.features, workbench.feature_number
    checker, kept = workbench.checker, workbench.notes.file
    reading, writing = kept.reading, kept.transaction
    locked, let_go = threading.Event(), threading.Event()
    too_long: list[str] = []

    def wait_for(event: threading.Event, what: str) -> None:
        if not event.wait(_PATIENCE):
            too_long.append(what)

    def later(function: Callable[..., Any]) -> Callable[..., Any]:
        def waits(*args: Any, **named: Any) -> Any:
            wait_for(going_on, getattr(function, "__qualname__", "load"))
            return function(*args, **named)

        return waits

    def reads(topic: Topic, wait: float | None = None) -> Any:
        return (later(reading) if topic.name in _KEPT else reading)(topic, wait)

    def hold() -> None:
        with checker._turn, engine.lm.lock:
            locked.set()
            wait_for(let_go, "the model")

    workbench.sources.features, workbench.load = later(read), later(lambda: engine)
    workbench.feature_number = later(number_of)
    kept.reading, kept.transaction = reads, later(writing)
    workbench.notes.lists.forget()
    # What was computed before would be answered at once.
    engine._analyses.clear()
    checks = dict(checker._checks)
    checker._checks.clear()
    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert locked.wait(60)
    for _ in range(SQL_AT_ONCE):
        assert workbench.sql_places.acquire(timeout=60)
    try:
        yield
        assert not too_long, f"no longer held: {too_long}"
    finally:
        workbench.sql_places.release(SQL_AT_ONCE)
        workbench.sources.features, workbench.load = read, load
        workbench.feature_number = number_of
        kept.reading, kept.transaction = reading, writing
        checker._checks.update(checks)
        going_on.set()
        let_go.set()
        holder.join()
