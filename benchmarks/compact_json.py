"""Results as JSON that is small in a repository, and whose changes can still be read."""

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import groupby
from typing import Any

_SMALL = re.compile(r"\b\d(?:\.\d+)?e-\d+|\b0\.00+[1-9]\d*")
"""A number below 0.01 as Python writes it."""


def compact_json(value: Any, indent: int = 0) -> str:
    """A key a line, but one line for a list of numbers or of lists of them, and for each object of
    a list of objects and each list of a list of lists with text; no white space within a line.
    """
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        inside = [f"{pad}{json.dumps(k)}: {compact_json(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(inside) + "\n" + " " * indent + "}" if inside else "{}"
    text = json.dumps(value, separators=(",", ":"))
    if '"' not in text:
        return _SMALL.sub(_shorter, text)
    if isinstance(value, list) and isinstance(value[0], dict | list):
        if _objects(value) and "cells" in value[0]:
            inside = [pad + compact_json(v, indent + 1) for v in value]
        else:
            inside = [pad + json.dumps(v, separators=(",", ":")) for v in value]
        return "[\n" + ",\n".join(inside) + "\n" + " " * indent + "]"
    return text


def _shorter(number: re.Match[str]) -> str:
    """5.332e-06 as 5332e-9 and 0.000113 as 113e-6, which are the same numbers to every reader."""
    parts = Decimal(number[0]).as_tuple()
    return f"{''.join(map(str, parts.digits))}e{parts.exponent}"


def tabled(value: Any) -> Any:
    """Results whose `rows`, objects in a list at any depth, are tables that name each key once: one
    for all rows that follow one another with the same keys.
    """
    if not isinstance(value, dict):
        return value
    return {
        name: _tables(part) if name == "rows" and _objects(part) else tabled(part)
        for name, part in value.items()
    }


def untabled(value: Any) -> Any:
    """What `tabled` was given."""
    if not isinstance(value, dict):
        return value
    return {
        name: [
            dict(zip(table["columns"], cells, strict=True))
            for table in part
            for cells in table["cells"]
        ]
        if name == "rows" and _objects(part) and "cells" in part[0]
        else untabled(part)
        for name, part in value.items()
    }


def _tables(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"columns": list(keys), "cells": [list(row.values()) for row in part]}
        for keys, part in groupby(rows, key=tuple)
    ]


def _objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
