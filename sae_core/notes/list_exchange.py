"""A list of features as one JSON file that people give each other, and how another's is merged.

    {"format": "jumpscope-list", "version": 1, "id", "name",
     "features": [{"sae_hash", "sae", "feature", "label", "verdict", "note"}, ...]}

A list that is not here yet is made. Of one that is (its id tells), features that only the file has
are put at the end, and yours stay. Labels, verdicts and notes are merged as `notes_exchange` does.
What both have and say differently is a conflict: yours stays until theirs is chosen.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import duckdb

from sae_core.files import is_version
from sae_core.notes.feature_lists import (
    MOST_FEATURES,
    FeatureList,
    ListedFeature,
    Place,
    insert_list,
    list_name,
    read_lists,
    write_features,
    write_name,
)
from sae_core.notes.feature_lists import TOPIC as LISTS
from sae_core.notes.feature_notes import (
    MOST_LABEL,
    MOST_NOTE,
    VERDICTS,
    SAENotes,
    one_line,
    whole_characters,
)
from sae_core.notes.feature_notes import TOPIC as NOTES
from sae_core.notes.kept_notes import Notes
from sae_core.notes.notes_exchange import Conflict, exported, merge_within

FORMAT: Final = "jumpscope-list"
VERSION: Final = 1
_TEXTS: Final = ("label", "verdict", "note")
_ID: Final = re.compile(r"[0-9a-f]{12}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_MOST_NUMBER: Final = 2**31 - 1
_SHOWN: Final = 12
"""Features of an order in words."""


@dataclass(frozen=True, kw_only=True)
class ListConflict:
    """Something that you and a file say differently of a list or of one of its features."""

    what: str
    """name or order of the list; label, verdict or note of a feature."""
    feature: int | None
    """None where it is about the list."""
    sae_hash: str
    yours: str
    theirs: str
    key: str
    """Names this conflict as long as both say what they say now."""


@dataclass(frozen=True, kw_only=True)
class ListDocument:
    """A file's list, checked."""

    feature_list: FeatureList
    texts: Mapping[str, Mapping[int, Mapping[str, str]]]
    """Label, verdict and note by the SAE's hash and the feature; "" where there is none."""


def document_of(feature_list: FeatureList, notes_of: Callable[[str], SAENotes]) -> dict[str, Any]:
    """A list as JSON has it, with what is kept about its features; stars are left out."""
    texts = {
        sae_hash: exported(notes_of(sae_hash))
        for sae_hash in {each.sae_hash for each in feature_list.features}
    }
    features = []
    for each in feature_list.features:
        own = texts[each.sae_hash].get(str(each.feature), {})
        row = {"sae_hash": each.sae_hash, "sae": each.sae, "feature": each.feature}
        features.append(row | {key: own[key] for key in _TEXTS if key in own})
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": feature_list.id,
        "name": feature_list.name,
        "features": features,
    }


def checked_document(document: Any) -> ListDocument:
    """What a file says; ValueError with one sentence if it is none of `document_of`, of a newer
    version, or damaged.
    """
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise ValueError("this is no list of features: choose a file that was downloaded as JSON.")
    if not is_version(document.get("version"), VERSION):
        raise ValueError("this list was written by another version of Jumpscope: use that one.")
    try:
        rows = document["features"]
        if len(rows) > MOST_FEATURES:
            raise ValueError("too many")
        features = {each.place: each for each in map(_feature, rows)}
        texts: dict[str, dict[int, dict[str, str]]] = {}
        for row in rows:
            texts.setdefault(row["sae_hash"], {})[int(row["feature"])] = _texts(row)
        made = FeatureList(
            id=_matching(_ID, document["id"]),
            name=list_name(document["name"]),
            features=tuple(features.values()),
        )
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError("this list of features is damaged: ask for another file.") from error
    return ListDocument(feature_list=made, texts=texts)


