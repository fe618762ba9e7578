"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable

LIMIT = 60.0
"""Seconds; nothing that is waited for takes a hundredth of it."""
STARTING = 240.0
"""Seconds for a process that imports PyTorch or Gradio first, which takes a few."""


def wait_until(is_so: Callable[[], bool], seconds: float = LIMIT) -> None:
    """Return once that is so; an assertion fails if it is not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)
