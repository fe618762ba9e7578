"""The list of features: a search form and a table with sortable heads, 50 to a page."""

import math
from collections.abc import Mapping
from typing import Any, Final

from app.render.notices import missing_html
from app.render.numbers import number, percent
from app.render.text import escape, link, signature_html

Data = Mapping[str, Any]

COLUMNS: Final = (
    ("id", "feature", False),
    ("signature", "signature", False),
    ("frequency", "fires on", True),
    ("max_act", "largest", True),
    ("mean_act", "mean", True),
    ("threshold", "threshold", True),
)
"""(sort key, head, numeric); `signature` cannot be sorted by."""

UNINDEXED: Final = (
    ("id", "feature", False),
    ("signature", "makes the model expect", False),
    ("threshold", "threshold", True),
)
"""The same for an SAE without an index."""

FREQUENCIES: Final = (0.00001, 0.0001, 0.001, 0.01, 0.1)
"""Choices of the frequency filter."""


def list_html(found: Data, query: Data, *, default_sae: str, page_size: int) -> str:
    """The page from `Service.search_features`'s answer and the query that led to it."""
    sae = "" if found["sae"] == default_sae else found["sae"]
    missing = found["missing"]
    query = dict(query, sae=sae, indexed=missing is None, **_order(query, indexed=missing is None))
    return (
        f'<div data-view="list{"" if missing is None else "-unindexed"}"><h1>Features</h1>'
        f"{_form(query)}{missing_html(missing) if missing else ''}"
        '<section data-part="results" id="results" aria-label="Features found">'
        f"{_results(found, query, page_size)}</section></div>"
    )


def _order(query: Data, *, indexed: bool) -> dict[str, Any]:
    """What the list is sorted by, where the address leaves it to the list."""
    if query["sort"]:
        return {}
    return {"sort": "frequency"} if indexed else {"sort": "id", "desc": False}


def _form(query: Data) -> str:
    def choices(name: str, chosen: float, bound: float, words: str) -> str:
        values: list[float] = sorted({*FREQUENCIES, *([chosen] if chosen != bound else [])})
        options = [f'<option value="">{words}</option>']
        for value in values:
            selected = " selected" if value == chosen else ""
            options.append(f'<option value="{value:.6g}"{selected}>{percent(value)}</option>')
        return f'<select name="{name}">{"".join(options)}</select>'

    jump = "" if query["indexed"] else " data-jump"
    filters = (
        f"<label>fires on at least {choices('min', query['min'], 0.0, 'any share')}</label>"
        f"<label>at most {choices('max', query['max'], 1.0, 'any share')}</label>"
    )
    find = "Number, token or signature" if query["indexed"] else "Number of a feature"
    order = _written(query["sort"], query["desc"], query)
    return (
        f'<form class="search" role="search" action="features" data-search{jump}>'
        '<label class="grow">'
        f'<span class="vh">{"Search by number, token or signature" if not jump else find}</span>'
        f'<input type="search" name="q" value="{escape(query["q"])}" autocomplete="off" '
        f'placeholder="{find}" spellcheck="false" maxlength="200" aria-keyshortcuts="/"></label>'
        f"{filters if query['indexed'] else ''}"
        f'<input type="hidden" name="sae" value="{escape(query["sae"])}">'
        f'<input type="hidden" name="sort" value="{escape(order["sort"])}">'
        f'<input type="hidden" name="desc" value="{order["desc"]}">'
        "<noscript><button>Search</button></noscript></form>"
    )


def _results(found: Data, query: Data, page_size: int) -> str:
    total, features = found["total"], found["features"]
    if not features:
        clear = link("features", sae=query["sae"])
        return (
            f'<p class="quiet" role="status">No feature matches. <a href="{clear}">Show all</a></p>'
        )
    start = (query["page"] - 1) * page_size
    rows = "".join(_row(feature, query) for feature in features)
    columns = COLUMNS if query["indexed"] else UNINDEXED
    heads = "".join(_head(key, name, numeric, query) for key, name, numeric in columns)
    last = math.ceil(total / page_size)
    shown = f"{start + 1:,} to {start + len(features):,} of {total:,}"
    return (
        f'<div class="between"><p class="quiet" role="status">{shown}</p>'
        f"{_paging(query, last, 'Pages, above')}</div>"
        f'<div class="panel scroll"><table class="features"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{_paging(query, last, 'Pages, below')}"
    )


