"""The tables of an index file, how one is written, and how one is opened.

docs/format.md specifies the file. All SQL that makes or opens one is here; `store.py` reads it.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from sae_core.files import atomic_write, disk_failure, remove_leftovers

SCHEMA_VERSION = 3
READ_VERSIONS = (1, 2, 3)
"""Schemas that are read; `store.py` turns what the first has in another unit into today's."""
SCORES = ("output_score", "side_effect")
"""Columns of `features` that schemas before 3 do not have."""

TABLES = {
    "meta": "key VARCHAR, value VARCHAR",
    "arrays": "name VARCHAR, data BLOB",
    "documents": "document INTEGER, number BIGINT, title VARCHAR, source INTEGER, license VARCHAR",
    "vocabulary": "token INTEGER, text VARCHAR, bytes BLOB",
    "features": (
        "feature INTEGER, signature VARCHAR, active_tokens BIGINT, max_act FLOAT, mean_act FLOAT,"
        " threshold FLOAT, concentration FLOAT, early_share FLOAT, tokens INTEGER[],"
        " output_score FLOAT, side_effect FLOAT"
    ),
    "pages": "page INTEGER, data BLOB",
    "token_blocks": "block INTEGER, data BLOB",
}
"""Table -> its columns."""
_PACKED = ("arrays", "pages", "token_blocks")
"""Tables whose blobs are compressed already. DuckDB would put 2,048 of them into one frame, for no
gain, and read half of it for each: at a million features 35 MB to show one."""

ARRAYS = {
    "mean_activation": "<f4",
    "token_counts": "<u8",
    "segment_length": "<u4",
    "segment_document": "<u4",
    "segment_skip": "<u4",
    "histogram_exponent": "<i2",
    "histogram_width": "<f4",
}
"""Rows of the table `arrays` -> dtype of what `arrays.pack` made of them."""

MAP = "map"
"""Row of `arrays` and entry of `meta` that an index without a map of its features lacks."""

GATHERED = {"listed_count": "<u4", "strongest_place": "<u4"}
"""Rows of `arrays` that only indexes of many pages have, and may lack: what a
search would else gather from every page."""

