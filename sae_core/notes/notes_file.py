"""The file of what people write: `notes.duckdb`, opened for each transaction and never held.

DuckDB locks a file for one writing process, so that a server that kept it open would shut out every
other one. Here a transaction takes the lock file beside it, opens, writes, commits and closes; who
comes meanwhile waits for that. What is committed survives the process: DuckDB writes it to its log
before it answers, and whoever opens next takes it over from there.

Each topic (features, lists, ratings, ...) declares its own tables and their version; docs/notes.md
specifies those of this package.
"""

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
from filelock import FileLock, Timeout

from sae_core.files import REFUSED, atomic_write, data_folder, disk_failure, stamp_of

log = logging.getLogger(__name__)

FILE: Final = "notes.duckdb"
OFF: Final = "off"
"""In place of a file's name: nothing is kept."""
WAIT_SECONDS: Final = 20.0
"""Longest wait for others who write; a transaction takes some milliseconds."""
HELD_SECONDS: Final = 2.0
"""Longest wait of who writes for a program without our lock."""
READ_WAIT_SECONDS: Final = 5.0
"""Longest wait of who only reads for those who write."""
GLANCE_SECONDS: Final = 0.2
"""Longest wait of who only reads for a program without our lock, which may hold a file for long."""
RETRY_SECONDS: Final = 2.0
"""How long a file that could not be read is left alone."""
_POLL_SECONDS: Final = 0.01
_RACY_NS: Final = 100_000_000
"""Nanoseconds: a file changed so short a time ago may change again within one tick of its clock."""
_LIMITS: Final[dict[str, Any]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "threads": "1",
    "temp_directory": "",
}
# Read by every DuckDB from 1.2 on; small blocks waste less in small files.
_STORAGE: Final = "STORAGE_VERSION 'v1.2.0', BLOCK_SIZE 16384"
_TOPICS: Final = "CREATE TABLE IF NOT EXISTS topics (topic VARCHAR, version INTEGER)"
_HELD: Final = "Could not set lock on file"
"""DuckDB's words where another process has a file open."""
_DAMAGED: Final = (duckdb.OperationalError, duckdb.InternalError, duckdb.FatalException)
"""What it raises of a file that it cannot read; other errors are of a statement, but for those at
the opening, whatever their class (`_attach`)."""


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Tables that belong together, under one version."""

    name: str
    version: int
    tables: tuple[str, ...]
    """`CREATE TABLE IF NOT EXISTS` statements of this version."""


class NotesFile:
    """A file of notes that may not exist yet; a path of None is none, and nothing can be kept.

    Any number of threads and processes may use the same file. A block of `transaction` or `reading`
    must not begin another one.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()

    @classmethod
    def named(cls, name: str = "") -> "NotesFile":
        """The file of that name; "" is the one in the user's data folder, and `off` is none."""
        if name == OFF:
            return cls(None)
        return cls(Path(name).expanduser() if name else data_folder() / FILE)

    @contextlib.contextmanager
    def transaction(self, *topics: Topic) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to the topics' tables: what the block writes is kept whole when it ends, and
        nothing of it if it raises.

        ValueError with one sentence if nothing can be kept: notes are off, the file is damaged or
        of a newer version, the disk is full or may not be written, others write for too long.
        """
        if self.path is None:
            raise ValueError("nothing is kept, since notes are off: start without --notes off.")
        with self._locked(self.path, WAIT_SECONDS), self._failures_told(self.path):
            if not self.path.exists():
                _move_log_aside(self.path)
                # Made beside its place: a file that is there is always whole.
                with (
                    atomic_write(self.path) as temporary,
                    _opened(temporary, f"({_STORAGE})") as connection,
                ):
                    connection.execute(_TOPICS)
            with _opened(self.path, wait=HELD_SECONDS) as connection:
                connection.execute("BEGIN")
                try:
                    for topic in topics:
                        self._check(connection, topic)
                        _declare(connection, topic)
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(duckdb.Error):  # after some errors there is none
                        connection.execute("ROLLBACK")
                    raise

    @contextlib.contextmanager
    def reading(
        self, topic: Topic, wait: float | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that reads the topic's tables, which are empty where nothing was kept yet.

        No file is made but the lock. `wait` is for those who write, in seconds, READ_WAIT_SECONDS
        if None. ValueError with one sentence if the file cannot be used.
        """
        if self.path is None or not self.path.exists():
            with contextlib.closing(duckdb.connect(config=_LIMITS)) as empty:
                _declare(empty, topic, make=True)
                yield empty
            return
        with (
            self._locked(self.path, READ_WAIT_SECONDS if wait is None else wait, reads=True),
            self._failures_told(self.path),
            _opened(self.path, "(READ_ONLY)", wait=GLANCE_SECONDS) as connection,
        ):
            if self._check(connection, topic) is None:
                connection.execute("USE memory")
                _declare(connection, topic, make=True)
            yield connection

    def stamp(self) -> tuple[Any, ...] | None:
        """What changes with the file: equal stamps mean equal contents; None where that is not
        sure, because the file has changed just now.
        """
        stamps = self.stamps()
        newest = max((stamp[0] for stamp in stamps if stamp), default=0)
        return None if time.time_ns() - newest < _RACY_NS else stamps

    def stamps(self) -> tuple[tuple[int, ...] | None, ...]:
        """What changes with the file, but for changes within one tick of its clock."""
        if self.path is None:
            return ()
        return tuple(map(stamp_of, (self.path, self.path.with_name(self.path.name + ".wal"))))

    def _check(self, connection: duckdb.DuckDBPyConnection, topic: Topic) -> int | None:
        """The topic's version in the file, None if the file has not got it; ValueError if newer."""
        query = "SELECT max(version) FROM topics WHERE topic = ?"
        try:
            row = connection.execute(query, [topic.name]).fetchone()
        except duckdb.CatalogException as error:
            raise ValueError(
                f"{self.path} is no file of notes: name another one with --notes."
            ) from error
        version = row[0] if row else None
        if version is not None and version > topic.version:
            raise ValueError(
                f"{self.path} was written by a newer Jumpscope (version {version} of its "
                f"{topic.name}): use that one, or name another file with --notes."
            )
        return version

    @contextlib.contextmanager
    def _locked(self, path: Path, wait: float, *, reads: bool = False) -> Iterator[None]:
        """Nobody else writes or reads the file inside the block."""
        busy = f"{path} is being written by another program: try again when that has ended."
        if not self._lock.acquire(timeout=wait):
            raise ValueError(busy)
        lock = FileLock(path.with_name(path.name + ".lock"))
        try:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=wait, poll_interval=_POLL_SECONDS)
            except Timeout as error:
                raise ValueError(busy) from error
            except OSError as error:
                # Who may not write here cannot lock others out, but may still read.
                if not (reads and error.errno in REFUSED):
                    if sentence := disk_failure(error, path):
                        raise ValueError(sentence) from error
                    raise
            yield
        finally:
            lock.release()
            self._lock.release()

    @contextlib.contextmanager
    def _failures_told(self, path: Path) -> Iterator[None]:
        """What DuckDB and the disk say in the block, as one sentence."""
        try:
            yield
        except (duckdb.Error, OSError) as error:
            if sentence := disk_failure(error, path):
                raise ValueError(sentence) from error
            if _HELD in str(error):
                raise ValueError(
                    f"{path} is open in another program: close it there, then try again."
                ) from error
            if not isinstance(error, _DAMAGED):
                raise
            raise ValueError(
                f"{path} is damaged or was written by a newer DuckDB, and is left as it is: name "
                f"another file with --notes, or move it and {path.name}.wal away."
            ) from error


