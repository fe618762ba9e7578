"""Work that nobody waits for, in threads that end before what they work on does.

A daemon thread that is inside PyTorch or DuckDB when the interpreter ends aborts the process
("terminate called without an active exception"), and one that is not a daemon would hold its end up
until all is done. So such threads are told to stop, at the app's close and at the interpreter's
end, and are waited for: they look at it wherever they can break off.
"""

import contextlib
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

PATIENCE: Final = 60.0
"""Most seconds that the end waits for what cannot be broken off, such as the loading of a model."""


class StoppedError(Exception):
    """The app has been closed: whoever works for it ends."""


class Background:
    """The threads of an owner; they end with its `close`, with the owner, or with the process."""

    def __init__(self, owner: Any) -> None:
        self._state = _State()
        weakref.finalize(owner, self._state.close)

    def start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Do work in a thread; it calls `go_on` first, and wherever it can break off."""
        return self._state.start(name, work)

    def go_on(self, *_: Any) -> None:
        """Raise StoppedError once it is the end; takes what any report of progress is given."""
        if self._state.is_over.is_set():
            raise StoppedError

    def close(self) -> None:
        """Have all threads end, and wait for them."""
        self._state.close()


class _State:
    """What does not hold the owner."""

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            with contextlib.suppress(StoppedError):
                work()

        thread = threading.Thread(target=run, name=name, daemon=True)
        with self._lock:
            self._threads = [each for each in self._threads if each.is_alive()]
            thread.start()
            self._threads.append(thread)
        return thread

    def close(self) -> None:
        self.is_over.set()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            # The last reference to the owner may be a thread's own.
            if thread is not threading.current_thread():
                thread.join(PATIENCE)
