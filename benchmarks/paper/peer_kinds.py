"""Other libraries' JumpReLU training as batched products, in the place of `kinds`' own.

Their trainers take one SAE at a time, a hundred small kernels a step. What they do in a step is
written out here (a test compares it with the libraries' own steps), with the settings and the
wider window of `benchmarks.pareto_peers`. What is not theirs: SAELens has a coefficient and no L0
target; it is steered to the target, as lambda is of our Gated and ReLU SAEs.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.pareto_peers import Length as Times
from benchmarks.pareto_plan import COEFFICIENT, COEFFICIENT_SLOPE
from training.recipes import Rule

Peer = Literal["saelens", "dictionary_learning"]
_GUESSED = 60
"""The L0 to which `COEFFICIENT` is about right."""


@dataclass(frozen=True, kw_only=True)
class PeerRecipe:
    """What differs between the two in training."""

    rule: Rule
    floor: float
    """Thresholds stay at or above it."""
    norm: float
    """Of decoder rows at the start."""
    threshold: float | None
    """At the start; None: as wide as the window."""
    first_step: int
    """Of the learning rate's warm-up."""


PEER_RECIPES: dict[str, PeerRecipe] = {
    "saelens": PeerRecipe(
        rule=Rule(beta1=0.9, unit_norm=False, clip=1.0),
        floor=0.0,
        norm=0.1,
        threshold=None,
        first_step=1,
    ),
    "dictionary_learning": PeerRecipe(
        rule=Rule(clip=1.0),
        floor=-torch.inf,
        norm=1.0,
        threshold=0.001,
        first_step=0,
    ),
}


def unit(peer: str, d_model: int) -> float:
    """Root of the mean squared norm, or for SAELens the mean norm, that its inputs have."""
    return d_model**0.5 if peer == "saelens" else 1.0


def first_coefficient(peer: str, d_model: int, target: int) -> float:
    """Of sparsity, before it is steered."""
    if peer == "saelens":
        return COEFFICIENT * d_model * (_GUESSED / target) ** COEFFICIENT_SLOPE
    return 1.0


def peer_start(
    peer: str, d_model: int, d_sae: int, seed: int, window: float, device: torch.device
) -> dict[str, Tensor]:
    """First parameters, float32; `window`: of the threshold's gradient."""
    recipe = PEER_RECIPES[peer]
    generator = torch.Generator().manual_seed(seed)
    bound = (6 / d_model) ** 0.5
    W_dec = torch.empty(d_sae, d_model).uniform_(-bound, bound, generator=generator)
    W_dec *= recipe.norm / W_dec.norm(dim=1, keepdim=True)
    threshold = window if recipe.threshold is None else recipe.threshold
    start = {
        "W_enc": W_dec.T.contiguous(),
        "W_dec": W_dec,
        "b_dec": torch.zeros(d_model),
        "b_enc": torch.zeros(d_sae),
        "threshold": torch.full((d_sae,), threshold),
    }
    return {name: p.to(device) for name, p in start.items()}


def peer_rate_share(peer: str, step: int, times: Times) -> float:
    """Share of its learning rate that step `step` (from 0) has."""
    if step < times.warmup:
        return (step + PEER_RECIPES[peer].first_step) / times.warmup
    left = times.steps - step
    return min(1.0, left / times.decay)


def as_ours(peer: str, parameters: dict[str, Tensor]) -> dict[str, Float[Tensor, "..."]]:
    """One SAE's parameters in the form that `folded` takes: b_dec is subtracted from the input, and
    nothing below 0 is active.
    """
    p = dict(parameters)
    if peer == "dictionary_learning":
        p["b_enc"] = p["b_enc"] + p["b_dec"] @ p["W_enc"]
    return p | {"threshold": p["threshold"].clamp(min=0.0)}