STORAGE = "STORAGE_VERSION 'v1.2.0', BLOCK_SIZE 16384, ROW_GROUP_SIZE 8192"
"""Read by every DuckDB from 1.2 on; small blocks waste less, full groups are written early."""
_MAJOR = int(duckdb.__version__.partition(".")[0])
_UNLOGGED = ", RECOVERY_MODE NO_WAL_WRITES" if _MAJOR >= 2 else ""
"""A file that takes its name when it is whole needs no log, which would be as long as the file."""
_ROWS_AT_ONCE = 10_000
_STREAMED = 256
_LIMITS: dict[str, Any] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "threads": "1",
    "memory_limit": "512MB",
    "temp_directory": "",
}
_HARDENED = (
    "USE index_file",
    "DETACH memory",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
"""What leaves a connection nothing but the file that it has attached as `index_file`."""
_REBUILD = "build it again with jumpscope index."
# DuckDB's words: it has one class of errors for all that a file can be.
_HOLDER = re.compile(r"held in (\S+) \(PID (\d+)\)")
_NEWER = re.compile(r"newer version of DuckDB|can only read version")


class IndexWriter:
    """Fills the tables of a new file, column by column."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    @contextmanager
    def another(self) -> Iterator["IndexWriter"]:
        """One that fills other tables at the same time, on a thread of its own."""
        with self._connection.cursor() as connection:
            yield IndexWriter(connection)

    def insert(self, table: str, *columns: Sequence[Any]) -> None:
        """Add rows given as one Python list per column."""
        definitions = _split(TABLES[table])
        assert len(columns) == len(definitions)
        values = ", ".join(f"unnest(?::{definition.split()[1]}[])" for definition in definitions)
        statement = f"INSERT INTO new.{table} SELECT {values}"
        for first in range(0, len(columns[0]), _ROWS_AT_ONCE):
            part = [list(column[first : first + _ROWS_AT_ONCE]) for column in columns]
            self._connection.execute(statement, part)

    def insert_arrays(
        self,
        table: str,
        columns: Mapping[str, np.ndarray],
        lists: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> None:
        """Add rows given as one array per column, which takes a hundredth of the time.

        The first column is a key that ascends. NaN becomes NULL, and so do empty bytes. `lists`:
        columns of lists, as the key of each element's row and the elements, row after row.
        """
        lists = lists or {}
        definitions = dict(definition.split() for definition in _split(TABLES[table]))
        assert set(definitions) == {*columns, *lists}
        key = next(iter(columns.values()))
        assert bool((key[1:] > key[:-1]).all())
        given = dict(columns)
        values = []
        for name, kind in definitions.items():
            if name in lists:
                given |= _spread(name, key, *lists[name])
                elements = [each for each in given if each.startswith(f"{name}_at_")]
                values.append(f"[{', '.join(elements)}][1:{name}_length]::{kind}")
            elif columns[name].dtype.kind == "f":
                values.append(f"nullif({name}::{kind}, 'nan'::{kind})")
            elif kind == "BLOB":
                values.append(f"nullif({name}::{kind}, ''::{kind})")
            else:
                values.append(f"{name}::{kind}")
        self._connection.register("given", given)
        self._connection.execute(f"INSERT INTO new.{table} SELECT {', '.join(values)} FROM given")
        self._connection.unregister("given")


def _spread(
    name: str, key: np.ndarray, owner: np.ndarray, element: np.ndarray
) -> dict[str, np.ndarray]:
    """Lists as a column for each place in them, and one of their lengths: DuckDB makes lists of
    these many times as fast as of rows that it has to group.
    """
    row = np.searchsorted(key, owner)
    length = np.bincount(row, minlength=len(key))
    place = np.arange(len(row)) - (np.cumsum(length) - length)[row]
    columns = np.zeros((int(length.max(initial=0)), len(key)), element.dtype)
    columns[place, row] = element
    return {f"{name}_length": length} | {f"{name}_at_{n}": each for n, each in enumerate(columns)}


def quoted(path: Path) -> str:
    """A path between the quotes of a statement."""
    return str(path).replace("'", "''")


def _split(columns: str) -> list[str]:
    return [column.strip() for column in columns.split(",")]


def check_name(path: Path) -> None:
    """ValueError for a path that DuckDB does not open under its name."""
    if os.sep == "/" and "\\" in str(path):
        raise ValueError(
            f"{path} has a backslash in its name, which DuckDB takes for a slash: rename it."
        )


@contextmanager
def create(path: Path) -> Iterator[IndexWriter]:
    """Yield a writer of a new index that takes the place of `path` if the block succeeds. One at a
    time writes it (`only_build`): what lies beside it is of a build that was killed, and removed.
    """
    check_name(path)
    # A process in a container often has the number of the one before it, and so its file's name.
    remove_leftovers(path)
    with atomic_write(path) as temporary, duckdb.connect() as connection:
        name = quoted(temporary)
        try:
            # What memory does not hold goes where there must be room for the index, not into the
            # folder that the command was given in.
            connection.execute(f"SET temp_directory = '{name}.rest'")
            # Once, at the end: of each before it parts would stay behind that nothing uses.
            connection.execute("SET checkpoint_threshold = '1TB'")
            connection.execute(f"ATTACH '{name}' AS new ({STORAGE}{_UNLOGGED})")
            for table, columns in TABLES.items():
                if table in _PACKED:
                    columns = columns.replace("BLOB", "BLOB USING COMPRESSION uncompressed")
                connection.execute(f"CREATE TABLE new.{table} ({columns})")
            yield IndexWriter(connection)
            _close(connection)
        finally:
            # DuckDB's log of an unfinished transaction.
            temporary.with_name(temporary.name + ".wal").unlink(missing_ok=True)


def _close(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("CHECKPOINT new")
    connection.execute("DETACH new")


class IndexBusyError(ValueError):
    """Another program has the index open for writing; nothing is wrong with it."""


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open an index for reading alone: no other file, no network, no extension, no settings.

    It is the file that stands at `path` now: who has opened an earlier one goes on with that.
    Raises IndexBusyError if a program has it open for writing, and else ValueError with one
    sentence if the file is missing, damaged, no index, or an index of another schema.
    """
    if not path.is_file():
        raise ValueError(f"there is no index at {path}: build one with jumpscope index.")
    check_name(path)
    try:
        connection = _attached(path)
    except duckdb.Error as error:
        raise _not_opened(path, error) from error
    try:
        _check(connection, path)
    except duckdb.Error as error:
        connection.close()
        raise ValueError(f"{path} is damaged or no index: {_REBUILD}") from error
    except ValueError:
        connection.close()
        raise
    return connection


def _attached(path: Path) -> duckdb.DuckDBPyConnection:
    """A connection whose only database is the file.

    Within a process, `duckdb.connect(path)` gives whoever comes later the file that was first
    opened under that path, also where another one has taken its place; attaching does not.
    """
    connection = duckdb.connect(config=_LIMITS)
    try:
        connection.execute(f"ATTACH '{quoted(path)}' AS index_file (READ_ONLY)")
        for statement in _HARDENED:
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def attach_for_queries(
    path: Path,
    prepare: Callable[[duckdb.DuckDBPyConnection], None],
    *,
    memory_mb: int | None = None,
    writes: Path | None = None,
    hardened: bool = True,
) -> duckdb.DuckDBPyConnection:
    """A connection for queries that somebody writes, with what `prepare` puts beside the tables.

    It has `memory_mb` (10^6 bytes) of memory, DuckDB's own choice for None, and where it is
    `hardened` it reaches no other file than the one that it `writes`. One thread, since what is
    prepared need not be safe in several.
    """
    memory = {"memory_limit": f"{memory_mb}MB"} if memory_mb else {}
    limits = {name: value for name, value in _LIMITS.items() if name != "memory_limit"}
    connection = duckdb.connect(config=limits | memory)
    try:
        connection.execute(f"ATTACH '{quoted(path)}' AS index_file (READ_ONLY)")
        # Names in a query are those of tables, never of variables of this program.
        connection.execute("SET python_enable_replacements = false")
        connection.execute(_HARDENED[0])
        prepare(connection)
        if writes is not None:
            connection.execute(f"SET allowed_paths = ['{quoted(writes)}']")
        for statement in _HARDENED[1:] if hardened else _HARDENED[1:2]:
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def _not_opened(path: Path, error: duckdb.Error) -> ValueError:
    """What DuckDB's refusal to open a file means."""
    said = str(error)
    if "Could not set lock" in said or "different configuration" in said:
        holder = _HOLDER.search(said)
        named = f" ({Path(holder[1]).name}, PID {holder[2]})" if holder else ""
        return IndexBusyError(
            f"{path} is in use: a program{named} has it open for writing; close it there, then "
            "try again."
        )
    if _NEWER.search(said):
        return ValueError(
            f"{path} was written by a newer DuckDB than the {duckdb.__version__} here: install a "
            f"newer one (pip install -U duckdb), or {_REBUILD}"
        )
    if isinstance(error, duckdb.IOException) and disk_failure(error):
        return ValueError(f"{path} cannot be read: this user has no right to it.")
    return ValueError(f"{path} is damaged or no index: {_REBUILD}")


def _check(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """ValueError unless the tables are there in a schema that is read, and the file is whole."""
    rows = connection.execute(
        "SELECT c.table_name, c.column_name FROM duckdb_columns() c JOIN duckdb_tables() t USING "
        "(table_oid)"
    ).fetchall()
    if "meta" not in {table for table, _ in rows}:
        raise ValueError(f"{path} is no index: {_REBUILD}")
    version = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    if version is None or version[0] not in map(str, READ_VERSIONS):
        other = "unknown" if version is None else version[0]
        supported = " and ".join(map(str, READ_VERSIONS))
        newer = other.isdigit() and int(other) > SCHEMA_VERSION
        what = f"install a newer Jumpscope, or {_REBUILD}" if newer else _REBUILD
        raise ValueError(
            f"{path} has index schema {other[:20]} but this version reads {supported}: {what}"
        )
    columns = {
        (table, definition.split()[0])
        for table, definitions in TABLES.items()
        for definition in _split(definitions)
    }
    if int(version[0]) < 3:
        columns -= {("features", column) for column in SCORES}
    if not columns <= set(rows):
        raise ValueError(f"{path} is no index: {_REBUILD}")
    # A copy that broke off opens all the same: what is missing would be missed on some page later.
    sizes = "SELECT block_size, total_blocks FROM pragma_database_size()"
    row = connection.execute(sizes).fetchone()
    assert row is not None
    if os.path.getsize(path) < row[0] * row[1]:
        raise ValueError(f"{path} is cut off: copy it again, or {_REBUILD}")


@contextmanager
def _cursor(
    connection: duckdb.DuckDBPyConnection, path: Path
) -> Iterator[duckdb.DuckDBPyConnection]:
    """One for a query, as no connection is safe across threads; its errors are one sentence."""
    with connection.cursor() as cursor:
        try:
            if _MAJOR < 2:  # whose cursors begin in `memory`, which is not there any more
                cursor.execute(_HARDENED[0])
            yield cursor
        except duckdb.ConnectionException:
            raise  # the index was closed: a bug, not a damaged file
        except duckdb.Error as error:
            raise ValueError(damaged(path)) from error


def rows_of(
    connection: duckdb.DuckDBPyConnection, path: Path, statement: str, arguments: Any = None
) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    with _cursor(connection, path) as cursor:
        return cursor.execute(statement, arguments).fetchall()


def streamed(
    connection: duckdb.DuckDBPyConnection, path: Path, statement: str
) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, of which only some are in memory at a time."""
    with _cursor(connection, path) as cursor:
        cursor.execute(statement)
        while rows := cursor.fetchmany(_STREAMED):
            yield from rows


def columns_of(
    connection: duckdb.DuckDBPyConnection, path: Path, statement: str
) -> dict[str, np.ndarray]:
    """A query's columns of numbers. NULL is NaN, and so a column with one is float64; NaN, which
    nothing writes, is infinity, so that no check takes it for NULL.
    """
    with _cursor(connection, path) as cursor:
        columns = cursor.execute(statement).fetchnumpy()
    return {name: _numbers(column) for name, column in columns.items()}


def _numbers(column: Any) -> np.ndarray:
    values = np.array(np.ma.getdata(column))
    if values.dtype.kind == "f":
        values[np.isnan(values)] = np.inf
    missing = np.ma.getmaskarray(column)
    return np.where(missing, np.nan, values) if missing.any() else values


def damaged(path: Path, error: Exception | None = None) -> str:
    """The sentence for a file that cannot be read or cannot be true, with what is wrong with it."""
    if str(error).startswith(str(path)):
        return str(error)  # it is that sentence
    # Of the errors that damaged bytes make, only our own checks' can be understood.
    reason = f" ({error})" if type(error) is ValueError else ""
    return f"{path} is damaged: build it again with jumpscope index{reason}."
