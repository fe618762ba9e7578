"""Walking the list that a feature was opened from: its place there, what stands before and after
it, and the way back.

The address of a feature's page says it: `from` is the address of that list, relative to the app's
root, and `at` the feature's place in it, from 1. The order of the list of features, and of a list
that somebody keeps, is asked for again, so that it is today's and goes on over the pages of the
list; the order of any other page stands in the address too (`walk`: numbers with dots between
them).
js/walk.js writes these addresses. One that means nothing any more walks by number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from app.engine.workbench import Workbench
from app.requests import SearchRequest, parsed
from app.service import features as service
from app.service.lists import list_order
from app.web.list_query import PAGE_SIZE, page_size, search_arguments, wanted_list
from app.web.templating import address

ORIGINS: Final = {
    "./": "the overview",
    "features": "the list",
    "find": "what was found",
    "lists": "the list",
    "map": "the map",
    "prompt": "Prompt",
    "sql": "SQL",
    "steer": "Steer",
}
"""Paths that a feature is opened from, and what the way back is called."""
MOST_STEPS: Final = 500
"""Features of an order that stands in an address."""

Stop = tuple[str, int]
"""An SAE as addresses have it, and a feature."""


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A feature's place in a list; without a place it is no longer there."""

    back: str
    """The address of the list."""
    words: str
    """What the list is called."""
    carried: Mapping[str, str]
    """What the addresses of its other features say of the walk."""
    place: int | None = None
    """From 1."""
    total: int = 0
    previous: Stop | None = None
    next: Stop | None = None

    def step(self, stop: Stop | None, by: int, text: str) -> dict[str, Any] | None:
        """Number and address of the feature `by` places on; None at either end."""
        if stop is None or self.place is None:
            return None
        sae, feature = stop
        at = self.place + by
        query = {"sae": sae, "feature": feature, "text": text, **self.carried, "at": at}
        return {"feature": feature, "href": address("features", **query)}


def walk_of(workbench: Workbench, query: Mapping[str, str], sae: str, feature: int) -> Walk | None:
    """The walk that the address of a feature's page names; None where it names none."""
    try:
        origin = urlsplit(query.get("from", ""))
    except ValueError:
        return None
    asked = dict(parse_qsl(origin.query))
    if origin.scheme or origin.netloc or origin.path not in ORIGINS:
        return None
    place = query.get("at", "")
    at = int(place) if place.isascii() and place.isdecimal() and len(place) < 10 else 1
    try:
        if origin.path == "features" and "feature" not in asked:
            return _of_search(workbench, asked, sae, feature, at)
        if origin.path == "lists" and asked.get("list"):
            return _of_list(workbench, asked["list"], sae, feature)
    except ValueError:
        return None
    return _of_order(workbench, origin.path, asked, query.get("walk", ""), sae, feature)


def _of_search(
    workbench: Workbench, asked: Mapping[str, str], sae: str, feature: int, at: int
) -> Walk | None:
    """Along the list of features as its address orders it; ValueError if that means nothing."""
    if workbench.sae_name(asked.get("sae")) != sae:
        return None
    in_address = _in_address(workbench, sae)
    indexed = workbench.sources.missing(sae) is None
    wanted = wanted_list(asked, in_address, indexed=indexed)

    def rows(limit: int, offset: int) -> tuple[list[int], int]:
        most = min(limit, workbench.settings.max_rows)
        arguments = search_arguments(wanted, sae, limit=most, offset=offset)
        request = parsed(SearchRequest, arguments, workbench.settings)
        answer = service.search_features(workbench, request)
        return [row["feature"] for row in answer["features"]], answer["total"]

    place, total = _place(rows, feature, at)
    size = page_size(workbench.settings)
    page = {"page": "" if not place or place <= size else -(-place // size)}
    quoted = " ".join(wanted["q"].split())
    walk = {
        "back": address("features", **(dict(asked) | page)),
        "words": f"the search for “{quoted}”" if quoted else ORIGINS["features"],
        "carried": {"from": address("features", **(dict(asked) | {"page": ""}))},
    }
    if not place:
        return Walk(**walk)
    around, _ = rows(3, max(0, place - 2))
    here = around.index(feature)
    return Walk(
        **walk,
        place=place,
        total=total,
        previous=(in_address, around[here - 1]) if here else None,
        next=(in_address, around[here + 1]) if here + 1 < len(around) else None,
    )


def _place(rows: Any, feature: int, at: int) -> tuple[int | None, int]:
    """Place of a feature in what `rows(limit, offset)` lists, from 1, and the list's length: where
    the address says, else near it, else among the first; None if it is not there.
    """
    total = 0
    for limit, offset in (
        (1, max(0, at - 1)),
        (PAGE_SIZE, max(0, at - 1 - PAGE_SIZE // 2)),
        (10**9, 0),
    ):
        listed, total = rows(limit, offset)
        if feature in listed:
            return offset + listed.index(feature) + 1, total
    return None, total


def _of_list(workbench: Workbench, list_id: str, sae: str, feature: int) -> Walk:
    """Along a list that somebody keeps, over those of its SAEs that are here; ValueError if there
    is no such list.
    """
    here = list_order(workbench, list_id)
    name = workbench.notes.lists.get(list_id).name
    back = address("lists", list=list_id)
    stops = [(_in_address(workbench, each), number) for each, number in here]
    at = here.index((sae, feature)) if (sae, feature) in here else None
    return _along(stops, at, back=back, words=f"“{name}”", carried={"from": back})


def _of_order(
    workbench: Workbench,
    path: str,
    asked: Mapping[str, str],
    order: str,
    sae: str,
    feature: int,
) -> Walk:
    """Along the order that the address has."""
    parts = order.split(".")[:MOST_STEPS] if order else []
    numbers = [
        int(each) for each in parts if each.isascii() and each.isdecimal() and len(each) < 10
    ]
    numbers = [each for each in numbers if each < workbench.sources.d_sae(sae)]
    in_address = _in_address(workbench, sae)
    back = address(path, **asked)
    opened = asked.get("feature", "") if path == "features" else ""
    return _along(
        [(in_address, each) for each in numbers],
        numbers.index(feature) if feature in numbers else None,
        back=back,
        words=f"#{opened}" if opened else ORIGINS[path],
        carried={"from": back, "walk": ".".join(map(str, numbers))},
    )


def _along(stops: list[Stop], at: int | None, **walk: Any) -> Walk:
    if at is None:
        return Walk(**walk)
    return Walk(
        **walk,
        place=at + 1,
        total=len(stops),
        previous=stops[at - 1] if at else None,
        next=stops[at + 1] if at + 1 < len(stops) else None,
    )


def _in_address(workbench: Workbench, sae: str) -> str:
    return "" if sae == workbench.sae_name() else sae
