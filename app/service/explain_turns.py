"""How much of the model that explains may be used: so many features at once, each by one person,
and so many requests while the app runs.

Whoever leaves ends the wait for an answer, not the request that is on its way: its place is taken
until the thread that made it ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Final
from weakref import WeakKeyDictionary

from app.engine.workbench import Workbench
from app.requests import RequestError

AT_ONCE: Final = 2
"""Features that are explained at once."""
WAIT_SECONDS: Final = 5.0
"""Longest wait for the requests of somebody who has left."""
BUSY: Final = "The model is busy with what others asked: try again soon."
SPENT: Final = (
    "This app has sent the model the {most:,} requests that it may (max_explain_requests). What "
    "was answered is kept."
)


class ExplainTurns:
    """Places and requests of one workbench."""

    def __init__(self, most: int) -> None:
        self._most, self._sent = most, 0
        self._running: set[tuple[str, int]] = set()
        self._changed = Condition()

    @contextmanager
    def turn(self, sae: str, feature: int) -> Iterator[None]:
        """A place for the block, and nobody else with this feature; RequestError if none gets
        free.
        """
        mine = (sae, feature)
        with self._changed:
            if not self._changed.wait_for(
                lambda: len(self._running) < AT_ONCE and mine not in self._running, WAIT_SECONDS
            ):
                raise RequestError(BUSY, "ask")
            self._running.add(mine)
        try:
            yield
        finally:
            with self._changed:
                self._running.remove(mine)
                self._changed.notify_all()

    def spend(self) -> None:
        """Count a request that is about to be sent; RequestError if there are none left."""
        with self._changed:
            if self._sent >= self._most:
                raise RequestError(SPENT.format(most=self._most), "ask")
            self._sent += 1


_TURNS: Final[WeakKeyDictionary[Workbench, ExplainTurns]] = WeakKeyDictionary()


def turns_of(workbench: Workbench) -> ExplainTurns:
    """Those of a workbench, the same for all who ask."""
    return _TURNS.setdefault(workbench, ExplainTurns(workbench.settings.max_explain_requests))
