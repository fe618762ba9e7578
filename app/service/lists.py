"""Lists of features: read with names, notes and contexts, and changed where something is asked."""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from threading import Lock
from typing import Any, Final
from weakref import WeakKeyDictionary

from app.engine.workbench import Workbench
from app.requests import ListsRequest, RequestError, SavedRequest
from app.sentences import without_paths
from app.service.labels import hash_of
from sae_core.index import Index
from sae_core.notes.feature_lists import FeatureList, ListedFeature
from sae_core.notes.feature_notes import FeatureNote
from sae_core.notes.list_exchange import ListConflict, checked_document, document_of, merge_list

CACHED_FEATURES: Final = 1000
"""Features of each index whose strongest context stays in memory, so that a long list is read from
the file once and not again at each change of its order."""
_GLIMPSES: Final[WeakKeyDictionary[Index, OrderedDict[int, Mapping[str, Any]]]] = (
    WeakKeyDictionary()
)
_LOCK: Final = Lock()
_HASH: Final = re.compile("[0-9a-f]{64}")
_SOURCE: Final = "a list"
"""Source of labels from a file without a name."""


def lists(workbench: Workbench, request: ListsRequest) -> dict[str, Any]:
    """Your lists by name, and the features of one, after what is asked has been done.

    `conflicts` are what a merged file says otherwise than you: yours stays until theirs is asked
    for by its key.
    """
    list_id, conflicts = _done(workbench, request)
    return {**lists_there(workbench), "list": None, "conflicts": conflicts} | (
        {"list": list_with_features(workbench, list_id)} if list_id else {}
    )


def lists_there(workbench: Workbench) -> dict[str, Any]:
    """Every list without its features; `problem` is why they cannot be read."""
    problem, there = "", ()
    try:
        there = workbench.notes.lists.all()
    except ValueError as error:
        problem = without_paths(str(error))
    return {
        "lists": [{"id": each.id, "name": each.name, "size": len(each.features)} for each in there],
        "can_keep": workbench.notes.kept,
        "problem": problem,
    }


def lists_of(workbench: Workbench, sae: str, feature: int) -> list[dict[str, Any]]:
    """Every list with whether it holds a feature; none where they cannot be read or kept."""
    if not workbench.notes.kept:
        return []
    there = workbench.notes.lists.at_hand()
    sae_hash = hash_of(workbench, sae) if there else None
    if sae_hash is None:
        return []
    place = sae_hash, feature
    return [{"id": each.id, "name": each.name, "holds": each.holds(place)} for each in there]


def list_with_features(workbench: Workbench, list_id: str) -> dict[str, Any]:
    """A list with what is known of each feature; RequestError if there is none.

    `here` is whether its SAE is in the bundle; where it is and has an index there are `signature`,
    `max_act` and `context`, the strongest.
    """
    feature_list = _list(workbench, list_id)
    names = _names(workbench, feature_list.features)
    return {
        "id": feature_list.id,
        "name": feature_list.name,
        "features": _shown(workbench, feature_list.features, names),
    }


def list_order(workbench: Workbench, list_id: str) -> list[tuple[str, int]]:
    """SAE and number of those features of a list whose SAE is here, in its order; RequestError if
    there is no such list.
    """
    features = _list(workbench, list_id).features
    names = _names(workbench, features)
    places = [(names.get(each.sae_hash, ""), each.feature) for each in features]
    return [
        (name, feature)
        for name, feature in places
        if name and feature < workbench.sources.d_sae(name)
    ]


def list_document(workbench: Workbench, list_id: str) -> dict[str, Any]:
    """A list as the JSON file that others merge; RequestError if there is none."""
    return document_of(_list(workbench, list_id), workbench.notes.of)


def saved(workbench: Workbench, request: SavedRequest) -> dict[str, Any]:
    """Saved prompts, steerings and proofs, the newest first, after what is asked has been done."""
    pages = workbench.notes.saved
    if request.action == "save":
        pages.save(request.name, request.address)
    elif request.action == "remove":
        pages.remove(request.saved_id)
    return saved_there(workbench)


def saved_there(workbench: Workbench) -> dict[str, Any]:
    """Everything that is saved; `problem` is why it cannot be read."""
    problem, there = "", []
    try:
        there = workbench.notes.saved.all()
    except ValueError as error:
        problem = without_paths(str(error))
    return {
        "saved": [
            {
                "id": each.id,
                "name": each.name,
                "kind": each.kind,
                "address": each.address,
                "made": each.made.isoformat(timespec="seconds") + "Z",
            }
            for each in there
        ],
        "can_keep": workbench.notes.kept,
        "problem": problem,
    }


def _done(workbench: Workbench, request: ListsRequest) -> tuple[str, list[dict[str, Any]]]:
    """Do what is asked; the list that it was about, and conflicts of a merge."""
    kept, list_id = workbench.notes.lists, request.list_id
    match request.action:
        case "make":
            return kept.make(request.name), []
        case "rename":
            kept.rename(list_id, request.name)
        case "remove":
            kept.remove(list_id)
            return "", []
        case "add":
            kept.add(list_id, *_features_to_add(workbench, request))
        case "take":
            kept.take(list_id, _place(workbench, request))
        case "move":
            kept.move(list_id, _place(workbench, request), request.place)
        case "merge":
            if request.document is None:
                raise RequestError(
                    "Give what the downloaded file holds, as named values.", "document"
                )
            document = checked_document(request.document)
            theirs = {key for key in request.theirs.split(",") if key}
            source = request.source.strip() or _SOURCE
            conflicts = merge_list(workbench.notes, document, source, theirs)
            names = _names(workbench, document.feature_list.features)
            return document.feature_list.id, [_conflict(each, names) for each in conflicts]
    return list_id, []


