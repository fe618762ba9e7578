"""People who generate: what they ask for, and what they get compared."""

from typing import Any

import torch
from torch import Tensor

from sae_core.config import Site
from sae_core.edits import Condition, Edit
from sae_core.generation_run import GenerationStep
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests.tiny import ALWAYS, make_sae

SITES = ["resid_post/1", "mlp_out/0", "mlp_out/2"]
FIRST, BEFORE, AFTER = SITES
TEXTS = (
    "The river remembers two letters in the winter of 1912. My neighbour returns it",
    "A student",
    "The old clock measures the morning train at noon. Every function ignores it again!",
    "The ship carries a red lamp",
)
"""Longer and shorter than the window of 8 tokens."""
TOLERANCE = 1e-5
"""Of activations in float32: rows of a larger product may be rounded otherwise."""


def spliced(model: Any, tokenizer: Any) -> SplicedLM:
    """The model with an SAE at each of `SITES`."""
    saes = {site: make_sae(model, tokenizer, Site.parse(site)) for site in SITES}
    return SplicedLM(model, tokenizer, saes)


def edits() -> list[list[Edit]]:
    """Every mode, place, fading and condition, and edits of several SAEs."""

    def set_to(value: float, sae: str = FIRST, **how: Any) -> Edit:
        return Edit(feature=ALWAYS, mode="set", value=value, sae=sae, **how)

    places: Any = ("continuation", "generated", "prompt", "all", (1, 3, 9, 14))
    modes: Any = ("set", "scale", "add", "ablate", "cap")
    arms = [[set_to(20.0, positions=place)] for place in places]
    arms += [[set_to(20.0, positions=place, fade=5)] for place in places]
    arms += [[Edit(feature=ALWAYS, mode=mode, value=3.0, sae=FIRST)] for mode in modes]
    for site in SITES:
        condition = Condition(feature=ALWAYS, above=0.3, sae=site)
        arms.append([set_to(20.0, positions="continuation", condition=condition, fade=9)])
    arms.append([set_to(9.0, BEFORE), Edit(feature=7, mode="add", value=9.0, sae=AFTER)])
    arms.append([set_to(9.0), set_to(9.0, AFTER, condition=Condition(feature=9, sae=BEFORE))])
    return arms


def job_of(lm: SplicedLM, number: int, **changes: Any) -> dict[str, Any]:
    """One person's generation; different people's have little in common."""
    arms = edits()
    return {
        "ids": encode_text(lm.tokenizer, TEXTS[number % len(TEXTS)]),
        "arms": [[], arms[number % len(arms)]],
        "max_new_tokens": 4 + 5 * number % 9,
        "temperature": 0.8 if number % 3 else 0.0,
        "seed": number,
        "watch": [(FIRST, ALWAYS), (AFTER, 7)][: 1 + number % 2],
        "eos": frozenset({40 + number}) if number % 4 == 0 else frozenset(),
    } | changes


def ids_of(steps: list[GenerationStep]) -> list[list[int | None]]:
    return [[token and token.id for token in step.tokens] for step in steps]


def acts_of(steps: list[GenerationStep]) -> Tensor:
    tokens = [token for step in steps for token in step.tokens if token is not None]
    return torch.tensor([[*token.own, *token.after] for token in tokens])


def assert_alike(steps: list[GenerationStep], alone: list[GenerationStep]) -> None:
    assert ids_of(steps) == ids_of(alone)
    expected = acts_of(alone)
    atol = TOLERANCE * max(1.0, float(expected.abs().max())) if len(expected) else 0.0
    torch.testing.assert_close(acts_of(steps), expected, atol=atol, rtol=TOLERANCE)
