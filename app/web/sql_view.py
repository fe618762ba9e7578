"""What the SQL page shows: a query, recipes, the views' columns, and the rows of an answer."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.engine.workbench import Workbench
from app.requests import SqlRequest, parsed
from app.service import features as features_service
from app.service import sql_answers as service
from app.web.numbers import number
from app.web.templating import address
from app.web.token_text import quoted, token_text
from sae_core.index.sql_recipes import RECIPES
from sae_core.index.views import VIEWS

SHOWN_ROWS: Final = 200
"""Rows of an answer on the page; the file has them all."""
LONGEST_CELL: Final = 1000
"""Characters of a cell, or items of a list in it."""
_FEATURES: Final = ("feature", "neighbour")
"""Columns of numbers of features."""
_WHOLE: Final = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UBIGINT", "UINTEGER")
_FRACTIONS: Final = ("FLOAT", "DOUBLE", "DECIMAL")

Cell = dict[str, Any]


def sql(workbench: Workbench, query: Mapping[str, str]) -> dict[str, Any]:
    """The page with the answer to the address's query, or without one."""
    sae = workbench.sae_name(query.get("sae"))
    in_address = "" if sae == workbench.sae_name() else sae
    asked = query.get("q", "").replace("\r\n", "\n")
    shown = {
        "asked": asked,
        "written": asked or RECIPES[0].query,
        "recipes": [
            {"title": each.title, "href": address("sql", sae=in_address, q=each.query)}
            for each in RECIPES
        ],
        "views": [
            {"name": name, "rows": view.rows, "columns": view.columns}
            for name, view in VIEWS.items()
        ],
        "limits": service.query_limits(workbench),
        "missing": features_service.missing(workbench, sae),
        "refused": "",
        "answer": None,
    }
    if not asked.strip() or shown["missing"]:
        return shown
    begun = time.monotonic()
    try:
        answer = service.sql_on_page(workbench, request_of(workbench, query, rows=SHOWN_ROWS))
    except ValueError as error:
        return shown | {"refused": str(error)}
    files = {kind: address(f"sql.{kind}", sae=in_address, q=asked) for kind in ("csv", "parquet")}
    beside = {"files": files, "seconds": time.monotonic() - begun}
    return shown | {"answer": answer_page(answer, in_address) | beside}


def request_of(
    workbench: Workbench, query: Mapping[str, str], *, rows: int | None = None
) -> SqlRequest:
    """The address's query as a request; ValueError with one sentence if it is none."""
    settings = workbench.settings
    limit = settings.max_sql_rows if rows is None else min(rows, settings.max_sql_rows)
    given = {"query": query.get("q", ""), "sae": query.get("sae", ""), "limit": limit}
    return parsed(SqlRequest, given, settings)


def answer_page(answer: Mapping[str, Any], in_address: str) -> dict[str, Any]:
    """The template's values from the service's answer."""
    columns: Sequence[Mapping[str, str]] = answer["columns"]
    coloured = _coloured(columns)
    rows = []
    for row in answer["rows"]:
        cells = [
            _cell(column, value, in_address) for column, value in zip(columns, row, strict=True)
        ]
        if coloured is not None:
            tokens, activations = (row[place] for place in coloured)
            if _makes_heat_map(tokens, activations):
                cells[coloured[0]] = {
                    "kind": "heat",
                    "tokens": tokens,
                    "activations": activations,
                    "scale": max(activations),
                    "peak": activations.index(max(activations)) if max(activations) > 0 else None,
                }
        rows.append([cell for n, cell in enumerate(cells) if coloured is None or n != coloured[1]])
    heads = [
        {"name": column["name"], "type": column["type"], "numeric": _is_numeric(column["type"])}
        for n, column in enumerate(columns)
        if coloured is None or n != coloured[1]
    ]
    return {
        "heads": heads,
        "rows": rows,
        "count": len(rows),
        "more": answer["more"],
    }


def _coloured(columns: Sequence[Mapping[str, str]]) -> tuple[int, int] | None:
    """The columns of tokens and of activations that make a heat map together."""
    places = {column["name"]: n for n, column in enumerate(columns)}
    pair = places.get("tokens"), places.get("activations")
    if pair[0] is None or pair[1] is None:
        return None
    types = columns[pair[0]]["type"], columns[pair[1]]["type"]
    return (pair[0], pair[1]) if types == ("VARCHAR[]", "DOUBLE[]") else None


def _makes_heat_map(tokens: Any, activations: Any) -> bool:
    """Whether there is an activation for each token, none of either is NULL, and there are some."""
    if not tokens or not activations or len(tokens) != len(activations):
        return False
    return not any(each is None for each in (*tokens, *activations))


def _is_numeric(kind: str) -> bool:
    return kind.partition("(")[0] in (*_WHOLE, *_FRACTIONS)


def _cell(column: Mapping[str, str], value: Any, in_address: str) -> Cell:
    """How a value is drawn."""
    name, kind = column["name"].lower(), column["type"]
    if value is None:
        return {"kind": "null"}
    if name in _FEATURES and kind in _WHOLE:
        href = address("features", sae=in_address, feature=value)
        return {"kind": "feature", "feature": value, "href": href}
    if kind in _WHOLE:
        return {"kind": "number", "text": f"{value:,}" if isinstance(value, int) else value}
    if kind.partition("(")[0] in _FRACTIONS:
        return {"kind": "number", "text": number(value) if isinstance(value, float) else value}
    if kind == "VARCHAR" and name == "token":
        return {"kind": "token", "text": quoted(_short(value))}
    if kind == "VARCHAR" and name == "text":
        return {"kind": "text", "text": token_text(_short(value))}
    if isinstance(value, list) and name == "tokens" and kind == "VARCHAR[]":
        shown = [None if each is None else quoted(each) for each in value[:LONGEST_CELL]]
        return {"kind": "tokens", "tokens": shown}
    if isinstance(value, list | dict):
        return {"kind": "plain", "text": _short(json.dumps(value, ensure_ascii=False))}
    return {"kind": "plain", "text": _short(str(value))}


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"
