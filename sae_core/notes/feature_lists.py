"""Lists of features that people gather: ordered, of any SAEs, in the file of notes.

    lists = Notes.named().lists
    years = lists.make("numbers of years")
    lists.add(years, ListedFeature(sae_hash=sae_hash, sae="resid_post", feature=12))

What is read is kept in memory and read anew once the file has changed, whoever changed it.
"""

import datetime
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb

from sae_core.notes.feature_notes import one_line
from sae_core.notes.notes_file import GLANCE_SECONDS, RETRY_SECONDS, NotesFile, Topic

MOST_NAME: Final = 100
"""Characters of a list's name."""
MOST_LISTS: Final = 200
MOST_FEATURES: Final = 200
"""Features of one list: a page shows each with a context."""

TOPIC: Final = Topic(
    name="lists",
    version=1,
    tables=(
        "CREATE TABLE IF NOT EXISTS lists (list VARCHAR, name VARCHAR, changed TIMESTAMP)",
        "CREATE TABLE IF NOT EXISTS list_features (list VARCHAR, place INTEGER, sae_hash VARCHAR,"
        " sae VARCHAR, feature INTEGER)",
    ),
)

Place = tuple[str, int]
"""What tells a feature from all others: its SAE's hash and its number."""


@dataclass(frozen=True, kw_only=True)
class ListedFeature:
    """A feature in a list."""

    sae_hash: str
    sae: str
    """The name by which its SAE was served when it was added."""
    feature: int

    @property
    def place(self) -> Place:
        """Its SAE's hash and its number."""
        return self.sae_hash, self.feature


@dataclass(frozen=True, kw_only=True)
class FeatureList:
    """A list as it is kept."""

    id: str
    """Stays with it in files that people give each other."""
    name: str
    features: tuple[ListedFeature, ...]

    def holds(self, place: Place) -> bool:
        """Whether a feature is in it."""
        return any(each.place == place for each in self.features)


class FeatureLists:
    """The lists in one file; safe for any number of threads and processes."""

    def __init__(self, file: NotesFile) -> None:
        self.file = file
        self._reading = threading.Lock()
        self._stamp: tuple[Any, ...] | None = None
        self._lists: tuple[FeatureList, ...] = ()
        self._failure: tuple[ValueError, float, tuple[Any, ...]] | None = None
        """Why the file could not be read, when that was seen, and its stamps then."""

    def all(self) -> tuple[FeatureList, ...]:
        """Every list, by name. ValueError with one sentence if the file cannot be read."""
        began = time.monotonic()
        with self._reading:
            # Who waited here for one who failed would wait as long for the same.
            if self._failure and self._failure[1] >= began:
                raise ValueError(str(self._failure[0]))
            return self._read()

    def at_hand(self) -> tuple[FeatureList, ...]:
        """Every list, for what must not wait for the file: where that cannot be read soon, the
        lists are those that were read last.
        """
        if not self._reading.acquire(timeout=GLANCE_SECONDS):
            return self._lists
        try:
            if self._failure:
                _, seen, stamps = self._failure
                if time.monotonic() < seen + RETRY_SECONDS and stamps == self.file.stamps():
                    return self._lists
            return self._read(GLANCE_SECONDS)
        except ValueError:
            return self._lists
        finally:
            self._reading.release()

    def _read(self, wait: float | None = None) -> tuple[FeatureList, ...]:
        stamp, stamps = self.file.stamp(), self.file.stamps()
        if stamp is None or stamp != self._stamp:
            try:
                with self.file.reading(TOPIC, wait) as connection:
                    # Of what is read, since nobody writes inside the block.
                    stamp = self.file.stamp()
                    self._lists = read_lists(connection)
            except ValueError as error:
                self._failure = error, time.monotonic(), stamps
                raise
            self._stamp = stamp
        self._failure = None
        return self._lists

    def forget(self) -> None:
        """What is read next is read from the file."""
        with self._reading:
            self._stamp = None

    def get(self, list_id: str) -> FeatureList:
        """One of them; ValueError if there is none."""
        return _of(self.all(), list_id)

    def make(self, name: str) -> str:
        """Begin a list; returns its id. ValueError if the name is empty or too long, or there are
        too many lists.
        """
        name, list_id = list_name(name), secrets.token_hex(6)
        with self.file.transaction(TOPIC) as connection:
            insert_list(connection, FeatureList(id=list_id, name=name, features=()))
        return list_id

    def rename(self, list_id: str, name: str) -> None:
        """Give a list another name; ValueError if that is empty or too long."""
        name = list_name(name)
        with self.file.transaction(TOPIC) as connection:
            _of(read_lists(connection), list_id)
            write_name(connection, list_id, name)

    def remove(self, list_id: str) -> None:
        """Remove a list; labels and notes of its features stay."""
        with self.file.transaction(TOPIC) as connection:
            _of(read_lists(connection), list_id)
            for table in ("lists", "list_features"):
                connection.execute(f"DELETE FROM {table} WHERE list = ?", [list_id])

    def add(self, list_id: str, *features: ListedFeature) -> None:
        """Put features at the end, all or none; one that is in the list stays where it is."""

        def added(now: Sequence[ListedFeature]) -> list[ListedFeature]:
            there = _places(now)
            new = {each.place: each for each in features if each.place not in there}
            return [*now, *new.values()]

        self._change(list_id, added)

    def take(self, list_id: str, place: Place) -> None:
        """Take a feature out, if it is in."""
        self._change(list_id, lambda now: [each for each in now if each.place != place])

    def move(self, list_id: str, place: Place, to: int) -> None:
        """Put a feature of the list at another place, from 0; the others keep their order."""

        def moved(now: Sequence[ListedFeature]) -> list[ListedFeature]:
            others = [each for each in now if each.place != place]
            its = [each for each in now if each.place == place]
            return [*others[:to], *its, *others[to:]]

        self._change(list_id, moved)

    def _change(
        self,
        list_id: str,
        change: Callable[[Sequence[ListedFeature]], list[ListedFeature]],
    ) -> None:
        with self.file.transaction(TOPIC) as connection:
            before = _of(read_lists(connection), list_id)
            after = change(before.features)
            if after != list(before.features):
                write_features(connection, list_id, after)


