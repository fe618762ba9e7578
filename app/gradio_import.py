"""Gradio, imported in little more than half of the time, and told to keep to itself.

While it is imported, Gradio parses the source of each of its 76 components again, and writes stub
files (`.pyi`) beside them that tell editors of their events: 2.4 of the 6 seconds that its import
takes on two slow cores, and the first page waits for them. It leaves out components whose file
cannot be told, and here none can. Should a later Gradio do otherwise, its import is as slow as it
is elsewhere, and nothing else changes.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

# Gradio reads these when it is imported and when it makes its queue: no request may leave this
# machine, and it keeps no statistics of every request (they take longer with each one).
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = "1000000000"


@contextmanager
def without_stub_files() -> Iterator[None]:
    """Within it, `inspect.getfile` knows no file of a class of Gradio's."""
    getfile = inspect.getfile

    def of_all_else(value: Any) -> str:
        if isinstance(value, type) and value.__module__.startswith("gradio."):
            raise OSError("a class of Gradio's")
        return getfile(value)

    with patch("inspect.getfile", of_all_else):
        yield


with without_stub_files():
    import gradio as gr
    from gradio.blocks import Blocks
    from gradio.events import api
    from gradio.queueing import Event, Queue

__all__ = ["Blocks", "Event", "Queue", "api", "gr"]
