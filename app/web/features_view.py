"""What the Features page shows: the searchable list, or one feature where the address names it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from app.engine.feature_sources import UNINDEXED_SORTS
from app.engine.workbench import Workbench
from app.requests import FeatureRequest, SearchRequest, parsed
from app.service import features as service
from app.service.labels import with_labels
from app.service.lists import lists_of
from app.service.notes import kept
from app.web.explanation_view import explanation_part
from app.web.feature_view import feature_page
from app.web.list_query import PAGE_SIZE, page_size, search_arguments, wanted_list
from app.web.marked_matches import (
    marked_signature,
    nowhere_words,
    pieces_sentence,
    shown_context,
)
from app.web.numbers import NO_BREAK, number, one_in, percent
from app.web.query import whole
from app.web.templating import address
from app.web.walk import walk_of
from sae_core.definitions import SCORE_DEFINITIONS
from sae_core.index.feature_search import BEST
from sae_core.index.text_folding import marked_parts

Data = Mapping[str, Any]

FREQUENCIES: Final = (0.00001, 0.0001, 0.001, 0.01, 0.1)
"""Choices of the frequency filter."""

SCORES: Final = (0.01, 0.05, 0.2, 0.5, 0.9)
"""Choices of the filter by output score."""

SIDE_EFFECTS: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Choices of the filter by side effect, nats."""

KEPT: Final = (("starred", "starred"), ("labelled", "labelled"), ("noted", "with a note"))
"""(value, words) of the filter by what is kept."""

COLUMNS: Final = (
    ("frequency", "fires on"),
    ("max_act", "largest"),
    ("mean_act", "mean"),
    ("threshold", "threshold"),
    ("output_score", "writes"),
    ("side_effect", "side effect"),
)
"""(sort key, head) of the columns of numbers; without an index there is the threshold alone, and
the last two are of indexes that have them."""

_LEAST: Final = 6
"""Decades of the bar of frequencies: it is empty at one token in a million."""
BARS: Final = (
    f"Bars are logarithmic: from {one_in(10.0**-_LEAST)} tokens, empty, to every token, full."
)


def features(workbench: Workbench, query: Mapping[str, str]) -> dict[str, Any]:
    """The list or the feature that the address names."""
    sae = workbench.sae_name(query.get("sae"))
    first, text = workbench.sae_name(), query.get("text", "")
    in_address = "" if sae == first else sae
    if query.get("feature") == "random":
        number_ = service.random_feature(workbench, sae)
        return {"redirect": address("features", sae=in_address, feature=number_, text=text)}
    if "feature" in query:
        arguments = {"feature": whole(dict(query), "feature", 0), "sae": sae}
        answer = service.feature(workbench, parsed(FeatureRequest, arguments, workbench.settings))
        data = with_labels(workbench, answer) | {"kept": kept(workbench, sae, answer["feature"])}
        explained = {"explained": explanation_part(workbench, data)}
        in_lists = {"lists_there": lists_of(workbench, sae, answer["feature"])}
        walk = walk_of(workbench, query, sae, answer["feature"])
        shown = feature_page(data, in_address=in_address, text=text, walk=walk)
        return shown | explained | in_lists
    return _list(workbench, sae, in_address, query)


def _list(
    workbench: Workbench, sae: str, in_address: str, query: Mapping[str, str]
) -> dict[str, Any]:
    indexed = workbench.sources.missing(sae) is None
    wanted = wanted_list(query, in_address, indexed=indexed)
    size = page_size(workbench.settings)
    request = search_arguments(wanted, sae, limit=size, offset=(wanted["page"] - 1) * size)
    can_keep = workbench.notes.kept
    try:
        matches = with_labels(
            workbench,
            service.search_features(workbench, parsed(SearchRequest, request, workbench.settings)),
        )
    except ValueError as error:
        # The form stays, so that what was typed can be corrected.
        missing = service.missing(workbench, sae)
        scored = service.scored(workbench, sae)
        matches = {"sae": sae, "missing": missing, "scored": scored, "total": 0, "features": []}
        return list_page(matches, wanted, can_keep) | {"refused": str(error)}
    last = max(1, math.ceil(matches["total"] / size))
    if wanted["page"] > last:
        raise ValueError(f"There is no page {wanted['page']:,}: the list has {last:,}.")
    return list_page(matches, wanted, can_keep, size)


def list_page(
    matches: Data, wanted: Mapping[str, Any], can_keep: bool = True, size: int = PAGE_SIZE
) -> dict[str, Any]:
    """The template's values from the service's answer and what was wanted of the list; `can_keep`
    is whether there are stars, `size` how many features a page has.
    """
    indexed = matches["missing"] is None
    wanted = dict(wanted)
    own = _own_order(wanted["q"], indexed)
    if not wanted["sort"] or (wanted["sort"] == BEST and own != BEST):
        wanted |= {"sort": own, "desc": indexed}
    columns = [each for each in COLUMNS if indexed or each[0] in UNINDEXED_SORTS]
    if not matches["scored"]:
        columns = [each for each in columns if each[0] not in SCORE_DEFINITIONS]
    return {
        "view": "list",
        "indexed": indexed,
        "missing": matches["missing"],
        "refused": "",
        "wanted": wanted,
        "order": _written(wanted["sort"], wanted["desc"], own),
        "best": None
        if own != BEST or wanted["sort"] == BEST
        else _address(wanted, indexed, sort="", desc="", page=""),
        "order_words": _order_words(wanted["sort"], own),
        "pieces": pieces_sentence(matches),
        "nowhere": nowhere_words(matches),
        "least": _choices(FREQUENCIES, wanted["min"], 0.0, percent),
        "most": _choices(FREQUENCIES, wanted["max"], 1.0, percent),
        "scored": matches["scored"],
        "scores": _choices(SCORES, wanted["score"], 0.0, "{:g}".format),
        "side_effects": _choices(SIDE_EFFECTS, wanted["effect"], None, _nats),
        "definitions": SCORE_DEFINITIONS,
        "kept_choices": _kept_choices(wanted["kept"]) if can_keep else [],
        "named_sae": matches["sae"],
        "heads": [_head(*each, wanted, indexed) for each in (("id", "feature"), *columns)],
        "rows": [
            _row(feature, columns, wanted["sae"], matches.get("marks", ()))
            for feature in matches["features"]
        ],
        "bars": BARS if indexed else "",
        "total": matches["total"],
        "first": (wanted["page"] - 1) * size + 1,
        "paging": _paging(matches["total"], wanted, indexed, size),
    }