def _conflict(conflict: ListConflict, names: Mapping[str, str]) -> dict[str, Any]:
    return asdict(conflict) | {"sae": names.get(conflict.sae_hash, "")}


def _features_to_add(workbench: Workbench, request: ListsRequest) -> list[ListedFeature]:
    given = [("feature", request.feature)] if request.feature is not None else []
    given += [(f"features.{n}", feature) for n, feature in enumerate(request.features or ())]
    if not given:
        raise RequestError("Say which feature is added.", "feature")
    name, digest = _sae(workbench, request.sae)
    numbers = [workbench.feature_number(name, feature, field) for field, feature in given]
    return [ListedFeature(sae_hash=digest, sae=name, feature=number) for number in numbers]


def _sae(workbench: Workbench, written: str) -> tuple[str, str]:
    """Name and hash of the SAE that is written by either. By its hash it is that of these weights
    alone: a page that is open may show features of others that were there before.
    """
    bundle = workbench.bundle
    if written in bundle.sae_names or not _HASH.fullmatch(written):
        name = workbench.sae_name(written)
        return name, bundle.content_hash(name)
    for facts in workbench.saes():
        if facts["content_hash"] == written == hash_of(workbench, facts["name"]):
            return facts["name"], written
    raise RequestError("No SAE has these weights any more: load the page again.", "sae")


def _place(workbench: Workbench, request: ListsRequest) -> tuple[str, int]:
    """The feature that a request is about; its SAE need not be here if its hash is given."""
    if request.feature is None:
        raise RequestError("Say which feature is meant.", "feature")
    hashes = {each.sae_hash for each in _list(workbench, request.list_id).features}
    if request.sae in hashes:
        return request.sae, request.feature
    return _sae(workbench, request.sae)[1], request.feature


def _list(workbench: Workbench, list_id: str) -> FeatureList:
    try:
        return workbench.notes.lists.get(list_id)
    except ValueError as error:
        raise RequestError(str(error), "list_id") from error


def _names(workbench: Workbench, features: Sequence[ListedFeature]) -> dict[str, str]:
    """The bundle's SAEs by their hashes, as many as these features need: the weights of others may
    have to be fetched first. Those that cannot be read are left out.
    """
    wanted = {each.sae_hash for each in features}
    there = workbench.bundle.sae_names
    by_name = dict.fromkeys(each.sae for each in features if each.sae in there)
    names: dict[str, str] = {}
    for name in {**by_name, **dict.fromkeys(there)}:
        if wanted <= names.keys():
            break
        if sae_hash := hash_of(workbench, name):
            names.setdefault(sae_hash, name)
    return names


def _shown(
    workbench: Workbench, features: Sequence[ListedFeature], names: Mapping[str, str]
) -> list[dict[str, Any]]:
    here: dict[str, list[int]] = {}
    for each in features:
        name = names.get(each.sae_hash, "")
        if name and each.feature < workbench.sources.d_sae(name):
            here.setdefault(name, []).append(each.feature)
    indexed = {name: _indexed(workbench, name, numbers) for name, numbers in here.items()}
    rows = []
    for each in features:
        notes = workbench.notes.of(each.sae_hash)
        note = notes.features.get(each.feature, FeatureNote())
        label = notes.labels.get(each.feature)
        name = names.get(each.sae_hash, "")
        is_here = each.feature in here.get(name, ())
        rows.append(
            {
                "sae_hash": each.sae_hash,
                "sae": name if is_here else each.sae,
                "here": is_here,
                "feature": each.feature,
                "label": label.text if label else None,
                "verdict": note.verdict,
                "note": note.note,
                **(indexed[name].get(each.feature, {}) if is_here else {}),
            }
        )
    return rows


def _indexed(
    workbench: Workbench, sae: str, features: Sequence[int]
) -> dict[int, Mapping[str, Any]]:
    """What the SAE's index says of each of these features; nothing where there is none."""
    if workbench.sources.missing(sae) is not None:
        return {}
    index = workbench.sources.index(sae)
    with _LOCK:
        kept = _GLIMPSES.setdefault(index, OrderedDict())
        glimpses = {i: kept[i] for i in features if i in kept}
    unread = [i for i in features if i not in glimpses]
    glimpses |= _glimpses(index, unread) if unread else {}
    with _LOCK:
        for i, glimpse in glimpses.items():
            kept[i] = glimpse
            kept.move_to_end(i)
        while len(kept) > CACHED_FEATURES:
            kept.popitem(last=False)
    return glimpses


def _glimpses(index: Index, features: Sequence[int]) -> dict[int, Mapping[str, Any]]:
    """Signature, frequency, largest activation and strongest context of each."""
    summaries, contexts = index.summaries(features), index.strongest_contexts(features)
    glimpses: dict[int, Mapping[str, Any]] = {}
    for i, summary in summaries.items():
        strongest = contexts[i] if summary["max_act"] > 0 else None
        glimpses[i] = {
            **{key: summary[key] for key in ("signature", "frequency", "max_act")},
            "context": strongest
            and {
                key: strongest[key] for key in ("tokens", "bytes", "activations", "peak", "value")
            },
        }
    return glimpses
