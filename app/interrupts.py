"""Ctrl-C that ends a server also when it comes while libraries are at work in the main thread."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def remembered_interrupts() -> Iterator[Callable[[], NoReturn]]:
    """Within it an interrupt is raised as ever and remembered as well; gives what waits for one.

    The first page answers before the start has returned, so that Ctrl-C may come while Gradio is
    still at work, and there a `KeyboardInterrupt` can be swallowed: in a callback of the garbage
    collector, say, or by an `except BaseException`. The app would then serve on. Whoever waits
    gets such an interrupt at once. Off the main thread, and where SIGINT is ignored or handled
    otherwise, all stays as it is.
    """
    has_come = False

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal has_come
        has_come = True
        raise KeyboardInterrupt

    def wait() -> NoReturn:
        while not has_come:
            time.sleep(3600)
        raise KeyboardInterrupt

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield wait
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
