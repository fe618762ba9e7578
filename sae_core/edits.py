"""Edits of feature activations, and the change of the model's activation that they make.

    x' = x + (decode(edited) - decode(acts))

Only the edited features are decoded, so the part of x that the SAE does not explain is kept, and an
edit that changes no activation leaves x as it was, bit for bit. A transcoder's edits change the
activation y that it reconstructs in the same way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.sae import SAE

Mode = Literal["set", "scale", "add", "ablate", "cap"]
Where = Literal["all", "prompt", "generated"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What happens to one feature's activation a, and at which tokens."""

    feature: int
    """Index of the feature."""
    mode: Mode
    """set: a = value; scale: a = a * value; add: a = a + value; ablate: a = 0; cap: a <= value."""
    value: float = 0.0
    """In the activation's own units; a factor for scale; not used by ablate."""
    positions: Where | tuple[int, ...] = "all"
    """Tokens it applies to: all, the prompt's, the generated ones, or a list of token numbers
    (BOS is 0). Special tokens are never edited."""
    sae: str = ""
    """Name of the SAE the feature belongs to; "" if only one is loaded."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown edit mode {self.mode!r}: use one of {', '.join(MODES)}.")
        if self.feature < 0:
            raise ValueError(f"feature {self.feature} must be 0 or more.")
        if not math.isfinite(self.value):
            raise ValueError(f"the value of the edit of feature {self.feature} is not finite.")
        if isinstance(self.positions, str):
            if self.positions not in get_args(Where):
                raise ValueError(
                    f"positions {self.positions!r} must be all, prompt, generated or a list of "
                    "token numbers."
                )
        elif any(p < 0 for p in self.positions):
            raise ValueError("token numbers in positions must be 0 or more.")

    def applied(self, acts: Tensor) -> Tensor:
        """The edited activation, for activations of any shape."""
        if self.mode == "set":
            return torch.full_like(acts, self.value)
        if self.mode == "scale":
            return acts * self.value
        if self.mode == "add":
            return acts + self.value
        if self.mode == "ablate":
            return torch.zeros_like(acts)
        return acts.clamp(max=self.value)

    def where(self, start: int, length: int, prompt_length: int) -> list[bool]:
        """For tokens start to start + length - 1: whether the edit applies there."""
        tokens = range(start, start + length)
        if self.positions == "all":
            return [True] * length
        if self.positions == "prompt":
            return [t < prompt_length for t in tokens]
        if self.positions == "generated":
            return [t >= prompt_length for t in tokens]
        chosen = set(self.positions)
        return [t in chosen for t in tokens]


def edited_activation(
    sae: SAE,
    x: Float[Tensor, "pos d_model"],
    y: Float[Tensor, "pos d_out"],
    edits: Sequence[Edit],
    start: int,
    prompt_length: int,
    special: Bool[Tensor, " pos"],
) -> Float[Tensor, "pos d_out"] | None:
    """y with `edits` applied in order, or None if nothing changes.

    `x` is what the SAE reads and `y` what it reconstructs (the same, but for transcoders) at tokens
    `start`, `start + 1`, ... of a text whose first `prompt_length` tokens are the prompt; tokens
    marked `special` keep theirs. Arithmetic is in float32, the result in y's dtype; rows that no
    edit changes are returned bit for bit.
    """
    features = sorted({edit.feature for edit in edits})
    if not features:
        return None
    index = torch.tensor(features, device=x.device)
    acts = sae.feature_acts(x.float(), index)
    edited = acts.clone()
    for edit in edits:
        column = features.index(edit.feature)
        here = torch.tensor(edit.where(start, len(x), prompt_length), device=x.device) & ~special
        edited[:, column] = torch.where(here, edit.applied(edited[:, column]), edited[:, column])
    change = edited - acts
    touched = change.ne(0).any(dim=-1)
    if not bool(touched.any()):
        return None
    moved = y.float() + change @ sae.W_dec[index]
    return torch.where(touched[:, None], moved.to(y.dtype), y)
