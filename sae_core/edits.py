"""Edits of feature activations, and the change of the model's activation that they make.

    x' = x + (decode(edited) - decode(acts))

Only the edited features are decoded, so the part of x that the SAE does not explain is kept, and an
edit that changes no activation leaves x as it was, bit for bit. A transcoder's edits change the
activation y that it reconstructs in the same way.
"""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
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
        if abs(self.value) > torch.finfo(torch.float32).max:
            raise ValueError(
                f"the value of the edit of feature {self.feature} is larger than float32 holds."
            )
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

    @property
    def line(self) -> tuple[float, float, float]:
        """The mode as numbers, where nothing has faded: a becomes min(a * scale + shift, most)."""
        return {
            "set": (0.0, self.value, math.inf),
            "scale": (self.value, 0.0, math.inf),
            "add": (1.0, self.value, math.inf),
            "ablate": (0.0, 0.0, math.inf),
            "cap": (1.0, 0.0, self.value),
        }[self.mode]

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

    def part(self, rows: slice) -> "EditTally":
        """That of some arms, as it is now."""
        other = copy(self)
        other._lengths = self._lengths[rows]
        other.applied, other.changed = self.applied[rows], self.changed[rows]
        other.sums = self.sums[rows]
        return other

    def put(self, rows: slice, part: "EditTally") -> None:
        """Go on in these arms from what another has counted in its own."""
        most = min(self.applied.shape[1], part.applied.shape[1])
        self.applied[rows, :most] = part.applied[:, :most]
        self.changed[rows, :most] = part.changed[:, :most]
        self.sums[rows] = part.sums

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
    from any activation here, so that nothing waits for the device. Arms may be of several texts:
    `prompt_length`, and `start` of a step, are then one number for each. `tally` counts what it
    did, unless `counts` is False.
    """

    def __init__(
        self,
        sae: SAE,
        arms: Sequence[Sequence[Edit]],
        prompt_length: int | Sequence[int],
        *,
        counts: bool = True,
    ) -> None:
        self._sae, self._arms = sae, arms
        self._prompt_lengths = _for_each(prompt_length, arms)
        self._counts = counts
        self._features = sorted({edit.feature for arm in arms for edit in arm})
        device = sae.W_dec.device
        self._index = torch.tensor(self._features, device=device, dtype=torch.long)
        self._rows = sae.W_dec[self._index]
        self._steps = [_Step.of(number, arms, self._features, device) for number in _numbers(arms)]
        self._latest: tuple[list[list[tuple[float, ...]]], Tensor] | None = None
        """What is left of every edit's strength, by its number and arm; the same on the device."""
        self.tally = EditTally(arms, self._rows.device)

    def __call__(
        self,
        x: Float[Tensor, "arms pos d_model"],
        y: Float[Tensor, "arms pos d_out"],
        start: int | Sequence[int],
        special: Sequence[Sequence[bool]],
        met: Mapping[Condition, Bool[Tensor, "arms pos"]] | None = None,
    ) -> Float[Tensor, "arms pos d_out"] | None:
        """y with each arm's edits applied in order, or None if none applies to these tokens.

        `x` is what the SAE reads and `y` what it reconstructs (the same, but for transcoders) at
        tokens `start`, `start + 1`, ...; `special` says for every arm which of them keep theirs,
        `met` where the conditions of edits are met. Arithmetic is in float32, the result in y's
        dtype; what no edit changes is returned bit for bit.
        """
        left = self._left(_for_each(start, self._arms), x.shape[1], special)
        if not any(share for arms in left for row in arms for share in row):
            return None
        acts = self._sae.feature_acts(x.float(), self._index)
        edited = acts.clone()
        # An arm's edits act in their order; those of different arms, at once.
        for number, (step, arms, shares) in enumerate(
            zip(self._steps, left, self._on_device(left), strict=True)
        ):
            if not any(share for row in arms for share in row):
                continue
            columns = step.columns[:, None, None].expand(-1, x.shape[1], 1)
            before = edited.gather(-1, columns)[..., 0]
            new = torch.minimum(before * step.scale + step.shift, step.most)
            # What has its whole share is what the mode makes it, to the bit.
            if any(0 < share < 1 for row in arms for share in row):
                new = torch.where(shares < 1, before + shares * (new - before), new)
            applies = shares > 0
            for condition, rows in step.conditions.items():
                assert met is not None, "conditions are read before edits are made"
                applies[rows] &= met[condition].to(applies.device)[rows]
            new = torch.where(applies, new, before)
            if self._counts:
                self.tally.applied[:, number] += applies.sum(-1)
                self.tally.changed[:, number] += new.ne(before).sum(-1)
            edited.scatter_(-1, columns, new[..., None])
        change = edited - acts
        delta = self._written(change)
        touched = change.ne(0).any(dim=-1, keepdim=True)
        new_y = torch.where(touched, (y.float() + delta).to(y.dtype), y)
        if self._counts:
            self._measure(delta, y.float(), new_y.float(), touched)
        return new_y

    def _left(
        self, starts: Sequence[int], length: int, special: Sequence[Sequence[bool]]
    ) -> list[list[tuple[float, ...]]]:
        """By number in the arm, and arm: how much of the edit is made at each of these tokens."""
        left = [[(0.0,) * length for _ in self._arms] for _ in self._steps]
        for a, arm in enumerate(self._arms):
            for number, edit in enumerate(arm):
                shares = edit.shares(starts[a], length, self._prompt_lengths[a])
                left[number][a] = tuple(
                    0.0 if s else share for share, s in zip(shares, special[a], strict=True)
                )
        return left

    def _on_device(self, left: list[list[tuple[float, ...]]]) -> Float[Tensor, "numbers arms pos"]:
        """Mostly they are those of the token before."""
        if self._latest is None or self._latest[0] != left:
            self._latest = left, torch.tensor(left, device=self._rows.device)
        return self._latest[1]

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


@dataclass(frozen=True, kw_only=True)
class _Step:
    """The edits of one number in their arms, as numbers on the device, `[arms, 1]` each; an arm
    that has no edit of this number makes none of them.
    """

    columns: Int[Tensor, " arms"]
    """Of the edited features."""
    scale: Tensor
    shift: Tensor
    most: Tensor
    conditions: dict[Condition, Tensor]
    """Numbers of the arms whose edit is under it."""

    @staticmethod
    def of(
        number: int, arms: Sequence[Sequence[Edit]], features: list[int], device: torch.device
    ) -> "_Step":
        edits = {a: arm[number] for a, arm in enumerate(arms) if number < len(arm)}
        columns = [features.index(edits[a].feature) if a in edits else 0 for a in range(len(arms))]
        lines = [edits[a].line if a in edits else (1.0, 0.0, math.inf) for a in range(len(arms))]
        scale, shift, most = torch.tensor(lines, device=device, dtype=torch.float32).T[..., None]
        under = {edit.condition: None for edit in edits.values() if edit.condition is not None}
        return _Step(
            columns=torch.tensor(columns, device=device, dtype=torch.long),
            scale=scale,
            shift=shift,
            most=most,
            conditions={
                condition: torch.tensor(
                    [a for a, edit in edits.items() if edit.condition == condition], device=device
                )
                for condition in under
            },
        )


def _numbers(arms: Sequence[Sequence[Edit]]) -> range:
    """Numbers that edits have in their arms."""
    return range(max(map(len, arms), default=0))


def _for_each(number: int | Sequence[int], arms: Sequence[Sequence[Edit]]) -> Sequence[int]:
    """A number for each arm."""
    return [number] * len(arms) if isinstance(number, int) else number