def _head(key: str, name: str, numeric: bool, query: Data) -> str:
    side = f' class="{_kind(key, query)}"' if numeric else ""
    if key == "signature":
        return f'<th scope="col"{side}>{name}</th>'
    current = query["sort"] == key
    descending = not query["desc"] if current else key != "id"
    state = ""
    if current:
        state = f' aria-sort="{"descending" if query["desc"] else "ascending"}"'
    arrow = ("↓" if query["desc"] else "↑") if current else ""
    mark = f'<span class="arrow" aria-hidden="true">{arrow}</span>' if arrow else ""
    words = f"{mark} {name}" if numeric else f"{name} {mark}"
    address = _address(query, **_written(key, descending, query), page="")
    return f'<th scope="col"{side}{state}><a id="sort-{key}" href="{address}">{words}</a></th>'


def _kind(key: str, query: Data) -> str:
    """Class of a numeric column; a phone shows one of them: what is sorted by, or the frequency."""
    columns = COLUMNS if query["indexed"] else UNINDEXED
    numeric = [name for name, _, is_number in columns if is_number]
    first = query["sort"] if query["sort"] in numeric else numeric[0]
    return "n" if key == first else "n rest"


def _row(feature: Data, query: Data) -> str:
    number_ = feature["feature"]
    address = link("features", sae=query["sae"], feature=number_)
    keys = ("max_act", "mean_act", "threshold") if query["indexed"] else ("threshold",)
    numbers = "".join(
        f'<td class="{_kind(key, query)}">{number(feature[key])}</td>' for key in keys
    )
    often = _frequency(feature["frequency"], query) if query["indexed"] else ""
    return (
        f'<tr><td class="id"><a href="{address}">#{number_}</a></td>'
        f'<td class="words"><a href="{address}" tabindex="-1">'
        f"{signature_html(feature['signature'])}</a></td>"
        f"{often}{numbers}</tr>"
    )


def _frequency(share: float, query: Data) -> str:
    # Log bar: full at 100 %, empty at one token in a million.
    width = 100 * max(0.0, 1 + math.log10(share) / 6) if share > 0 else 0.0
    return (
        f'<td class="{_kind("frequency", query)} share"><span class="mini" aria-hidden="true">'
        f'<i style="width:{width:.1f}%"></i></span><span>{percent(share)}</span></td>'
    )


def _paging(query: Data, last: int, label: str) -> str:
    if last <= 1:
        return ""
    page = query["page"]
    where = label.rsplit(" ", 1)[-1]

    def step(target: int, text: str, name: str) -> str:
        if not 1 <= target <= last:
            return f'<span class="button off" aria-disabled="true">{text}</span>'
        address = _address(query, page="" if target == 1 else target)
        return f'<a class="button" id="{name}-{where}" href="{address}">{text}</a>'

    return (
        f'<nav class="paging" aria-label="{label}">{step(page - 1, "‹ Previous", "previous")}'
        f'<span class="quiet">{page:,} of {last:,}</span>{step(page + 1, "Next ›", "next")}</nav>'
    )


def _address(query: Data, **changed: object) -> str:
    kept = {
        "sae": query["sae"],
        "q": query["q"],
        **_written(query["sort"], query["desc"], query),
        "min": f"{query['min']:.6g}" if query["min"] > 0 else "",
        "max": f"{query['max']:.6g}" if query["max"] < 1 else "",
        "page": "" if query["page"] == 1 else query["page"],
    }
    return link("features", **(kept | changed))


def _written(sort: str, descending: bool, query: Data) -> dict[str, str]:
    """Sort order and direction as an address has them: empty where they are the list's own."""
    if not query["indexed"] and (sort, descending) == ("id", False):
        return {"sort": "", "desc": ""}
    return {"sort": "" if sort == "frequency" else sort, "desc": "" if descending else "0"}
