"""What an address asks of the list of features, read once for the list itself and for whoever walks
through it (app/web/walk.py).
"""

from collections.abc import Mapping
from typing import Any, Final

from app.engine.feature_sources import UNINDEXED_SORTS
from app.settings import Settings
from app.web.query import positive, share, whole

PAGE_SIZE: Final = 50
"""Features of a page of the list, at most."""


def page_size(settings: Settings) -> int:
    """Features of a page where one answer may list no more than the settings say."""
    return min(PAGE_SIZE, settings.max_rows)


def wanted_list(query: Mapping[str, str], in_address: str, *, indexed: bool) -> dict[str, Any]:
    """The values of an address of the list of an SAE, which is `in_address` as addresses have it;
    ValueError for one that means nothing. What needs an index is left out where there is none.
    """
    given = dict(query)
    wanted: dict[str, Any] = {
        "sae": in_address,
        "q": given.get("q", ""),
        "sort": given.get("sort", ""),
        "desc": given.get("desc") != "0",
        "min": share(given, "min", 0.0),
        "max": share(given, "max", 1.0),
        "score": share(given, "score", 0.0),
        "effect": positive(given, "effect"),
        "kept": given.get("kept", ""),
        "page": whole(given, "page", 1),
    }
    if not indexed and wanted["sort"] not in ("", *UNINDEXED_SORTS):
        # From the list of another SAE, which has them; this one says what is missing.
        wanted |= {"sort": "", "desc": True}
    if not indexed:
        wanted |= {"min": 0.0, "max": 1.0, "score": 0.0, "effect": None}
    if wanted["page"] < 1:
        raise ValueError("Pages are counted from 1.")
    return wanted


def search_arguments(
    wanted: Mapping[str, Any], sae: str, *, limit: int, offset: int
) -> dict[str, Any]:
    """The search that lists `limit` features after the first `offset`."""
    return {
        "query": wanted["q"],
        "sae": sae,
        "sort": wanted["sort"],
        "descending": wanted["desc"],
        "min_frequency": wanted["min"],
        "max_frequency": wanted["max"],
        "limit": limit,
        "offset": offset,
        "min_output_score": wanted["score"],
        "max_side_effect": wanted["effect"],
        "kept": wanted["kept"],
    }
