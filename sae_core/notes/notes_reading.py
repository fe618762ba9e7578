"""All that is kept about features, read from their file; what has not changed is read once.

An SAE may have a hundred thousand imported labels, and after each star that somebody sets all of
them would be read anew. The rows are told apart by blocks of feature numbers: a hash over the rows
of each block, which DuckDB computes in milliseconds, says which have changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import duckdb

from sae_core.notes.feature_notes import FeatureNote, Label, SAENotes, ordered_labels, sae_notes

T = TypeVar("T")
_BITS: Final = 10
"""A block has 1024 features: shifted by so many bits, also one below 0 has the same block in Python
as in SQL."""
_LABELS: Final = "labels", ("kind", "source", "label", "changed")
_FEATURES: Final = "features", ("starred", "verdict", "note", "changed")
_Key = tuple[str, int]
"""An SAE's hash and a block's number."""


@dataclass
class _Blocks(Generic[T]):
    """What was read of a table, by blocks."""

    hashes: dict[_Key, Any] = field(default_factory=dict)
    values: dict[_Key, Mapping[int, T]] = field(default_factory=dict)

    def by_sae(self) -> dict[str, dict[int, T]]:
        """What there is of each feature, by the hashes of SAEs."""
        every: dict[str, dict[int, T]] = {}
        for (sae_hash, _), features in self.values.items():
            every.setdefault(sae_hash, {}).update(features)
        return every


class NotesReader:
    """Reads the same file again and again; for one thread at a time."""

    def __init__(self) -> None:
        self._labels: _Blocks[tuple[Label, ...]] = _Blocks()
        self._features: _Blocks[FeatureNote] = _Blocks()

    def read(self, connection: duckdb.DuckDBPyConnection) -> dict[str, SAENotes]:
        """Within a transaction or a reading: all that is kept, by the hashes of SAEs."""
        labels: dict[_Key, dict[int, list[Label]]]
        labels, hashes = _changed(connection, _LABELS, self._labels.hashes)
        for row in _rows(connection, _LABELS, labels):
            sae_hash, feature, kind, source, text, changed = row
            label = Label(text=text, kind=kind, source=source, time=changed)
            block = labels[sae_hash, feature >> _BITS]
            block.setdefault(feature, []).append(label)
        ordered = {key: ordered_labels(block) for key, block in labels.items()}
        self._labels = _taken_over(self._labels, hashes, ordered)

        features: dict[_Key, dict[int, FeatureNote]]
        features, hashes = _changed(connection, _FEATURES, self._features.hashes)
        for row in _rows(connection, _FEATURES, features):
            sae_hash, feature, starred, verdict, note, changed = row
            note = FeatureNote(starred=starred, verdict=verdict, note=note, time=changed)
            features[sae_hash, feature >> _BITS][feature] = note
        self._features = _taken_over(self._features, hashes, features)

        every_label, every_feature = self._labels.by_sae(), self._features.by_sae()
        return {
            sae_hash: sae_notes(every_label.get(sae_hash, {}), every_feature.get(sae_hash, {}))
            for sae_hash in {**every_label, **every_feature}
        }


def all_notes(connection: duckdb.DuckDBPyConnection) -> dict[str, SAENotes]:
    """Within a transaction or a reading: all that is kept, by the hashes of SAEs."""
    return NotesReader().read(connection)


def _changed(
    connection: duckdb.DuckDBPyConnection,
    table: tuple[str, tuple[str, ...]],
    before: Mapping[_Key, Any],
) -> tuple[dict[_Key, dict[int, Any]], dict[_Key, Any]]:
    """An empty dict for each block that is not as it was, and the hashes of all that there are."""
    name, columns = table
    # A sum, since equal rows would take each other away from a bit_xor.
    rows = connection.execute(
        f"SELECT sae_hash, feature >> {_BITS} AS block, count(*),"
        f" sum(hash(feature, {', '.join(columns)})) FROM {name} GROUP BY sae_hash, block"
    ).fetchall()
    hashes = {(sae_hash, block): (count, total) for sae_hash, block, count, total in rows}
    return {key: {} for key, value in hashes.items() if before.get(key) != value}, hashes


def _rows(
    connection: duckdb.DuckDBPyConnection,
    table: tuple[str, tuple[str, ...]],
    blocks: Mapping[_Key, Any],
) -> list[tuple[Any, ...]]:
    """The rows of these blocks."""
    name, columns = table
    return connection.execute(
        f"SELECT sae_hash, feature, {', '.join(columns)} FROM {name} SEMI JOIN"
        " (SELECT unnest(?::VARCHAR[]) AS of_sae, unnest(?::INTEGER[]) AS block)"
        f" ON sae_hash = of_sae AND feature >> {_BITS} = block",
        [[sae_hash for sae_hash, _ in blocks], [block for _, block in blocks]],
    ).fetchall()


def _taken_over(
    before: _Blocks[T], hashes: dict[_Key, Any], read: Mapping[_Key, Mapping[int, T]]
) -> _Blocks[T]:
    """What was read now, and what stands from before."""
    values = {key: read[key] if key in read else before.values[key] for key in hashes}
    return _Blocks(hashes=hashes, values=values)
