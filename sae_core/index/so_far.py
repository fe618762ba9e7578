"""Indexes of what has been read so far, written while a run reads on.

Such an index is whole and valid, of fewer tokens than are planned, and says so (`planned_tokens`).
It takes its place beside the SAE at checkpoints that are far enough apart for writing to take at
most a tenth of the time.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sae_core.index.schema import IndexBusyError, connect, rows_of

log = logging.getLogger(__name__)

SHARE = 0.1
"""Most of the time that may go into writing."""
GUESS = 2e-3
"""Seconds that writing is taken to need for a feature, before it has been measured."""


class Spacing:
    """Decides at which checkpoints to write, from the time that writing has taken."""

    def __init__(self, features: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`features`: of all indexes that are written each time."""
        self._clock, self._start = clock, clock()
        self._spent, self._last = 0.0, GUESS * features

    def due(self) -> bool:
        """Whether all writing, once more included, stays within its share of the time so far."""
        elapsed = self._clock() - self._start
        return self._spent + self._last <= SHARE * (elapsed + self._last)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The block writes."""
        begun = self._clock()
        try:
            yield
        finally:
            self._last = self._clock() - begun
            self._spent += self._last


def gives_way(path: Path, tokens: int, sae_hash: str) -> bool:
    """Whether an index of the first `tokens` tokens may take the place of what is at `path`: of
    anything but a finished index of the same weights and of as many tokens or more.
    """
    try:
        connection = connect(path)
    except IndexBusyError:
        return False
    except ValueError:
        return True
    try:
        meta = {
            key: json.loads(value)
            for key, value in rows_of(connection, path, "SELECT key, value FROM meta")
            if key in ("tokens", "planned_tokens", "sae_hash")
        }
        finished = "planned_tokens" not in meta and meta["sae_hash"] == sae_hash
        return not finished or meta["tokens"] < tokens
    except (ValueError, LookupError, TypeError) as error:
        log.info("%s cannot be read and gives way: %s", path, error)
        return True
    finally:
        connection.close()
