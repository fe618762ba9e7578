"""The tables of an index file, how one is written, and how one is opened.

docs/format.md specifies the file. All SQL that makes or opens one is here; `store.py` reads it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from sae_core.files import atomic_write

SCHEMA_VERSION = 2
READ_VERSIONS = (1, 2)
"""Schemas that are read; `store.py` turns what the first has in another unit into today's."""

TABLES = {
    "meta": "key VARCHAR, value VARCHAR",
    "arrays": "name VARCHAR, data BLOB",
    "documents": "document INTEGER, number BIGINT, title VARCHAR, source INTEGER, license VARCHAR",
    "vocabulary": "token INTEGER, text VARCHAR, bytes BLOB",
    "features": (
        "feature INTEGER, signature VARCHAR, active_tokens BIGINT, max_act FLOAT, mean_act FLOAT,"
        " threshold FLOAT, concentration FLOAT, early_share FLOAT, tokens INTEGER[]"
    ),
    "pages": "page INTEGER, data BLOB",
    "token_blocks": "block INTEGER, data BLOB",
}
"""Table -> its columns."""

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

# Read by every DuckDB from 1.2 on; small blocks waste less in small files.
_STORAGE = "STORAGE_VERSION 'v1.2.0', BLOCK_SIZE 16384"
_ROWS_AT_ONCE = 10_000
_HARDENED: dict[str, Any] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "threads": "1",
    "memory_limit": "512MB",
    "lock_configuration": "true",
}
_REBUILD = "build it again with jumpscope index."


class IndexWriter:
    """Fills the tables of a new file, column by column."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def insert(self, table: str, *columns: Sequence[Any]) -> None:
        """Add rows given as one Python list per column."""
        definitions = _split(TABLES[table])
        assert len(columns) == len(definitions)
        values = ", ".join(f"unnest(?::{definition.split()[1]}[])" for definition in definitions)
        statement = f"INSERT INTO new.{table} SELECT {values}"
        for first in range(0, len(columns[0]), _ROWS_AT_ONCE):
            part = [list(column[first : first + _ROWS_AT_ONCE]) for column in columns]
            self._connection.execute(statement, part)


def _split(columns: str) -> list[str]:
    return [column.strip() for column in columns.split(",")]


@contextmanager
def create(path: Path) -> Iterator[IndexWriter]:
    """Yield a writer of a new index that takes the place of `path` if the block succeeds."""
    with atomic_write(path) as temporary, duckdb.connect() as connection:
        quoted = str(temporary).replace("'", "''")
        try:
            connection.execute(f"ATTACH '{quoted}' AS new ({_STORAGE})")
            for table, columns in TABLES.items():
                connection.execute(f"CREATE TABLE new.{table} ({columns})")
            yield IndexWriter(connection)
            connection.execute("CHECKPOINT new")
            connection.execute("DETACH new")
        finally:
            # DuckDB's log of an unfinished transaction.
            temporary.with_name(temporary.name + ".wal").unlink(missing_ok=True)


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open an index for reading alone: no other file, no network, no extension, no settings.

    Raises ValueError with one sentence if the file is missing, damaged, no index, or an index of
    another schema.
    """
    if not path.is_file():
        raise ValueError(f"there is no index at {path}: build one with jumpscope index.")
    try:
        connection = duckdb.connect(str(path), read_only=True, config=_HARDENED)
    except duckdb.Error as error:
        raise ValueError(f"{path} is damaged or no index: {_REBUILD}") from error
    try:
        _check(connection, path)
    except duckdb.Error as error:
        connection.close()
        raise ValueError(f"{path} is damaged or no index: {_REBUILD}") from error
    except ValueError:
        connection.close()
        raise
    return connection


def _check(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    tables = {
        name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    }
    if not tables >= set(TABLES):
        raise ValueError(f"{path} is no index: {_REBUILD}")
    version = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    if version is None or version[0] not in map(str, READ_VERSIONS):
        other = "unknown" if version is None else version[0]
        supported = " and ".join(map(str, READ_VERSIONS))
        raise ValueError(
            f"{path} has index schema {other} but this version reads {supported}: {_REBUILD}"
        )
    # A copy that broke off opens all the same: what is missing would be missed on some page later.
    row = connection.execute(
        "SELECT block_size, total_blocks FROM pragma_database_size()"
    ).fetchone()
    assert row is not None
    if os.path.getsize(path) < row[0] * row[1]:
        raise ValueError(f"{path} is cut off: copy it again, or {_REBUILD}")
