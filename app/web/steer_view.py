"""What the Steer page shows before anything runs: the form's parameters, and where to begin."""

from collections.abc import Mapping
from typing import Any, Final

from app.engine.workbench import Workbench
from app.requests import EditRequest, LadderRequest, ProveRequest, SteerRequest, parameters_of
from app.service import overview
from app.web.ready_proofs import ready_proofs
from app.web.ready_runs import DEFAULT_PROMPT, from_features

DEFAULT_QUESTION: Final = "What is the best way to spend a Sunday?"


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
        "can_keep": workbench.notes.kept,
        "proofs": ready_proofs(workbench),
        "edit": {each.name: each for each in parameters_of(EditRequest, settings)},
        "ideas": runs or from_features(overview.overview(workbench, query.get("sae", ""))),
    }
