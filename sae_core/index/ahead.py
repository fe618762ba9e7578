"""The next items of an iterator, made on a thread while the last ones are worked on."""

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")
_LOOK_S = 0.1
"""Seconds after which the thread looks whether it is still wanted."""


def ahead(items: Iterable[_T], most: int) -> Iterator[_T]:
    """`items` in order, up to `most` of them made ahead; what making them raises is raised here.

    The thread ends with the iterator: when it is used up, closed or forgotten.
    """
    made: queue.Queue[tuple[_T] | BaseException | None] = queue.Queue(most)
    stop = threading.Event()

    def put(each: "tuple[_T] | BaseException | None") -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                made.put(each, timeout=_LOOK_S)
                break

    def make() -> None:
        try:
            for item in items:
                put((item,))
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # whatever it is belongs to who waits for the items
            put(error)

    thread = threading.Thread(target=make, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            each = made.get()
            if isinstance(each, BaseException):
                raise each
            if each is None:
                return
            yield each[0]
    finally:
        stop.set()
        thread.join()
