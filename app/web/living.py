"""The sentence with which the overview opens: a text to read, and a run that steers in place."""

from collections.abc import Mapping
from typing import Any, Final

from app.engine.workbench import Workbench
from app.service import overview
from app.web.ready_runs import from_features

SENTENCE: Final = "The old man walked into the room, opened the letter and said, “I knew it.”"
"""For a bundle that brings no text of its own."""
NEW_TOKENS: Final = 24
"""Tokens that are generated in place: enough to see, and soon there."""


def living(workbench: Workbench, data: Mapping[str, Any]) -> dict[str, Any]:
    """`text`, `token` (which is chosen first, None if not named) and `run`, the first of the
    steering runs that continue a prompt, shortened; None if there is none. `data` is what
    `app.service.overview` answers.
    """
    runs = overview.example_runs(workbench) or from_features(data)
    named = workbench.bundle.examples.get("sentence")
    given = named if isinstance(named, Mapping) else {}
    prompts = overview.example_prompts(workbench)
    text = given.get("text")
    token = given.get("token")
    return {
        "text": text if isinstance(text, str) else prompts[0] if prompts else SENTENCE,
        "token": token if isinstance(text, str) and isinstance(token, int) else None,
        "run": next((_short(run) for run in runs if "prompt" in run), None),
    }


def _short(run: Mapping[str, Any]) -> dict[str, Any]:
    most = min(NEW_TOKENS, run.get("max_new_tokens", NEW_TOKENS))
    return {**run, "max_new_tokens": most}
