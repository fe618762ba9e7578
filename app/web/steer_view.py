"""What the Steer page shows before anything runs: the form's parameters, and where to begin."""

from collections.abc import Mapping
from typing import Any, Final

from app.engine.workbench import Workbench
from app.requests import EditRequest, LadderRequest, ProveRequest, SteerRequest, parameters_of
from app.service import overview
from app.web.ready_proofs import ready_proofs

DEFAULT_PROMPT: Final = "The old man walked into the"
DEFAULT_QUESTION: Final = "What is the best way to spend a Sunday?"
IDEAS: Final = 4
"""Runs that are offered for a bundle that brings none."""


def steer(workbench: Workbench, query: Mapping[str, str]) -> dict[str, Any]:
    """A prompt continued as it is and with features edited, side by side."""
    settings = workbench.settings
    runs = overview.example_runs(workbench)
    prompts = [run["prompt"] for run in runs if "prompt" in run]
    return {
        "prompt": prompts[0] if prompts else DEFAULT_PROMPT,
        "question": DEFAULT_QUESTION,
        "parameters": {each.name: each for each in parameters_of(SteerRequest, settings)},
        "ladder_parameters": {each.name: each for each in parameters_of(LadderRequest, settings)},
        "proof_parameters": {each.name: each for each in parameters_of(ProveRequest, settings)},
        "proofs": ready_proofs(workbench),
        "edit": {each.name: each for each in parameters_of(EditRequest, settings)},
        "ideas": runs or _from_features(workbench, query.get("sae", "")),
    }


def _from_features(workbench: Workbench, sae: str) -> list[dict[str, Any]]:
    """Ideas for a bundle that brings none: its features worth opening, switched on."""
    data = overview.overview(workbench, sae)
    return [
        {
            "title": f"#{item['feature']} {item['signature']}",
            "sae": data["sae"],
            "prompt": DEFAULT_PROMPT,
            "edits": [{"feature": item["feature"], "mode": "set", "strength": 1.0}],
        }
        for item in data["highlights"][:IDEAS]
    ]
