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
from jaxtyping import Float
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


class Steering:
    """The edits of several arms at one SAE, applied step after step of their generation.

    Which tokens are edited follows from their numbers, not from any activation, so that nothing
    here waits for the device.
    """

    def __init__(self, sae: SAE, arms: Sequence[Sequence[Edit]], prompt_length: int) -> None:
        self._sae, self._arms, self._prompt_length = sae, arms, prompt_length
        self._features = sorted({edit.feature for arm in arms for edit in arm})
        self._index = torch.tensor(self._features, device=sae.W_dec.device, dtype=torch.long)
        self._rows = sae.W_dec[self._index]

    def __call__(
        self,
        x: Float[Tensor, "arms pos d_model"],
        y: Float[Tensor, "arms pos d_out"],
        start: int,
        special: Sequence[Sequence[bool]],
    ) -> Float[Tensor, "arms pos d_out"] | None:
        """y with each arm's edits applied in order, or None if none applies to these tokens.

        `x` is what the SAE reads and `y` what it reconstructs (the same, but for transcoders) at
        tokens `start`, `start + 1`, ...; `special` says for every arm which of them keep theirs.
        Arithmetic is in float32, the result in y's dtype; what no edit changes is returned bit for
        bit.
        """
        due: list[tuple[int, Edit, list[bool]]] = []
        for a, arm in enumerate(self._arms):
            for edit in arm:
                where = edit.where(start, x.shape[1], self._prompt_length)
                here = [w and not s for w, s in zip(where, special[a], strict=True)]
                if any(here):
                    due.append((a, edit, here))
        if not due:
            return None
        acts = self._sae.feature_acts(x.float(), self._index)
        edited = acts.clone()
        for a, edit, here in due:
            column = edited[a, :, self._features.index(edit.feature)]
            new = edit.applied(column)
            if not all(here):
                new = torch.where(torch.tensor(here, device=new.device), new, column)
            column.copy_(new)
        change = edited - acts
        moved = y.float() + change @ self._rows
        touched = change.ne(0).any(dim=-1, keepdim=True)
        return torch.where(touched, moved.to(y.dtype), y)