@contextlib.contextmanager
def _opened(
    path: Path, options: str = "", *, wait: float = 0.0
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The file as a connection's own database, closed after the block."""
    with contextlib.closing(duckdb.connect(config=_LIMITS)) as connection:
        name = str(path).replace("'", "''")
        _attach(connection, f"ATTACH '{name}' AS notes {options}", wait)
        connection.execute("USE notes")
        try:
            yield connection
        finally:
            # Takes the log over into the file. Where that fails, the log stays and has all.
            with contextlib.suppress(duckdb.Error):
                connection.execute("USE memory")
                connection.execute("DETACH notes")


def _attach(connection: duckdb.DuckDBPyConnection, statement: str, wait: float) -> None:
    """Attach once whoever else has the file open (a program without our lock) has closed it; for
    `wait` seconds. A duckdb.OperationalError if that fails, whatever the reason.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            connection.execute(statement)
            return
        except duckdb.Error as error:
            if _HELD not in str(error) or time.monotonic() > deadline:
                # A log that does not fit the file fails as the statement in it that does not.
                raise duckdb.OperationalError(str(error)) from error
        time.sleep(_POLL_SECONDS)


def _move_log_aside(path: Path) -> None:
    """Rename the log of a file that is no longer there: it would be taken for a new file's, and has
    what was written last to the one that it belongs to.
    """
    log_file = path.with_name(path.name + ".wal")
    if not log_file.exists():
        return
    names = (log_file.with_name(f"{log_file.name}.{n}") for n in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    log_file.rename(aside)
    log.warning(
        "%s is the log of notes that were moved away: beside those, as NAME.wal, it belongs to "
        "them.",
        aside,
    )


def _declare(connection: duckdb.DuckDBPyConnection, topic: Topic, *, make: bool = False) -> None:
    """Make the topic's tables where they lack; `make` those of a database in memory."""
    if make:
        connection.execute(_TOPICS)
    for statement in topic.tables:
        connection.execute(statement)
    connection.execute(
        "INSERT INTO topics SELECT $topic, $version WHERE NOT EXISTS"
        " (SELECT 1 FROM topics WHERE topic = $topic AND version = $version)",
        {"topic": topic.name, "version": topic.version},
    )
