"""Pieces of work that Python's lock would keep to one CPU, shared out over processes.

A process is forked, so that it has everything that the work needs without a copy; it only
calculates with numpy and zlib. Nobody waits for anybody: each takes the number of its next pieces
from a pipe, and writes what it makes into a file in memory, of which only the place goes back
through another pipe. Where forking is not what a system is made for, or is refused, threads do the
work, which share the lock.
"""

import gc
import os
import pickle
import signal
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, TypeVar

_T = TypeVar("_T")
_MOST = 16
"""Processes at most."""
_NICE = 5
"""How much the processes stand back where there are not CPUs enough."""
_TICKET = struct.Struct("<q")
"""Which pieces to take next."""
_TICKETS = 4096 // _TICKET.size
"""Tickets at most: every pipe has room for so many bytes, whoever reads them."""
_FORKING = threading.Lock()
"""Held while processes are forked. What is made on several threads at a time has pipes of its own
each: processes of one would keep another's open."""
_HEARD: set[int] = set()
"""The ends of pipes at which processes are heard here."""
_MADE = struct.Struct("<qqqq")
"""What a process says of a piece: its number, the process's, where what it made begins in that
one's file, and its length, which is negative if that is an error."""
ENDING = "ending processes"
"""Name of the thread that waits until processes have ended."""
_KILLED = (
    "a process that made a part of the index was killed, probably because memory was short: free "
    "some and run again."
)


@contextmanager
def in_processes(work: Callable[[int], _T], pieces: int) -> Iterator[Iterator[_T]]:
    """`work(0)`, `work(1)` and so on, in order, begun at once; it must not touch a GPU, nor change
    anything. A block that is left early leaves out what has not been begun. ValueError if a process
    was killed.
    """
    made, leave = _started(work, pieces)
    try:
        yield made
    finally:
        leave()


def _started(work: Callable[[int], _T], pieces: int) -> tuple[Iterator[_T], Callable[[], None]]:
    """What is being made, and how to stop that."""
    # Starting a process takes about as long as a piece of work, some hundredths of a second.
    places = min(_places(), pieces // 2)
    if places > 1:
        # Where no process can be had, what has been read for hours is still worth an index.
        with suppress(OSError):
            with _FORKING:
                crew = _forked(work, pieces, places)
            return crew.made(), crew.leave
    threads = ThreadPoolExecutor(os.cpu_count())
    return threads.map(work, range(pieces)), partial(threads.shutdown, cancel_futures=True)


@dataclass(frozen=True)
class _Crew:
    """Processes at work, for the one that forked them."""

    pieces: int
    processes: list[int]
    """Those that it forked itself."""
    done: int
    """The pipe's end at which they say what is made."""
    files: Sequence[BinaryIO]
    """What each has made."""

    def made(self) -> Iterator[Any]:
        """What they make, in order; what goes wrong there is raised here."""
        places: dict[int, tuple[int, int, int]] = {}
        for piece in range(self.pieces):
            while piece not in places:
                said = os.read(self.done, 128 * _MADE.size)
                if not said:  # all have ended
                    raise ValueError(_KILLED)
                places |= {number: place for number, *place in _MADE.iter_unpack(said)}
            process, place, length = places.pop(piece)
            made = pickle.loads(os.pread(self.files[process].fileno(), abs(length), place))
            if length < 0:
                raise made
            yield made

    def leave(self) -> None:
        """They end when they have no more to do, or say something that nobody hears: nothing waits
        for it.
        """
        _HEARD.discard(self.done)
        os.close(self.done)
        for file in self.files:
            file.close()
        if self.processes:
            ending = (self.processes,)
            threading.Thread(target=_wait_for, args=ending, name=ENDING, daemon=True).start()


def _forked(work: Callable[[int], Any], pieces: int, places: int) -> _Crew:
    """Processes that have begun."""
    together = -(-pieces // _TICKETS)
    tickets, give = os.pipe()
    done, say = os.pipe()
    _HEARD.add(done)
    files: list[BinaryIO] = []
    crew = _Crew(pieces, [], done, files)
    try:
        with os.fdopen(give, "wb") as giving:
            giving.write(b"".join(map(_TICKET.pack, range(0, pieces, together))))
        for _ in range(places):
            files.append(open(os.memfd_create("index"), "w+b"))  # noqa: SIM115
        number = _fork(places, crew.processes)
        if number is not None:
            try:
                # That the one who forked them was killed they are told by nobody listening any
                # more: none of them may hold an end for another.
                for end in _HEARD:
                    os.close(end)
                # The one that forked them has what all wait for.
                os.nice(_NICE)
                while ticket := os.read(tickets, _TICKET.size):
                    [first] = _TICKET.unpack(ticket)
                    for piece in range(first, min(first + together, pieces)):
                        _make(work, piece, number, files[number], say)
                _wait_for(crew.processes)
            finally:
                os._exit(0)
    except BaseException:
        crew.leave()
        raise
    finally:
        os.close(tickets)
        os.close(say)
    return crew


def _fork(places: int, processes: list[int]) -> int | None:
    """Fork so many processes, and say each which it is, and None to who has called; `processes`
    gets those that each has forked itself.

    The first forks half of the others and so on, since beside a GPU it takes some hundredths of a
    second: 16 are there after five times as long.
    """
    number, rest = None, range(places)
    # What is raised in a process would go on where this one has been called from.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        while rest:
            half = 1 + (len(rest) - 1) // 2
            with warnings.catch_warnings():
                # That the locks of other threads are there, and the threads are not. Python and the
                # C library see to theirs; work takes no others: it imports nothing, says nothing,
                # multiplies no matrices, and has each `cached_property` made before.
                warnings.simplefilter("ignore", DeprecationWarning)
                process = os.fork()
            if process:
                processes.append(process)
                rest = rest[half:]
            else:
                # What is garbage here may be memory of a GPU, which is not theirs to free.
                gc.disable()
                processes.clear()
                number, rest = rest[0], rest[1:half]
    except OSError:
        if number is None and not processes:
            raise
        # Fewer will do.
    finally:
        if number is None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return number


def _make(work: Callable[[int], Any], piece: int, number: int, file: BinaryIO, say: int) -> None:
    """Make a piece, and say where it is."""
    place, sign = file.tell(), 1
    try:
        made = pickle.dumps(work(piece), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        error.add_note(traceback.format_exc())
        made, sign = _pickled(error), -1
    file.write(made)
    file.flush()
    os.write(say, _MADE.pack(piece, number, place, sign * len(made)))


def _pickled(error: Exception) -> bytes:
    """The error, or what it says where it cannot be made again in another process."""
    try:
        made = pickle.dumps(error)
        pickle.loads(made)
    except Exception as why:
        told = RuntimeError(f"{type(error).__name__}: {error}")
        told.add_note(error.__notes__[-1])
        told.add_note(f"It is no {type(error).__name__} here: {why}")
        return pickle.dumps(told)
    return made


def _wait_for(processes: Sequence[int]) -> None:
    for process in processes:
        with suppress(ChildProcessError):
            os.waitpid(process, 0)


def _places() -> int:
    """How many processes could work at a time; 1 where processes are not forked."""
    return min(_MOST, len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1
