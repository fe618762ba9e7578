"""Giving an index that exists what it lacks: output scores, and a map of its features.

A copy is changed and takes the place of the file, so readers see the old one or the new one.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from sae_core.files import atomic_write, remove_leftovers
from sae_core.index.arrays import pack
from sae_core.index.map_reader import PLACES, FeatureMap
from sae_core.index.schema import MAP, SCHEMA_VERSION, SCORES, STORAGE, quoted


def put_scores(
    path: Path,
    score: Sequence[float | None],
    side_effect: Sequence[float | None],
    entries: Mapping[str, Any],
) -> None:
    """Give the index at `path`, of any schema that is read, these numbers of its features 0, 1, ...
    and meta entries; its schema becomes today's, and everything else stays.
    """
    with _changed(path) as connection:
        for column in SCORES:
            connection.execute(f"ALTER TABLE features ADD COLUMN IF NOT EXISTS {column} FLOAT")
        connection.execute(
            "UPDATE features SET output_score = given.score, side_effect = given.effect"
            " FROM (SELECT unnest(?::INTEGER[]) AS id, unnest(?::FLOAT[]) AS score,"
            " unnest(?::FLOAT[]) AS effect) AS given WHERE features.feature = given.id",
            [list(range(len(score))), list(score), list(side_effect)],
        )
        _put_entries(connection, {**entries, "schema_version": SCHEMA_VERSION})


def put_map(path: Path, feature_map: FeatureMap) -> None:
    """Give the index at `path`, of any schema that is read, this map in place of any that it has;
    everything else stays, its schema too.
    """
    with _changed(path) as connection:
        connection.execute("DELETE FROM arrays WHERE name = ?", [MAP])
        connection.execute(
            "INSERT INTO arrays VALUES (?, ?)", [MAP, pack(feature_map.places, PLACES)]
        )
        _put_entries(connection, {MAP: feature_map.settings})


@contextmanager
def _changed(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a copy of the index; what the block makes of it takes its place.

    It is written anew: DuckDB takes the free end off a changed file but goes on to count it, so
    that one could not be told from a file that was cut off. One at a time changes an index
    (`only_build`), so what lies beside it is of a change that was broken off, and removed.
    """
    remove_leftovers(path)
    with atomic_write(path) as temporary:
        copied = temporary.with_name(f"{temporary.name}.copy")
        try:
            shutil.copyfile(path, copied)
            with duckdb.connect() as connection:
                connection.execute(f"ATTACH '{quoted(copied)}' AS old")
                connection.execute("USE old")
                yield connection
                connection.execute(f"ATTACH '{quoted(temporary)}' AS new ({STORAGE})")
                connection.execute("COPY FROM DATABASE old TO new")
                connection.execute("CHECKPOINT new")
                connection.execute("DETACH new")
        finally:
            for leftover in (copied, *(Path(f"{each}.wal") for each in (copied, temporary))):
                leftover.unlink(missing_ok=True)


def _put_entries(connection: duckdb.DuckDBPyConnection, entries: Mapping[str, Any]) -> None:
    """Meta entries in place of those of the same keys."""
    values = [json.dumps(value, allow_nan=False) for value in entries.values()]
    connection.execute("DELETE FROM meta WHERE list_contains(?, key)", [list(entries)])
    connection.execute(
        "INSERT INTO meta SELECT unnest(?::VARCHAR[]), unnest(?::VARCHAR[])",
        [list(entries), values],
    )