def _nats(value: float) -> str:
    return f"{value:g}{NO_BREAK}nats"


def _choices(
    offered: Sequence[float],
    chosen: float | None,
    bound: float | None,
    written: Callable[[float], str],
) -> list[dict[str, Any]]:
    """The options of a filter; one that a link names is among them."""
    others = [chosen] if chosen is not None and chosen != bound else []
    values: list[float] = sorted({*offered, *others})
    return [
        {"value": f"{value:.6g}", "words": written(value), "chosen": value == chosen}
        for value in values
    ]


def _kept_choices(chosen: str) -> list[dict[str, Any]]:
    return [{"value": value, "words": words, "chosen": value == chosen} for value, words in KEPT]


def _head(key: str, words: str, wanted: Data, indexed: bool) -> dict[str, Any]:
    """A column's head: where a click leads, and the direction that it is sorted in."""
    current = wanted["sort"] == key
    descending = not wanted["desc"] if current else key != "id"
    own = _own_order(wanted["q"], indexed)
    changed = {**_written(key, descending, own), "page": ""}
    return {
        "key": key,
        "words": words,
        "href": _address(wanted, indexed, **changed),
        "direction": ("descending" if wanted["desc"] else "ascending") if current else "",
    }


def _row(
    feature: Data, columns: list[tuple[str, str]], in_address: str, marks: Sequence[str]
) -> dict[str, Any]:
    """A feature of the list; a frequency is a logarithmic bar beside its number."""
    cells = [
        {
            "value": percent(feature[key]) if key == "frequency" else number(feature[key]),
            "bar": _decades(feature[key]) if key == "frequency" else None,
        }
        for key, _ in columns
    ]
    return {
        "feature": feature["feature"],
        "signature": feature["signature"],
        "label": feature.get("label"),
        "starred": feature["starred"],
        "marked": marked_signature(feature["signature"], marks),
        "matches": [
            {"parts": marked_parts(each["word"], marks), "share": percent(each["share"])}
            for each in feature.get("matches", ())
        ],
        "context": shown_context(feature.get("context"), marks),
        "href": address("features", sae=in_address, feature=feature["feature"]),
        "cells": cells,
    }


def _decades(frequency: float) -> float:
    """Length of a bar in percent: full at every token, empty at one in a million."""
    return 100 * max(0.0, 1 + math.log10(frequency) / _LEAST) if frequency > 0 else 0.0


def _paging(total: int, wanted: Data, indexed: bool, size: int) -> dict[str, Any] | None:
    """Links to the page before and after, None at either end; None where one page holds all."""
    last = math.ceil(total / size)
    if last <= 1:
        return None

    def link(page: int) -> str | None:
        if not 1 <= page <= last:
            return None
        return _address(wanted, indexed, page="" if page == 1 else page)

    page = wanted["page"]
    return {"page": page, "last": last, "previous": link(page - 1), "next": link(page + 1)}


def _address(wanted: Data, indexed: bool, **changed: object) -> str:
    kept = {
        "sae": wanted["sae"],
        "q": wanted["q"],
        **_written(wanted["sort"], wanted["desc"], _own_order(wanted["q"], indexed)),
        "min": f"{wanted['min']:.6g}" if wanted["min"] > 0 else "",
        "max": f"{wanted['max']:.6g}" if wanted["max"] < 1 else "",
        "score": f"{wanted['score']:.6g}" if wanted["score"] > 0 else "",
        "effect": "" if wanted["effect"] is None else f"{wanted['effect']:.6g}",
        "kept": wanted["kept"],
        "page": "" if wanted["page"] == 1 else wanted["page"],
    }
    return address("features", **(kept | changed))


def _own_order(query: str, indexed: bool) -> str:
    """What the list is sorted by where its address says nothing."""
    if not indexed:
        return "id"
    return BEST if query.strip() else "frequency"


def _order_words(sort: str, own: str) -> str:
    """How a search's matches are ordered; "" without a search."""
    if own != BEST:
        return ""
    if sort != BEST:
        return "Sorted by a column."
    return (
        "Best match first: whole tokens, then beginnings, then what is within one; then by the "
        "share of the firing that lies on them."
    )


def _written(sort: str, descending: bool, own: str) -> dict[str, str]:
    """Sort order and direction as an address has them: empty where they are the list's own."""
    if own == "id" and (sort, descending) == ("id", False):
        return {"sort": "", "desc": ""}
    is_own = sort == own and own != "id"
    return {"sort": "" if is_own else sort, "desc": "" if descending or sort == BEST else "0"}
