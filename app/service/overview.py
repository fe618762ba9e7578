"""The overview: the bundle, its model and SAEs with their measured numbers, where to begin."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from app.engine import facts
from app.engine.indexes import NoIndexError
from app.engine.workbench import Workbench
from sae_core.definitions import DEFINITIONS


def overview(workbench: Workbench, sae: str = "") -> dict[str, Any]:
    """What a bundle holds, and what is known of one of its SAEs.

    Needs no model in memory. What cannot be read has a `problem`, the sentence that says why.
    """
    name = workbench.sae_name(sae)
    saes = workbench.saes()
    chosen = next(row for row in saes if row["name"] == name)
    index = missing = None
    if chosen["problem"] is None:
        try:
            index = workbench.index(name)
        except NoIndexError as error:
            missing = error.missing
    return {
        "sae": name,
        "bundle": facts.bundle_facts(workbench.bundle),
        "model": model_facts(workbench),
        "saes": saes,
        "measured": chosen["measured"],
        "missing": missing and asdict(missing),
        "memory": memory(workbench),
        "check": workbench.checker.state(name),
        "comparison": facts.comparison(workbench.bundle),
        "definitions": DEFINITIONS,
        **facts.index_facts(index),
    }


def model_facts(workbench: Workbench) -> dict[str, Any]:
    """What is known of the model; more once it is loaded, a `problem` if it could not be."""
    loaded = None if workbench.engine is None else workbench.engine.model
    return facts.facts_of_model(workbench.bundle, loaded, workbench.model_problem)


def memory(workbench: Workbench) -> dict[str, Any] | None:
    """Bytes on the model's device, as `Engine.memory` has them; None before it is loaded."""
    return None if workbench.engine is None else workbench.engine.memory()


def chat(workbench: Workbench) -> dict[str, Any] | None:
    """How the model's conversations are written; None without a chat template, or not yet.

    `system` is whether there are system turns, `end` the token that ends a turn of the model.
    """
    template = None if workbench.engine is None else workbench.engine.chat
    return template and {"system": template.has_system, "end": template.end}


def example_prompts(workbench: Workbench) -> list[str]:
    """Texts to analyse that the bundle offers."""
    written = workbench.bundle.examples.get("prompts", [])
    return [text for text in written if isinstance(text, str)]


def example_runs(workbench: Workbench) -> list[dict[str, Any]]:
    """Steering runs that the bundle offers, as the steering page's settings with a title.

    Those that count in multiples of largest activations are left out where no index knows them.
    """
    written = workbench.bundle.examples.get("steer", [])
    runs = [dict(run) for run in written if isinstance(run, Mapping)]
    runs = [run for run in runs if "prompt" in run or "messages" in run]
    return [run for run in runs if not _needs_an_index(workbench, run)]


def example_proofs(workbench: Workbench) -> list[dict[str, Any]]:
    """Proofs that the bundle offers, as `/prove` takes them, with a title; likewise."""
    written = workbench.bundle.examples.get("proofs", [])
    proofs = [dict(proof) for proof in written if isinstance(proof, Mapping) and "prompt" in proof]
    return [proof for proof in proofs if not _needs_an_index(workbench, proof)]


def _needs_an_index(workbench: Workbench, run: Mapping[str, Any]) -> bool:
    """Whether an edit counts in multiples of a largest activation that no index knows."""
    first, *_ = workbench.bundle.sae_names
    return any(
        not workbench.bundle.index_path(edit.get("sae") or run.get("sae") or first).is_file()
        for edit in run.get("edits", [])
        if "value" not in edit and edit.get("mode", "set") not in ("scale", "ablate")
    )
