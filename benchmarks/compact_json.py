"""Results as JSON that is small in a repository, and whose changes can still be read."""

import json
import re
from typing import Any

_SMALL = re.compile(r"(\d)(?:\.(\d+))?e-(\d+)")
"""A number as Python writes it below 0.0001."""


def compact_json(value: Any, indent: int = 0) -> str:
    """A key a line, but one line for a list of numbers or of lists of them, and for each object of
    a list of objects; no white space within a line.
    """
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        inside = [f"{pad}{json.dumps(k)}: {compact_json(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(inside) + "\n" + " " * indent + "}" if inside else "{}"
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        inside = [pad + json.dumps(v, separators=(",", ":")) for v in value]
        return "[\n" + ",\n".join(inside) + "\n" + " " * indent + "]"
    text = json.dumps(value, separators=(",", ":"))
    return text if '"' in text else _SMALL.sub(_shorter, text)


def _shorter(number: re.Match[str]) -> str:
    """5.332e-06 as 5332e-9, which is the same number to every reader."""
    digits = number[2] or ""
    return f"{number[1]}{digits}e-{int(number[3]) + len(digits)}"
