"""Features of an SAE: one, a list, any."""

import math
import random
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from app.engine.feature_sources import UNINDEXED_SORTS
from app.engine.indexes import scores_command
from app.engine.workbench import Workbench
from app.requests import FeatureRequest, RequestError, SearchRequest
from app.requests.models import Kept
from app.service.labels import notes_of
from sae_core.index import Index
from sae_core.index.schema import SCORES

if TYPE_CHECKING:
    from app.engine.weights_only import WeightsOnlyFeatures


def feature(workbench: Workbench, request: FeatureRequest) -> dict[str, Any]:
    """All that the index, or weights and model without one, know about a feature of an SAE.

    Its neighbours by number are `previous` and `next`.
    """
    name = workbench.sae_name(request.sae)
    number = workbench.feature_number(name, request.feature)
    last = workbench.sources.d_sae(name) - 1
    source = workbench.sources.features(name)
    return {
        **source.feature(number),
        "sae": name,
        "missing": _missing(source),
        # Without an index there is nothing to put scores into.
        "unscored": scores_command(workbench.bundle, name)
        if isinstance(source, Index) and not source.has_output_scores
        else None,
        "previous": number - 1 if number > 0 else None,
        "next": number + 1 if number < last else None,
    }


def search_features(workbench: Workbench, request: SearchRequest) -> dict[str, Any]:
    """Features whose number, tokens or signature match a query, best match first where no other
    order is asked for. `sort` is the order, `marks` the folded texts that matched, `phrases` those
    of them that are several tokens, `nowhere` those that no feature has. With an index a feature
    has `matches`, the words of its tokens that matched with their `share` of its firing, and, where
    the index holds one, `context`, a few tokens around its strongest peak. `starred` is whether it
    has a star.
    """
    name = workbench.sae_name(request.sae)
    low, high = request.min_frequency, request.max_frequency
    if low > high:
        raise RequestError(
            f"The lowest frequency {low:g} is above the highest {high:g}: swap them.",
            "min_frequency",
        )
    source = workbench.sources.features(name)
    among = _kept(workbench, name, request.kept)
    down, most, skip = request.descending, request.limit, request.offset
    score, effect = request.min_output_score, request.max_side_effect
    by_scores = {
        "sort": request.sort in SCORES,
        "min_output_score": score > 0,
        "max_side_effect": effect is not None,
    }
    of_scores = next((field for field, given in by_scores.items() if given), None)
    if isinstance(source, Index):
        if of_scores and not source.has_output_scores:
            command = scores_command(workbench.bundle, name)
            raise RequestError(f"This index has no output scores: {command} adds them.", of_scores)
        bound = math.inf if effect is None else effect
        query, sort = request.query, request.sort
        notes = notes_of(workbench, name).texts if query.strip() else None
        matches = source.search(
            query, sort, down, low, high, most, skip, score, bound, notes, among
        )
        contexts = source.glimpses([row["feature"] for row in matches["features"]])
        for row in matches["features"]:
            row["context"] = contexts.get(row["feature"])
    else:
        if of_scores:
            raise RequestError(
                f"What features write is not known. {source.missing.sentence}", of_scores
            )
        by_firing = {
            "sort": request.sort not in ("", *UNINDEXED_SORTS),
            "min_frequency": low > 0,
            "max_frequency": high < 1,
        }
        if of_firing := next((field for field, given in by_firing.items() if given), None):
            raise RequestError(
                f"How often features fire is not known. {source.missing.sentence}", of_firing
            )
        order = request.sort or "id"
        matches = source.search(
            request.query, order, down and request.sort != "", most, skip, among
        )
        matches |= {"sort": order, "marks": [], "phrases": [], "nowhere": []}
    starred = _starred(workbench, name)
    for row in matches["features"]:
        row["starred"] = row["feature"] in starred
    return {
        "sae": name,
        "missing": _missing(source),
        "scored": _scored(source),
        **matches,
    }


def _starred(workbench: Workbench, sae: str) -> set[int]:
    """Features that have a star."""
    features = notes_of(workbench, sae).features
    return {feature for feature, note in features.items() if note.starred}


def _kept(workbench: Workbench, sae: str, kept: Kept) -> set[int] | None:
    """Features of which that is kept; None stands for all."""
    if not kept:
        return None
    notes = notes_of(workbench, sae)
    if kept == "starred":
        return _starred(workbench, sae)
    if kept == "labelled":
        return set(notes.labels)
    return {feature for feature, note in notes.features.items() if note.note}


def scored(workbench: Workbench, sae: str) -> bool:
    """Whether there is an index that has output scores."""
    return _scored(workbench.sources.features(sae))


def random_feature(workbench: Workbench, sae: str) -> int:
    """The number of some feature that fires; of any, where no index knows which do."""
    firing = workbench.sources.firing(workbench.sae_name(sae))
    if not len(firing):
        raise RequestError("No feature of this SAE ever fires: there is none to show.")
    return int(random.choice(firing))


def missing(workbench: Workbench, sae: str) -> dict[str, str] | None:
    """Why there is no index to be used and what builds it; None if there is one."""
    missing = workbench.sources.missing(sae)
    return missing and asdict(missing)


# Of one source, which stays the same while a request is answered from it.


def _scored(source: "Index | WeightsOnlyFeatures") -> bool:
    return isinstance(source, Index) and source.has_output_scores


def _missing(source: "Index | WeightsOnlyFeatures") -> dict[str, str] | None:
    return None if isinstance(source, Index) else asdict(source.missing)
