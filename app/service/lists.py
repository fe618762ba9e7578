"""Lists of features: read with names, notes and contexts, and changed where something is asked."""

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
_GLIMPSES: Final[WeakKeyDictionary[Index, OrderedDict[int, dict[str, Any]]]] = WeakKeyDictionary()
_LOCK: Final = Lock()
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
        "features": [_shown(workbench, each, names) for each in feature_list.features],
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
            kept.add(list_id, _feature_to_add(workbench, request))
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
            source = " ".join(request.source.split()) or _SOURCE
            conflicts = merge_list(workbench.notes, document, source, theirs)
            names = _names(workbench, document.feature_list.features)
            return document.feature_list.id, [_conflict(each, names) for each in conflicts]
    return list_id, []


def _conflict(conflict: ListConflict, names: Mapping[str, str]) -> dict[str, Any]:
    return asdict(conflict) | {"sae": names.get(conflict.sae_hash, "")}


def _feature_to_add(workbench: Workbench, request: ListsRequest) -> ListedFeature:
    if request.feature is None:
        raise RequestError("Say which feature is added.", "feature")
    name = workbench.sae_name(request.sae)
    number = workbench.feature_number(name, request.feature)
    return ListedFeature(sae_hash=workbench.bundle.content_hash(name), sae=name, feature=number)


def _place(workbench: Workbench, request: ListsRequest) -> tuple[str, int]:
    """The feature that a request is about; its SAE need not be here if its hash is given."""
    if request.feature is None:
        raise RequestError("Say which feature is meant.", "feature")
    hashes = {each.sae_hash for each in _list(workbench, request.list_id).features}
    if request.sae in hashes:
        return request.sae, request.feature
    return workbench.bundle.content_hash(workbench.sae_name(request.sae)), request.feature


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


def _shown(workbench: Workbench, listed: ListedFeature, names: Mapping[str, str]) -> dict[str, Any]:
    notes = workbench.notes.of(listed.sae_hash)
    note = notes.features.get(listed.feature, FeatureNote())
    label = notes.labels.get(listed.feature)
    name = names.get(listed.sae_hash, "")
    here = name != "" and listed.feature < workbench.sources.d_sae(name)
    return {
        "sae_hash": listed.sae_hash,
        "sae": name if here else listed.sae,
        "here": here,
        "feature": listed.feature,
        "label": label.text if label else None,
        "verdict": note.verdict,
        "note": note.note,
        **(_indexed(workbench, name, listed.feature) if here else {}),
    }


def _indexed(workbench: Workbench, sae: str, feature: int) -> dict[str, Any]:
    """What the SAE's index says of a feature; nothing where there is none."""
    if workbench.sources.missing(sae) is not None:
        return {}
    index = workbench.sources.index(sae)
    with _LOCK:
        glimpses = _GLIMPSES.setdefault(index, OrderedDict())
        if feature in glimpses:
            glimpses.move_to_end(feature)
            return glimpses[feature]
    glimpse = _glimpse(index, feature)
    with _LOCK:
        glimpses[feature] = glimpse
        while len(glimpses) > CACHED_FEATURES:
            glimpses.popitem(last=False)
    return glimpse


def _glimpse(index: Index, feature: int) -> dict[str, Any]:
    known = index.feature(feature)
    contexts = known["groups"][0]["contexts"] if known["groups"] else []
    strongest = contexts[0] if contexts and known["max_act"] > 0 else None
    return {
        "signature": known["signature"],
        "frequency": known["frequency"],
        "max_act": known["max_act"],
        "context": strongest
        and {key: strongest[key] for key in ("tokens", "bytes", "activations", "peak", "value")},
    }
