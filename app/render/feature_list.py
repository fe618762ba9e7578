"""The list of features: a search form and a table with sortable heads, 50 to a page."""

import math
from collections.abc import Mapping
from typing import Any, Final

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

FREQUENCIES: Final = (0.00001, 0.0001, 0.001, 0.01, 0.1)
"""Choices of the frequency filter."""


def list_html(found: Data, query: Data, *, default_sae: str, page_size: int) -> str:
    """The page from `Service.search_features`'s answer and the query that led to it."""
    sae = "" if found["sae"] == default_sae else found["sae"]
    query = dict(query, sae=sae)
    return (
        f'<div data-view="list"><h1>Features</h1>{_form(query)}'
        f'<section data-part="results" id="results" aria-label="Features found">'
        f"{_results(found, query, page_size)}</section></div>"
    )


def _form(query: Data) -> str:
    def choices(name: str, chosen: float, bound: float, words: str) -> str:
        values: list[float] = sorted({*FREQUENCIES, *([chosen] if chosen != bound else [])})
        options = [f'<option value="">{words}</option>']
        for value in values:
            selected = " selected" if value == chosen else ""
            options.append(f'<option value="{value:.6g}"{selected}>{percent(value)}</option>')
        return f'<select name="{name}">{"".join(options)}</select>'

    return (
        '<form class="search" role="search" action="features" data-search>'
        '<label class="grow"><span class="vh">Search by number, token or signature</span>'
        f'<input type="search" name="q" value="{escape(query["q"])}" autocomplete="off" '
        'placeholder="Number, token or signature" spellcheck="false" maxlength="200" '
        'aria-keyshortcuts="/"></label>'
        f"<label>fires on at least {choices('min', query['min'], 0.0, 'any share')}</label>"
        f"<label>at most {choices('max', query['max'], 1.0, 'any share')}</label>"
        f'<input type="hidden" name="sae" value="{escape(query["sae"])}">'
        f'<input type="hidden" name="sort" value="{escape(query["sort"])}">'
        f'<input type="hidden" name="desc" value="{"" if query["desc"] else "0"}">'
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
    heads = "".join(_head(key, name, numeric, query) for key, name, numeric in COLUMNS)
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
    address = _address(query, sort=key, desc="" if descending else "0", page="")
    return f'<th scope="col"{side}{state}><a id="sort-{key}" href="{address}">{words}</a></th>'


def _kind(key: str, query: Data) -> str:
    """Class of a numeric column; a phone shows one of them: what is sorted by, or the frequency."""
    numeric = [name for name, _, is_number in COLUMNS if is_number]
    first = query["sort"] if query["sort"] in numeric else "frequency"
    return "n" if key == first else "n rest"


def _row(feature: Data, query: Data) -> str:
    number_ = feature["feature"]
    address = link("features", sae=query["sae"], feature=number_)
    share = feature["frequency"]
    # Log bar: full at 100 %, empty at one token in a million.
    width = 100 * max(0.0, 1 + math.log10(share) / 6) if share > 0 else 0.0
    numbers = "".join(
        f'<td class="{_kind(key, query)}">{number(feature[key])}</td>'
        for key in ("max_act", "mean_act", "threshold")
    )
    return (
        f'<tr><td class="id"><a href="{address}">#{number_}</a></td>'
        f'<td class="words"><a href="{address}" tabindex="-1">'
        f"{signature_html(feature['signature'])}</a></td>"
        f'<td class="{_kind("frequency", query)} share"><span class="mini" aria-hidden="true">'
        f'<i style="width:{width:.1f}%"></i></span><span>{percent(share)}</span></td>{numbers}</tr>'
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
        "sort": "" if query["sort"] == "frequency" else query["sort"],
        "desc": "" if query["desc"] else "0",
        "min": f"{query['min']:.6g}" if query["min"] > 0 else "",
        "max": f"{query['max']:.6g}" if query["max"] < 1 else "",
        "page": "" if query["page"] == 1 else query["page"],
    }
    kept |= changed
    if kept["sort"] == "frequency":
        kept["sort"] = ""
    return link("features", **kept)
