"""Edits of feature activations, and the change of the model's activation that they make.

    x' = x + (decode(edited) - decode(acts))

Only the edited features are decoded, so the part of x that the SAE does not explain is kept, and an
edit that changes no activation leaves x as it was, bit for bit. A transcoder's edits change the
activation y that it reconstructs in the same way.
"""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.sae import SAE

Mode = Literal["set", "scale", "add", "ablate", "cap"]
Where = Literal["all", "prompt", "generated", "continuation"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A feature that has to fire on a token, as the unedited model reads the same text."""

    feature: int
    """Index of the feature."""
    above: float = 0.0
    """What its activation must exceed, in its own units."""
    sae: str = ""
    """Name of the SAE the feature belongs to; "" for that of the edit."""

    def __post_init__(self) -> None:
        if self.feature < 0:
            raise ValueError(f"feature {self.feature} of a condition must be 0 or more.")
        if not math.isfinite(self.above):
            raise ValueError(f"the value of the condition on feature {self.feature} is not finite.")


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
    """Tokens it applies to: all, the prompt's, the generated ones, those of the continuation (the
    prompt's last one, which predicts the first new one, and the generated ones), or a list of token
    numbers (BOS is 0). Special tokens are never edited."""
    sae: str = ""
    """Name of the SAE the feature belongs to; "" if only one is loaded."""
    condition: Condition | None = None
    """Of these tokens only those where another feature fires."""
    fade: int | None = None
    """New tokens over which the change falls to nothing: of the change that it would make to the
    activation, the prediction of the first new token gets all, that of the k-th after it 1 - k /
    fade. None is a constant strength."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown edit mode {self.mode!r}: use one of {', '.join(MODES)}.")
        if self.feature < 0:
            raise ValueError(f"feature {self.feature} must be 0 or more.")
        if not math.isfinite(self.value):
            raise ValueError(f"the value of the edit of feature {self.feature} is not finite.")
        if self.fade is not None and self.fade < 1:
            raise ValueError(f"the edit of feature {self.feature} must fade over 1 token or more.")
        if isinstance(self.positions, str):
            if self.positions not in get_args(Where):
                raise ValueError(
                    f"positions {self.positions!r} must be all, prompt, generated, continuation or "
                    "a list of token numbers."
                )
        elif any(p < 0 for p in self.positions):
            raise ValueError("token numbers in positions must be 0 or more.")

    def applied(self, acts: Tensor) -> Tensor:
        """The edited activation, for activations of any shape, where nothing has faded."""
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
        """For tokens start to start + length - 1: whether the edit applies there, if its condition
        is met.
        """
        return [share > 0 for share in self.shares(start, length, prompt_length)]

    def shares(self, start: int, length: int, prompt_length: int) -> list[float]:
        """For the same tokens: how much of the change it makes, 0 where it does not apply."""
        tokens = range(start, start + length)
        if self.positions == "all":
            due = [True] * length
        elif self.positions == "prompt":
            due = [t < prompt_length for t in tokens]
        elif self.positions == "generated":
            due = [t >= prompt_length for t in tokens]
        elif self.positions == "continuation":
            due = [t >= prompt_length - 1 for t in tokens]
        else:
            chosen = set(self.positions)
            due = [t in chosen for t in tokens]
        return [
            self._left(t - (prompt_length - 1)) if d else 0.0
            for t, d in zip(tokens, due, strict=True)
        ]

    def _left(self, k: int) -> float:
        """What is left of the strength k tokens after the prompt's last one."""
        return 1.0 if self.fade is None else min(1.0, max(0.0, 1 - k / self.fade))


@dataclass(frozen=True, kw_only=True)
class EditedTokens:
    """How many tokens an edit has touched."""

    applied: int
    """It applied to: not special, among its positions, its condition met, its strength not faded
    to nothing."""
    changed: int
    """Of these, those whose activation it changed."""


