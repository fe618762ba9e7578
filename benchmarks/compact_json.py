"""Results as JSON that is small in a repository, and whose changes can still be read."""

import json
from typing import Any


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
    return json.dumps(value, separators=(",", ":"))