def list_name(name: str) -> str:
    """A list's name as it is kept; ValueError if it is empty or too long."""
    line = one_line(name, MOST_NAME, "the name")
    if not line:
        raise ValueError("the list has no name: give it one.")
    return line


def read_lists(connection: duckdb.DuckDBPyConnection) -> tuple[FeatureList, ...]:
    """Within a transaction or a reading: every list, by name."""
    features: dict[str, list[ListedFeature]] = {}
    for list_id, sae_hash, sae, feature in connection.execute(
        "SELECT list, sae_hash, sae, feature FROM list_features ORDER BY place"
    ).fetchall():
        entry = ListedFeature(sae_hash=sae_hash, sae=sae, feature=feature)
        features.setdefault(list_id, []).append(entry)
    rows = connection.execute("SELECT list, name FROM lists").fetchall()
    lists = [
        FeatureList(id=list_id, name=name, features=tuple(features.get(list_id, ())))
        for list_id, name in rows
    ]
    return tuple(sorted(lists, key=lambda each: (each.name.casefold(), each.id)))


def insert_list(connection: duckdb.DuckDBPyConnection, feature_list: FeatureList) -> None:
    """Within a transaction: keep a list whose id is new; ValueError if there are too many."""
    row = connection.execute("SELECT count(*) FROM lists").fetchone()
    assert row is not None
    if row[0] >= MOST_LISTS:
        raise ValueError(f"there are {row[0]} lists already: remove one that is not needed.")
    connection.execute(
        "INSERT INTO lists VALUES (?, ?, ?)", [feature_list.id, feature_list.name, _now()]
    )
    write_features(connection, feature_list.id, feature_list.features)


def write_name(connection: duckdb.DuckDBPyConnection, list_id: str, name: str) -> None:
    """Within a transaction: the name of a list that there is."""
    connection.execute(
        "UPDATE lists SET name = ?, changed = ? WHERE list = ?", [name, _now(), list_id]
    )


def write_features(
    connection: duckdb.DuckDBPyConnection, list_id: str, features: Sequence[ListedFeature]
) -> None:
    """Within a transaction: a list's features in place of those before; ValueError for too many."""
    if len(features) > MOST_FEATURES:
        raise ValueError(f"a list holds {MOST_FEATURES} features at most: begin another one.")
    connection.execute("DELETE FROM list_features WHERE list = ?", [list_id])
    columns: Mapping[str, Any] = {
        "sae_hash": [each.sae_hash for each in features],
        "sae": [each.sae for each in features],
        "feature": [each.feature for each in features],
    }
    connection.execute(
        "INSERT INTO list_features SELECT ?, unnest(?::INTEGER[]), unnest(?::VARCHAR[]),"
        " unnest(?::VARCHAR[]), unnest(?::INTEGER[])",
        [list_id, list(range(len(features))), *columns.values()],
    )
    connection.execute("UPDATE lists SET changed = ? WHERE list = ?", [_now(), list_id])


def _of(lists: Sequence[FeatureList], list_id: str) -> FeatureList:
    chosen = next((each for each in lists if each.id == list_id), None)
    if chosen is None:
        raise ValueError("there is no such list: it may have been removed.")
    return chosen


def _places(features: Sequence[ListedFeature]) -> set[Place]:
    return {each.place for each in features}


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