@dataclass(frozen=True, kw_only=True)
class EditSize:
    """How far edits moved an activation, over the tokens at which they changed it."""

    tokens: int
    asked: float
    """Mean norm of the change over the norm of the activation, as computed in float32; NaN where
    no token was changed, as the two below."""
    realised: float
    """The same of the change that was left in the model's dtype."""
    deviation: float
    """Norm of the difference of the two changes over the norm of the asked one, root mean
    square."""


class EditTally:
    """What the edits of several arms at one SAE have done so far: sums on the device, read when
    asked for.
    """

    def __init__(self, arms: Sequence[Sequence[Edit]], device: torch.device) -> None:
        self._lengths = [len(arm) for arm in arms]
        counts = (len(arms), max(self._lengths, default=0))
        self.applied = torch.zeros(counts, device=device, dtype=torch.long)
        self.changed = torch.zeros_like(self.applied)
        self.sums = torch.zeros(len(arms), 5, device=device)

    def forget(self) -> None:
        """Begin to count anew."""
        for each in (self.applied, self.changed, self.sums):
            each.zero_()

    def copy(self) -> "EditTally":
        """The same, which goes on no further."""
        other = copy(self)
        other.restore(self)
        return other

    def restore(self, earlier: "EditTally") -> None:
        """Go on from what it was when it was copied."""
        self.applied = earlier.applied.clone()
        self.changed, self.sums = earlier.changed.clone(), earlier.sums.clone()

    def touched(self) -> list[list[EditedTokens]]:
        """For each arm and each of its edits: how many tokens it has touched."""
        both = torch.stack([self.applied, self.changed], dim=-1).tolist()
        return [
            [EditedTokens(applied=applied, changed=changed) for applied, changed in row[:length]]
            for row, length in zip(both, self._lengths, strict=True)
        ]

    def sizes(self) -> list[EditSize]:
        """For each arm: how far its edits together have moved the model's activation."""
        return [
            EditSize(
                tokens=int(tokens),
                asked=asked / tokens if tokens else math.nan,
                realised=realised / tokens if tokens else math.nan,
                deviation=math.sqrt(off / square) if square else math.nan,
            )
            for tokens, asked, realised, off, square in self.sums.tolist()
        ]


