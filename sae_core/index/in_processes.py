"""Pieces of work that Python's lock would keep to one CPU, shared out over processes.

A process is forked, so that it has everything that the work needs without a copy; it only
calculates with numpy and zlib, and what it returns comes back through a pipe. Where forking is not
what a system is made for, threads do the work, which share the lock.
"""

import gc
import math
import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")
_MOST = 16
"""Processes at most."""
_LOOK_S = 1.0
"""Seconds between looks at whether work is still wanted."""
_KILLED = (
    "a process that made a part of the index was killed, probably because memory was short: free "
    "some and run again."
)
_work: list[Callable[[int], Any]] = []
"""What forked processes find: the work at hand."""


@contextmanager
def in_processes(work: Callable[[int], _T], pieces: int) -> Iterator[Iterator[_T]]:
    """`work(0)`, `work(1)` and so on, in order, begun at once; it must not touch a GPU, nor change
    anything. A block that is left early leaves out what has not been begun. ValueError if a process
    was killed.
    """
    pool, made = _started(work, pieces)

    def all_made() -> Iterator[_T]:
        try:
            yield from made
        except BrokenExecutor as error:
            raise ValueError(_KILLED) from error
        # They end while something else is done.
        pool.shutdown(wait=False)

    try:
        yield all_made()
    finally:
        pool.shutdown(cancel_futures=True)


def _started(work: Callable[[int], _T], pieces: int) -> tuple[Executor, Iterator[_T]]:
    """Who does the work, and what is being made."""
    # Starting a process takes about as long as a piece of work, some hundredths of a second, and
    # work begins when all are there: of any number of pieces the root of it is best.
    places = min(_places(), math.isqrt(pieces))
    if places <= 1:
        threads = ThreadPoolExecutor(os.cpu_count())
        return threads, threads.map(work, range(pieces))
    _work.append(work)
    try:
        with warnings.catch_warnings():
            # That the other threads are not there any more: nothing here waits for one of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            pool = ProcessPoolExecutor(
                places,
                mp_context=multiprocessing.get_context("fork"),
                initializer=_begin,
                initargs=(os.getpid(),),
            )
            return pool, pool.map(_piece, range(pieces))
    finally:
        _work.pop()


def _begin(parent: int) -> None:
    """What a forked process does first."""
    # What is garbage here may be memory of a GPU, which is not theirs to free.
    gc.disable()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End with the process that wants the work. Of one that is killed nothing else tells: work is
    waited for at a pipe that the waiting ones have open themselves; and what they have of a GPU
    would stay taken.
    """
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def _places() -> int:
    """How many processes could work at a time; 1 where processes are not forked."""
    return min(_MOST, len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1


def _piece(number: int) -> Any:
    return _work[-1](number)
