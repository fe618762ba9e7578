"""Stars, labels, verdicts and notes of features: read from memory, written at once.

    notes = Notes.named()
    notes.set_label(sae_hash, 12, "numbers of years")
    notes.labels(sae_hash)[12].text

What is read is kept in memory and read anew once the file has changed, whoever changed it.
"""

import datetime
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import duckdb

from sae_core.notes.feature_lists import FeatureLists
from sae_core.notes.feature_notes import (
    MOST_LABEL,
    MOST_NOTE,
    MOST_NOTES,
    MOST_SOURCE,
    NOTHING,
    TOPIC,
    VERDICTS,
    Kind,
    Label,
    SAENotes,
    Verdict,
    one_line,
    whole_characters,
)
from sae_core.notes.notes_file import GLANCE_SECONDS, RETRY_SECONDS, NotesFile, Topic
from sae_core.notes.notes_reading import NotesReader
from sae_core.notes.saved_pages import SavedPages

log = logging.getLogger(__name__)


class Notes:
    """What is kept about features in one file; safe for any number of threads and processes."""

    def __init__(self, path: Path | None) -> None:
        self.file = NotesFile(path)
        self.lists = FeatureLists(self.file)
        self.saved = SavedPages(self.file)
        self._reader = NotesReader()
        self._reading = threading.Lock()
        self._stamp: tuple[Any, ...] | None = None
        self._awaited = True
        """Whether nothing was read since this object last wrote: who reads next waits for it."""
        self._unreadable: tuple[Any, ...] | None = None
        """The stamps of a file that could not be read, and until `_retry_at` is not tried again."""
        self._retry_at = 0.0
        self._saes: Mapping[str, SAENotes] = {}
        self._problem = ""

    @classmethod
    def named(cls, name: str = "") -> "Notes":
        """Those of a file; "" is the one in the user's data folder, and `off` keeps nothing."""
        return cls(NotesFile.named(name).path)

    @property
    def kept(self) -> bool:
        """Whether anything can be kept."""
        return self.file.path is not None

    @property
    def empty(self) -> bool:
        """Whether nothing is kept about any feature."""
        self._read()
        return not self._saes

    @property
    def problem(self) -> str:
        """Why the file could not be read when that was last tried; "" if it could."""
        self._read()
        return self._problem

    def transaction(self, *topics: Topic) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """`NotesFile.transaction`: writes to the tables of topics."""
        return self.file.transaction(*topics)

    def reading(self, topic: Topic) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """`NotesFile.reading`: reads the tables of a topic."""
        return self.file.reading(topic)

    def of(self, sae_hash: str) -> SAENotes:
        """All about the features of an SAE; what was read last if the file cannot be read now."""
        self._read()
        return self._saes.get(sae_hash, NOTHING)

    def labels(self, sae_hash: str) -> Mapping[int, Label]:
        """The label that is shown of each feature that has one."""
        return self.of(sae_hash).labels

    def set(
        self,
        sae_hash: str,
        feature: int,
        *,
        label: str | None = None,
        starred: bool | None = None,
        verdict: Verdict | None = None,
        note: str | None = None,
    ) -> None:
        """Keep what is given of a feature, together or not at all; None stays as it is, and an
        empty text is removed. `label` is your own.

        ValueError if a text is too long, or nothing can be kept.
        """
        given = {"starred": starred, "verdict": verdict, "note": note}
        values = {name: value for name, value in given.items() if value is not None}
        line = None if label is None else one_line(label, MOST_LABEL, "the label")
        if verdict and verdict not in VERDICTS:
            raise ValueError(
                f"the verdict is {verdict[:40]!r}: use one of {', '.join(VERDICTS)}, or none."
            )
        if note and len(whole_characters(note, "the note")) > MOST_NOTE:
            raise ValueError(
                f"the note has {len(note)} characters but may have {MOST_NOTE}: shorten it."
            )
        with self.transaction(TOPIC) as connection:
            if line is not None:
                write_labels(connection, sae_hash, {feature: line}, "yours", "")
            if values:
                write_features(connection, sae_hash, {feature: values})
        self.forget()

    def set_label(
        self,
        sae_hash: str,
        feature: int,
        text: str,
        kind: Kind = "yours",
        source: str = "",
    ) -> None:
        """Keep a label in place of the one of that kind and source; an empty text removes it.

        ValueError if it is too long, or nothing can be kept.
        """
        self.set_labels(sae_hash, {feature: text}, kind, source)

    def set_labels(
        self, sae_hash: str, texts: Mapping[int, str], kind: Kind = "yours", source: str = ""
    ) -> None:
        """`set_label` of many features, kept together or not at all."""
        lines = {i: one_line(text, MOST_LABEL, "the label") for i, text in texts.items()}
        with self.transaction(TOPIC) as connection:
            write_labels(connection, sae_hash, lines, kind, source)
        self.forget()

    def set_star(self, sae_hash: str, feature: int, starred: bool) -> None:
        """Star a feature, or take its star away."""
        self.set(sae_hash, feature, starred=starred)

    def set_verdict(self, sae_hash: str, feature: int, verdict: Verdict) -> None:
        """Keep how many meanings it has; "" takes the verdict back. ValueError for other words."""
        self.set(sae_hash, feature, verdict=verdict)

    def set_note(self, sae_hash: str, feature: int, note: str) -> None:
        """Keep a text of any number of lines; "" removes it. ValueError if it is too long."""
        self.set(sae_hash, feature, note=note)

    def forget(self) -> None:
        """What is read next is read from the file."""
        with self._reading:
            self._stamp, self._unreadable, self._awaited = None, None, True

    def _read(self) -> None:
        """Read the file if it has changed. While another thread does, what was read before stands,
        unless this object has written since.
        """
        if not self._reading.acquire(blocking=self._awaited):
            return
        try:
            stamp, stamps = self.file.stamp(), self.file.stamps()
            if stamp is not None and stamp == self._stamp:
                return
            if stamps == self._unreadable and time.monotonic() < self._retry_at:
                return
            try:
                wait = None if self._awaited else GLANCE_SECONDS
                with self.file.reading(TOPIC, wait) as connection:
                    # Of what is read, since nobody writes inside the block.
                    stamp = self.file.stamp()
                    self._saes = self._reader.read(connection)
            except (ValueError, duckdb.Error) as error:
                said = " ".join(str(error).split())
                if said != self._problem:
                    log.warning("%s", said)
                self._problem, self._stamp, self._unreadable = said, None, stamps
                self._retry_at = time.monotonic() + RETRY_SECONDS
            else:
                self._problem, self._stamp, self._unreadable = "", stamp, None
            self._awaited = False
        finally:
            self._reading.release()