class Steering:
    """The edits of several arms at one SAE, applied step after step of their generation.

    Which tokens are edited follows from their numbers and from conditions that are read before, not
    from any activation here, so that nothing waits for the device. `tally` counts what it did,
    unless `counts` is False.
    """

    def __init__(
        self,
        sae: SAE,
        arms: Sequence[Sequence[Edit]],
        prompt_length: int,
        *,
        counts: bool = True,
    ) -> None:
        self._sae, self._arms, self._prompt_length = sae, arms, prompt_length
        self._counts = counts
        self._features = sorted({edit.feature for arm in arms for edit in arm})
        self._index = torch.tensor(self._features, device=sae.W_dec.device, dtype=torch.long)
        self._rows = sae.W_dec[self._index]
        self._places: dict[tuple[tuple[int, int], ...], Tensor] = {}
        self.tally = EditTally(arms, self._rows.device)

    def __call__(
        self,
        x: Float[Tensor, "arms pos d_model"],
        y: Float[Tensor, "arms pos d_out"],
        start: int,
        special: Sequence[Sequence[bool]],
        met: Mapping[Condition, Bool[Tensor, "arms pos"]] | None = None,
    ) -> Float[Tensor, "arms pos d_out"] | None:
        """y with each arm's edits applied in order, or None if none applies to these tokens.

        `x` is what the SAE reads and `y` what it reconstructs (the same, but for transcoders) at
        tokens `start`, `start + 1`, ...; `special` says for every arm which of them keep theirs,
        `met` where the conditions of edits are met. Arithmetic is in float32, the result in y's
        dtype; what no edit changes is returned bit for bit.
        """
        due = self._due(start, x.shape[1], special)
        if not due:
            return None
        acts = self._sae.feature_acts(x.float(), self._index)
        edited = acts.clone()
        # An arm's edits act in their order; those of different arms that do the same, at once.
        for (number, edit, here), arms in due.items():
            rows, columns = self._placed(tuple(arms))
            before = edited[rows, :, columns]
            new = _changed(before, edit, here)
            applied: int | Tensor = sum(share > 0 for share in here)
            if edit.condition is not None:
                assert met is not None, "conditions are read before edits are made"
                fires = met[edit.condition].to(new.device)[rows]
                new = torch.where(fires, new, before)
                applied = (torch.tensor(here, device=new.device) > 0).logical_and(fires).sum(-1)
            if self._counts:
                self.tally.applied[rows, number] += applied
                self.tally.changed[rows, number] += new.ne(before).sum(-1)
            edited[rows, :, columns] = new
        change = edited - acts
        delta = self._written(change)
        touched = change.ne(0).any(dim=-1, keepdim=True)
        new_y = torch.where(touched, (y.float() + delta).to(y.dtype), y)
        if self._counts:
            self._measure(delta, y.float(), new_y.float(), touched)
        return new_y

    def _due(
        self, start: int, length: int, special: Sequence[Sequence[bool]]
    ) -> dict[tuple[int, Edit, tuple[float, ...]], list[tuple[int, int]]]:
        """What is done at these tokens, in its order: by its number in the arm, the edit with no
        regard to the feature, and how much of it is made at each token, the arms and their
        features' columns.
        """
        due: dict[tuple[int, Edit, tuple[float, ...]], list[tuple[int, int]]] = {}
        for a, arm in enumerate(self._arms):
            for number, edit in enumerate(arm):
                shares = edit.shares(start, length, self._prompt_length)
                here = tuple(0.0 if s else e for e, s in zip(shares, special[a], strict=True))
                if any(here):
                    column = self._features.index(edit.feature)
                    key = (number, replace(edit, feature=0), here)
                    due.setdefault(key, []).append((a, column))
        return dict(sorted(due.items(), key=lambda item: item[0][0]))

    def _placed(self, arms: tuple[tuple[int, int], ...]) -> Int[Tensor, "2 arms"]:
        """Rows and columns on the device; they come again with each token that is generated."""
        if arms not in self._places:
            self._places[arms] = torch.tensor(arms, device=self._rows.device).T
        return self._places[arms]

    def _written(self, change: Float[Tensor, "arms pos edited"]) -> Float[Tensor, "arms pos d_out"]:
        """What changes of the edited features' activations add to the model's, float32."""
        return change @ self._rows

    def _measure(self, delta: Tensor, before: Tensor, after: Tensor, touched: Tensor) -> None:
        """Add one step to the sums behind `sizes`; `touched [arms, pos, 1]`."""
        norm = torch.linalg.vector_norm
        there = touched[..., 0]
        size, made = norm(delta, dim=-1), after - before
        whole = norm(before, dim=-1).clamp(min=torch.finfo(before.dtype).tiny)
        columns = [
            torch.ones_like(size),
            size / whole,
            norm(made, dim=-1) / whole,
            (made - delta).square().sum(-1),
            size.square(),
        ]
        self.tally.sums += torch.stack([c.where(there, 0.0).sum(-1) for c in columns], dim=-1)


def _changed(acts: Tensor, edit: Edit, shares: Sequence[float]) -> Tensor:
    """Activations `[pos]` under an edit, each token's change by its share."""
    new = edit.applied(acts)
    if all(share == 1 for share in shares):
        return new
    share = torch.tensor(shares, device=acts.device)
    # What has its whole share is what the mode makes it, to the bit; what has none is as it was.
    new = torch.where(share < 1, acts + share * (new - acts), new)
    return torch.where(share > 0, new, acts)
