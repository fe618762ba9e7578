"""The runs of a proof (`sae_core.proof`): generated as rows of one batch, then read afresh."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.edits import Edit, Steering
from sae_core.generation import EditRecord, generate
from sae_core.proof import Arm, Kind, Proof, Run
from sae_core.pushes import PushedSteering
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from sae_core.unedited import readback


class Proving:
    """A steering, its controls and its seeds, ready to run.

    The edit of that number (`target`) is what is proven; the others stay in every row. `controls`
    are features of its SAE, along whose decoder directions is pushed in its place. The random
    direction is drawn by the first seed. Raises ValueError for unknown SAEs and features, for a
    feature that is edited twice, without seeds or with one twice, and for a temperature of 0, at
    which all seeds give one text.
    """

    def __init__(
        self,
        lm: SplicedLM,
        ids: Sequence[int],
        edits: Sequence[Edit],
        *,
        target: int = 0,
        controls: Sequence[int],
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float,
        eos: frozenset[int] | None = None,
    ) -> None:
        if not 0 <= target < len(edits):
            raise ValueError(f"there is no edit {target}: give 0 to {len(edits) - 1}.")
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError("a proof needs seeds, each of them once.")
        if not temperature > 0:
            raise ValueError(
                "a proof needs a temperature above 0: at 0 every seed gives the same text."
            )
        self.lm, self.ids, self.edit = lm, list(ids), edits[target]
        self.sae_name = lm.edited_sae(self.edit)
        self.others = [edit for number, edit in enumerate(edits) if number != target]
        for edit in self.others:
            if (lm.edited_sae(edit), edit.feature) == (self.sae_name, self.edit.feature):
                raise ValueError(
                    f"feature {edit.feature} is edited twice: a proof is of one edit of it."
                )
        lm.check_features(self.sae_name, controls)
        self.edits, self.seeds, self._target = list(edits), list(seeds), target
        self.max_new_tokens, self.temperature, self.eos = max_new_tokens, temperature, eos
        self.directions = _directions(lm.sae(self.sae_name), self.edit.feature, controls, seeds[0])
        self._texts: list[list[int]] = [[] for _ in self._rows()]
        self._record = EditRecord()

    @property
    def raises(self) -> bool:
        """Whether the edit should make the target fire, or keep it from firing."""
        if self.edit.mode in ("set", "add"):
            return self.edit.value > 0
        return self.edit.mode == "scale" and self.edit.value > 1

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(self._texts)

    def _rows(self) -> "list[tuple[Direction, int]]":
        """Direction and seed of every row of the batch."""
        return [(direction, seed) for direction in self.directions for seed in self.seeds]

    def generated(self) -> Generator[int]:
        """Generate, once; after each step the number of tokens of the longest text. Whoever stops
        early gets a proof of the texts so far.
        """
        steps = generate(
            self.lm,
            self.ids,
            [self.others if each.kind == "without" else self.edits for each, _ in self._rows()],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=[seed for _, seed in self._rows()],
            eos=self.eos,
            record=self._record,
            steering=self._steering,
        )
        for number, step in enumerate(steps, 1):
            for text, token in zip(self._texts, step.tokens, strict=True):
                if token is not None:
                    text.append(token.id)
            yield number

    def _steering(self, sae: SAE, arms: Sequence[Sequence[Edit]], prompt_length: int) -> Steering:
        """What edits one SAE; that of the target pushes the controls' rows."""
        if sae is not self.lm.sae(self.sae_name):
            return Steering(sae, arms, prompt_length)
        directions = [each.vector for each, _ in self._rows()]
        return PushedSteering(sae, arms, prompt_length, self.edit.feature, directions)

    def proof(self) -> Proof:
        """The texts, read by the model without edits."""
        watch = [(self.sae_name, self.edit.feature)]
        readings = readback(self.lm, self.ids, self._texts, watch)
        touched, sizes = self._record.touched(), self._record.sizes()
        rows = zip(self._rows(), self._texts, readings, touched, sizes, strict=True)
        runs = [
            (
                direction,
                Run(
                    seed=seed,
                    ids=tuple(text),
                    reading=reading,
                    size=size.get(self.sae_name),
                    changed=0 if direction.kind == "without" else edits[self._target].changed,
                ),
            )
            for (direction, seed), text, reading, edits, size in rows
        ]
        arms = tuple(
            Arm(
                kind=each.kind,
                feature=each.feature,
                cosine=each.cosine,
                runs=tuple(run for direction, run in runs if direction is each),
            )
            for each in self.directions
        )
        return Proof(arms=arms, raises=self.raises)


@dataclass(frozen=True, kw_only=True, eq=False)
class Direction:
    """What an arm is pushed along."""

    kind: Kind
    feature: int | None
    vector: Float[Tensor, " d_out"] | None
    """The unit vector; None where the edit is made as it is, or not at all."""
    cosine: float
    """With the target's direction; NaN without the edit."""


def _directions(
    sae: SAE, feature: int, controls: Sequence[int], seed: int
) -> tuple[Direction, ...]:
    """Those of all arms. The random one is of independent normal numbers."""
    own = _unit(sae.W_dec[feature], feature)
    drawn = np.random.default_rng(seed).standard_normal(len(own)).astype(np.float32)
    vectors: list[tuple[Kind, int | None, Tensor]] = [
        *(("feature", each, _unit(sae.W_dec[each], each)) for each in controls),
        ("random", None, torch.from_numpy(drawn / np.linalg.norm(drawn)).to(own.device)),
        ("opposite", feature, -own),
    ]
    return (
        Direction(kind="without", feature=None, vector=None, cosine=float("nan")),
        Direction(kind="target", feature=feature, vector=None, cosine=1.0),
        *(
            Direction(kind=kind, feature=each, vector=vector, cosine=float(vector @ own))
            for kind, each, vector in vectors
        ),
    )


def _unit(vector: Float[Tensor, " d_out"], feature: int) -> Float[Tensor, " d_out"]:
    """In float32; ValueError for a vector without length."""
    norm = torch.linalg.vector_norm(vector.float())
    if not norm > 0:
        raise ValueError(f"feature {feature} writes nothing: its decoder row is 0.")
    return vector.float() / norm
