"""Proofs that a bundle brings, each an address of the Steer page that runs it."""

import json
from collections.abc import Mapping
from typing import Any, Final

from app.engine.workbench import Workbench
from app.service import overview
from app.web.templating import address

_IN_ADDRESS: Final = {
    "max_new_tokens": "tokens",
    "temperature": "temperature",
    "seed": "seed",
    "edit": "proof",
    "seeds": "proof_seeds",
}
"""How the page's address calls the numbers of a proof."""


def ready_proofs(workbench: Workbench) -> list[dict[str, Any]]:
    """Title, prompt, edits in words and address of each."""
    return [
        {
            "title": proof.get("title", proof["prompt"]),
            "prompt": proof["prompt"],
            "edits": "; ".join(map(_words, proof["edits"])),
            "address": proof_address(proof),
        }
        for proof in overview.example_proofs(workbench)
    ]


def proof_address(proof: Mapping[str, Any]) -> str:
    """Where the Steer page runs a proof of these settings."""
    numbers = {"edit": 0, **proof}
    return address(
        "steer",
        sae=proof.get("sae", ""),
        prompt=proof["prompt"],
        edits=json.dumps(proof["edits"]),
        **{name: numbers.get(key) for key, name in _IN_ADDRESS.items()},
    )


def _words(edit: Mapping[str, Any]) -> str:
    """An edit as js/steer-settings.js words it."""
    feature = f"#{edit['feature']}"
    much = edit.get("value", f"{edit.get('strength', 1)} × its largest")
    return {
        "set": f"{feature} set to {much}",
        "scale": f"{feature} scaled by {edit.get('value', edit.get('strength', 1))}",
        "add": f"{much} added to {feature}",
        "cap": f"{feature} capped at {much}",
        "ablate": f"{feature} switched off",
    }[edit.get("mode", "set")]
