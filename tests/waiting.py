"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable

LIMIT = 60.0
"""Seconds; nothing that is waited for takes a hundredth of it."""


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return once that is so; an assertion fails if it is not within LIMIT."""
    deadline = time.monotonic() + LIMIT
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)
