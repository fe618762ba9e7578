"""Texts and edits that the pages offer first; a bundle brings them in `bundle.json`.

`{"prompts": ["text", ...], "steer": [{"title", "prompt", "edits", "sae", ...}, ...]}`
"""

from collections.abc import Mapping
from typing import Any

from app.service import Service


def prompts(service: Service) -> list[str]:
    """Texts to analyse."""
    written = service.bundle.examples.get("prompts", [])
    return [text for text in written if isinstance(text, str)]


def steerings(service: Service) -> list[dict[str, Any]]:
    """Steering runs, as the steering page's settings with a title."""
    written = service.bundle.examples.get("steer", [])
    return [dict(run) for run in written if isinstance(run, Mapping) and "prompt" in run]
