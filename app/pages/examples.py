"""Texts and edits that the pages offer first; a bundle brings them in `bundle.json`.

`{"prompts": ["text", ...], "steer": [{"title", "prompt", "edits", "sae", ...}, ...]}`; a run of a
chat model may have `messages` instead of a prompt.
"""

from collections.abc import Mapping
from typing import Any

from app.service import Service


def prompts(service: Service) -> list[str]:
    """Texts to analyse."""
    written = service.bundle.examples.get("prompts", [])
    return [text for text in written if isinstance(text, str)]


def steerings(service: Service) -> list[dict[str, Any]]:
    """Steering runs, as the steering page's settings with a title.

    Those that count in multiples of largest activations are left out where no index knows them.
    """
    written = service.bundle.examples.get("steer", [])
    runs = [dict(run) for run in written if isinstance(run, Mapping)]
    runs = [run for run in runs if "prompt" in run or "messages" in run]
    return [run for run in runs if not _needs_an_index(service, run)]


def _needs_an_index(service: Service, run: Mapping[str, Any]) -> bool:
    """Whether an edit counts in multiples of a largest activation that no index knows."""
    first, *_ = service.bundle.sae_names
    return any(
        not service.bundle.index_path(edit.get("sae") or run.get("sae") or first).is_file()
        for edit in run.get("edits", [])
        if "value" not in edit and edit.get("mode", "set") not in ("scale", "ablate")
    )
