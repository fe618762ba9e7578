"""What several SAEs of the bundle cost the language model, alone and together."""

from typing import TYPE_CHECKING, Any, Final

from app.engine.workbench import Workbench
from app.requests import RequestError, SpliceRequest
from app.service.edit_plans import planned_edit
from app.service.token_rows import finite
from sae_core.definitions import DEFINITIONS as CORE

if TYPE_CHECKING:
    from sae_core.splice_switch import SpliceCost, State

DEFINITIONS: Final[dict[str, str]] = {
    "loss": (
        "Cross-entropy with the SAEs in these states, nats per token, over the tokens that have a "
        "spliced one before them."
    ),
    "delta": CORE["delta_lm_loss"],
    "kl": CORE["kl"],
    "beyond": (
        "What all cost together, less the sum of what each costs alone, nats per token: above 0 "
        "their costs add up to more, below 0 to less."
    ),
    "edited": "The SAE's edits are made, and its reconstruction error is kept.",
}


def splice(workbench: Workbench, request: SpliceRequest) -> dict[str, Any]:
    """What SAEs cost on a text: none, each alone, all together, and what all cost beyond the sum.

    Each is off, spliced, or edited with its error kept. One spliced alone has the numbers of
    delta_loss.
    """
    from sae_core.splice_switch import splice_costs

    states = _states(workbench, request)
    engine = workbench.load()
    prompt = engine.prompt(request.text, request.messages)
    edits = [
        planned_edit(
            workbench, written, number, written.sae or "", last_position=len(prompt.ids) - 1
        )
        for number, written in enumerate(request.edits or ())
    ]
    for number, edit in enumerate(edits):
        if states.get(edit.sae) != "edited":
            raise RequestError(
                f"Edit {number + 1} is of SAE {edit.sae}, which is {states.get(edit.sae, 'off')}: "
                "let it be edited.",
                f"edits.{number}.sae",
            )
    for number, (name, state) in enumerate(states.items()):
        if state == "edited" and all(edit.sae != name for edit in edits):
            raise RequestError(
                f"SAE {name} is to be edited, but no edit is of it: add one.",
                f"states.{number}.state",
            )
    on = [name for name, state in states.items() if state != "off"]
    needed = [*on, *(name for edit in edits for name in edit.sae_names)]
    with engine.reading(prompt.ids, needed) as lm:
        costs = splice_costs(
            lm,
            prompt.ids,
            {name: states[name] for name in on},
            [edit.edit for edit in edits],
        )
    together = costs.together
    nothing = 0.0 if together.predictions else None
    return {
        **prompt.as_answered("text"),
        "states": [{"sae": name, "state": state} for name, state in states.items()],
        "edits": [edit.as_answered() for edit in edits],
        "tokens": together.predictions,
        "none": {"loss": finite(together.base_loss), "delta": nothing, "kl": nothing},
        "each": [{"sae": cost.saes[0], **_numbers(cost)} for cost in costs.each],
        "all": _numbers(together),
        "beyond": {"delta": finite(costs.delta_beyond), "kl": finite(costs.kl_beyond)},
        "definitions": DEFINITIONS,
    }


def _states(workbench: Workbench, request: SpliceRequest) -> "dict[str, State]":
    """Each SAE's state, in the bundle's order."""
    if request.states is None:
        return dict.fromkeys(workbench.bundle.sae_names, "spliced")
    named: dict[str, State] = {}
    for number, each in enumerate(request.states):
        name = workbench.sae_name(each.sae, f"states.{number}.sae")
        if name in named:
            raise RequestError(f"SAE {name} is named twice.", f"states.{number}.sae")
        named[name] = each.state
    return {name: named.get(name, "off") for name in workbench.bundle.sae_names}


def _numbers(cost: "SpliceCost") -> dict[str, float | None]:
    return {"loss": finite(cost.loss), "delta": finite(cost.delta), "kl": finite(cost.kl)}
