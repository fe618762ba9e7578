"""Features of an SAE: one, a list, any."""

import random
from dataclasses import asdict
from typing import Any

from app.engine.feature_sources import UNINDEXED_SORTS
from app.engine.workbench import Workbench
from app.requests import FeatureRequest, RequestError, SearchRequest
from sae_core.index import Index


def feature(workbench: Workbench, request: FeatureRequest) -> dict[str, Any]:
    """All that the index, or weights and model without one, know about a feature of an SAE.

    Its neighbours by number are `previous` and `next`.
    """
    name = workbench.sae_name(request.sae)
    number = workbench.feature_number(name, request.feature)
    last = workbench.sources.d_sae(name) - 1
    return {
        **workbench.sources.features(name).feature(number),
        "sae": name,
        "missing": missing(workbench, name),
        "previous": number - 1 if number > 0 else None,
        "next": number + 1 if number < last else None,
    }


def search_features(workbench: Workbench, request: SearchRequest) -> dict[str, Any]:
    """Features whose number, tokens or signature match a query."""
    name = workbench.sae_name(request.sae)
    low, high = request.min_frequency, request.max_frequency
    if low > high:
        raise RequestError(
            f"The lowest frequency {low:g} is above the highest {high:g}: swap them.",
            "min_frequency",
        )
    source = workbench.sources.features(name)
    down, most, skip = request.descending, request.limit, request.offset
    if isinstance(source, Index):
        order = request.sort or "frequency"
        matches = source.search(request.query, order, down, low, high, most, skip)
    else:
        if request.sort not in ("", *UNINDEXED_SORTS) or (low, high) != (0.0, 1.0):
            raise RequestError(
                f"How often features fire is not known. {source.missing.sentence}", "sort"
            )
        order = request.sort or "id"
        matches = source.search(request.query, order, down and request.sort != "", most, skip)
    return {"sae": name, "missing": missing(workbench, name), **matches}


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