def merge_list(
    notes: Notes, document: ListDocument, source: str, theirs: Collection[str] = ()
) -> list[ListConflict]:
    """Keep what a file says of a list and its features, all of it or nothing; `source` is the
    file's name. Returns where you say otherwise; of the conflicts whose keys are in `theirs`,
    theirs takes the place of yours.

    Repeating it changes nothing.
    """
    with notes.transaction(NOTES, LISTS) as connection:
        texts = merge_within(connection, document.texts, source)
        conflicts = [_told(each) for each in texts]
        chosen: dict[str, dict[int, dict[str, str]]] = {}
        for each in conflicts:
            if each.key in theirs and each.feature is not None:
                of_feature = chosen.setdefault(each.sae_hash, {}).setdefault(each.feature, {})
                of_feature[each.what] = each.theirs
        if chosen:
            merge_within(connection, chosen, source, take_theirs=True)
        about_list = _merge_order(connection, document.feature_list, theirs)
    notes.forget()
    return [each for each in (*about_list, *conflicts) if each.key not in theirs]


def _merge_order(
    connection: duckdb.DuckDBPyConnection, other: FeatureList, theirs: Collection[str]
) -> list[ListConflict]:
    """Within a transaction: a list's name, and which features it holds in which order."""
    before = {each.id: each for each in read_lists(connection)}
    mine = before.get(other.id)
    if mine is None:
        insert_list(connection, other)
        return []
    added = [each for each in other.features if not mine.holds(each.place)]
    features = [*mine.features, *added]
    # As it is from now on, so that a conflict is the same when the file is merged again.
    conflicts = _differences(replace(mine, features=tuple(features)), other)
    for each in conflicts:
        if each.key in theirs and each.what == "name":
            write_name(connection, mine.id, other.name)
        elif each.key in theirs:
            features = _in_order_of(other.features, features)
    if features != list(mine.features):
        write_features(connection, mine.id, features)
    return conflicts


def _feature(row: Mapping[str, Any]) -> ListedFeature:
    number = row["feature"]
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _MOST_NUMBER:
        raise ValueError("a number is none")
    sae = one_line(row["sae"], MOST_LABEL, "a name")
    return ListedFeature(sae_hash=_matching(_HASH, row["sae_hash"]), sae=sae, feature=number)


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    texts = {key: row.get(key, "") for key in _TEXTS}
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError("a text is none")
    if texts["verdict"] not in ("", *VERDICTS) or len(texts["note"]) > MOST_NOTE:
        raise ValueError("a verdict or note cannot be kept")
    whole_characters(texts["note"], "a note")
    return texts | {"label": one_line(texts["label"], MOST_LABEL, "a label")}


def _matching(pattern: re.Pattern[str], text: Any) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise ValueError("an id or hash is none")
    return text


def _differences(mine: FeatureList, other: FeatureList) -> list[ListConflict]:
    """Where the name, or the order of what both have, differs."""
    found = []
    if mine.name != other.name:
        found.append(_conflict("name", mine.name, other.name, mine.id))
    ours = [each for each in mine.features if other.holds(each.place)]
    order = [each for each in other.features if mine.holds(each.place)]
    places = [[each.place for each in features] for features in (ours, order)]
    if places[0] != places[1]:
        words = (_in_words(ours), _in_words(order))
        found.append(_conflict("order", *words, f"{mine.id}{places}"))
    return found


def _in_words(features: Sequence[ListedFeature]) -> str:
    more = ", …" if len(features) > _SHOWN else ""
    return ", ".join(f"#{each.feature}" for each in features[:_SHOWN]) + more


def _in_order_of(
    order: Sequence[ListedFeature], features: Sequence[ListedFeature]
) -> list[ListedFeature]:
    """Features in another list's order; those that it has not got come last."""
    ranks: dict[Place, int] = {each.place: rank for rank, each in enumerate(order)}
    return sorted(features, key=lambda each: ranks.get(each.place, len(ranks)))


def _told(conflict: Conflict) -> ListConflict:
    about = f"{conflict.sae_hash} {conflict.feature}"
    return _conflict(
        conflict.what, conflict.yours, conflict.theirs, about, conflict.sae_hash, conflict.feature
    )


def _conflict(
    what: str,
    yours: str,
    theirs: str,
    about: str,
    sae_hash: str = "",
    feature: int | None = None,
) -> ListConflict:
    whole = "\0".join((about, what, yours, theirs))
    return ListConflict(
        what=what,
        feature=feature,
        sae_hash=sae_hash,
        yours=yours,
        theirs=theirs,
        key=hashlib.sha256(whole.encode()).hexdigest()[:16],
    )
