"""Notes as one JSON file that people give each other, and how another's become yours.

    {"format": "jumpscope-notes", "version": 1,
     "saes": {HASH: {"12": {"label", "starred", "verdict", "note"}, ...}, ...}}

What is yours stays: another's label is kept beside yours with the file as its source, and a verdict
or note only where you have none. Where both have one and they differ, that is a conflict, which is
told, and which can be decided for theirs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from sae_core.files import atomic_write, is_version
from sae_core.notes.feature_notes import (
    MOST_LABEL,
    MOST_NOTE,
    NOTHING,
    TOPIC,
    VERDICTS,
    SAENotes,
    one_line,
    whole_characters,
)
from sae_core.notes.kept_notes import Notes, write_features, write_labels
from sae_core.notes.label_files import LabelRow
from sae_core.notes.notes_reading import all_notes

FORMAT: Final = "jumpscope-notes"
VERSION: Final = 1
_LAST: Final = 2**31 - 1
_KEYS: Final = ("label", "verdict", "note")


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Something that you and a file say differently of one feature."""

    sae_hash: str
    feature: int
    what: str
    """label, verdict or note."""
    yours: str
    theirs: str


def exported(notes: SAENotes) -> dict[str, dict[str, Any]]:
    """What is kept about an SAE's features as JSON has it, by number; your own labels, or the one
    that is shown where you gave none.
    """
    features = {}
    for feature in sorted({*notes.labels, *notes.features}):
        label, note = notes.labels.get(feature), notes.features.get(feature)
        row = {
            "label": label.text if label else "",
            "starred": bool(note and note.starred),
            "verdict": note.verdict if note else "",
            "note": note.note if note else "",
        }
        features[str(feature)] = {key: value for key, value in row.items() if value}
    return features


def write_notes(path: Path, saes: Mapping[str, SAENotes]) -> None:
    """Write what is kept about SAEs, by their hashes; ValueError if the disk refuses it."""
    whole = {
        "format": FORMAT,
        "version": VERSION,
        "saes": {sae_hash: exported(notes) for sae_hash, notes in saes.items()},
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(whole, indent=1, ensure_ascii=False), encoding="utf-8")


def read_notes(path: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """What a file says of features, by hash and number; ValueError with one sentence if it is none
    of `write_notes`, or of a newer version.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file of notes.") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise ValueError(f"{path} is no JSON file of notes.")
    if not is_version(whole.get("version"), VERSION):
        raise ValueError(f"{path} was written by another version of Jumpscope: use that one.")
    try:
        return {
            str(sae_hash): {_number(text): _checked(row) for text, row in features.items()}
            for sae_hash, features in whole["saes"].items()
        }
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no JSON file of notes, or is damaged.") from error


def _number(text: str) -> int:
    """A feature's number, as large as the file's column takes it at most."""
    if not text.isascii() or not text.isdigit() or int(text) > _LAST:
        raise ValueError("no feature has such a number")
    return int(text)


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """A feature's entry with every key."""
    texts = {key: row.get(key, "") for key in _KEYS}
    starred = row.get("starred", False)
    if not all(isinstance(text, str) for text in texts.values()) or not isinstance(starred, bool):
        raise TypeError("a text is missing")
    if texts["verdict"] not in ("", *VERDICTS) or len(texts["note"]) > MOST_NOTE:
        raise ValueError("a verdict or note cannot be kept")
    whole_characters(texts["note"], "a note")
    return {**texts, "label": one_line(texts["label"], MOST_LABEL, "a label"), "starred": starred}


def merge(
    notes: Notes,
    saes: Mapping[str, Mapping[int, Mapping[str, Any]]],
    source: str,
    *,
    take_theirs: bool = False,
) -> list[Conflict]:
    """Keep what a file says, all of it or nothing; returns where you say otherwise.

    There yours stays, or with `take_theirs` theirs takes its place.
    """
    with notes.transaction(TOPIC) as connection:
        conflicts = merge_within(connection, saes, source, take_theirs=take_theirs)
    notes.forget()
    return conflicts


def merge_within(
    connection: duckdb.DuckDBPyConnection,
    saes: Mapping[str, Mapping[int, Mapping[str, Any]]],
    source: str,
    *,
    take_theirs: bool = False,
) -> list[Conflict]:
    """`merge` within a transaction, which may keep something else together with it."""
    conflicts: list[Conflict] = []
    before = all_notes(connection)
    for sae_hash, features in saes.items():
        yours = before.get(sae_hash, NOTHING)
        labels: dict[int, str] = {}
        own: dict[int, str] = {}
        changes: dict[int, dict[str, Any]] = {}
        for feature, theirs in features.items():
            mine = _yours(yours, feature)
            against = [
                Conflict(
                    sae_hash=sae_hash,
                    feature=feature,
                    what=key,
                    yours=mine[key],
                    theirs=theirs[key],
                )
                for key in _KEYS
                if mine[key] and theirs.get(key) and mine[key] != theirs[key]
            ]
            conflicts += against
            kept = set() if take_theirs else {each.what for each in against}
            if theirs.get("label"):
                labels[feature] = theirs["label"]
                if take_theirs and mine["label"]:
                    own[feature] = theirs["label"]
            change = {
                key: theirs[key]
                for key in ("verdict", "note", "starred")
                if theirs.get(key) and key not in kept
            }
            if change:
                changes[feature] = change
        write_labels(connection, sae_hash, labels, "imported", source)
        write_labels(connection, sae_hash, own, "yours", "")
        write_features(connection, sae_hash, changes)
    return conflicts


def _yours(notes: SAENotes, feature: int) -> dict[str, str]:
    own = (each.text for each in notes.all_labels.get(feature, ()) if each.kind == "yours")
    note = notes.features.get(feature)
    return {
        "label": next(own, ""),
        "verdict": note.verdict if note else "",
        "note": note.note if note else "",
    }


def as_features(rows: Sequence[LabelRow]) -> dict[int, dict[str, Any]]:
    """Labels of a file as `merge` takes them."""
    return {row.feature: {"label": row.label, "note": row.note} for row in rows}