def write_labels(
    connection: duckdb.DuckDBPyConnection,
    sae_hash: str,
    lines: Mapping[int, str],
    kind: Kind,
    source: str,
) -> None:
    """Within a transaction: labels in place of those of that kind and source; "" removes one.

    ValueError for a source that cannot be shown.
    """
    source = one_line(source, MOST_SOURCE, "the source of a label")
    kept = {feature: line for feature, line in lines.items() if line}
    connection.execute(
        "DELETE FROM labels WHERE sae_hash = ? AND kind = ? AND source = ?"
        " AND feature IN (SELECT unnest(?::INTEGER[]))",
        [sae_hash, kind, source, list(lines)],
    )
    connection.execute(
        "INSERT INTO labels SELECT ?, unnest(?::INTEGER[]), ?, ?, unnest(?::VARCHAR[]), ?",
        [sae_hash, list(kept), kind, source, list(kept.values()), _now()],
    )


def write_features(
    connection: duckdb.DuckDBPyConnection,
    sae_hash: str,
    features: Mapping[int, Mapping[str, Any]],
) -> None:
    """Within a transaction: set `starred`, `verdict` or `note` of features, the others staying.

    ValueError if more than MOST_NOTES of the SAE's features had a note then.
    """
    for feature, values in features.items():
        there = [sae_hash, feature]
        row = connection.execute(
            "SELECT starred, verdict, note FROM features WHERE sae_hash = ? AND feature = ?", there
        ).fetchone()
        before = zip(("starred", "verdict", "note"), row or (False, "", ""), strict=True)
        after: dict[str, Any] = {**dict(before), **values}
        connection.execute("DELETE FROM features WHERE sae_hash = ? AND feature = ?", there)
        if any(after.values()):
            connection.execute(
                "INSERT INTO features VALUES (?, ?, ?, ?, ?, ?)",
                [*there, after["starred"], after["verdict"], after["note"], _now()],
            )
    if any(values.get("note") for values in features.values()):
        row = connection.execute(
            "SELECT count(*) FROM features WHERE sae_hash = ? AND note != ''", [sae_hash]
        ).fetchone()
        if row and row[0] > MOST_NOTES:
            raise ValueError(
                f"{MOST_NOTES:,} features of an SAE may have a note, and {row[0]:,} would: "
                "remove some."
            )


def _now() -> datetime.datetime:
    """This moment in UTC, as a TIMESTAMP holds it."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
