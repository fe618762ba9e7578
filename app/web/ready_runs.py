"""Steering runs that are offered for a bundle that brings none."""

from collections.abc import Mapping
from typing import Any, Final

DEFAULT_PROMPT: Final = "The old man walked into the"
IDEAS: Final = 4
"""How many there are at most."""


def from_features(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An overview's features worth opening, each switched on."""
    return [
        {
            "title": f"#{item['feature']} {item['signature']}",
            "sae": data["sae"],
            "prompt": DEFAULT_PROMPT,
            "edits": [{"feature": item["feature"], "mode": "set", "strength": 1.0}],
        }
        for item in data["highlights"][:IDEAS]
    ]
