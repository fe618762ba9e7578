"""A ladder of strengths: which of them the text takes up, and which it falls apart under.

One feature is pushed at several strengths. All texts are rows of one batch (`sae_core.generation`),
each strength with the same seeds, beside texts without any edit. When they have grown, the model
reads them without edits (`sae_core.unedited`), and each strength has

- **fires**: the share of new tokens on which the feature fires then: whether the text came to be
  about it, not whether the edit set it;
- **nll**: the mean negative log-likelihood of the new tokens, nats per token;
- **distinct**: of the new tokens, the share of different ones, text by text: a loop has few;
- **size**: how far the edits moved the activation, norm of the change over norm of the activation.

A strength is *usable* if, compared with the texts without edits, the feature fires on more of the
tokens by `MORE_FIRES`, nll is no more than a margin larger, and distinct is not smaller than
`LEAST_DISTINCT` of theirs: a text that repeats itself is likely, and worth nothing. The *band* is
the longest run of neighbouring strengths that are.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from sae_core import notebook
from sae_core.edits import Edit, EditSize
from sae_core.generation import EditRecord, GenerationStep, generate
from sae_core.splice import SplicedLM
from sae_core.tokens import token_texts
from sae_core.unedited import Reading, readback

STRENGTHS: Final = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""Multiples of the feature's largest activation that are tried unless others are given."""

MARGIN: Final = 1.0
"""Nats per token by which a steered text may be less likely than one without edits."""

MORE_FIRES: Final = 0.05
"""Share of the new tokens, beyond that without edits, on which the feature must fire."""

LEAST_DISTINCT: Final = 2 / 3
"""Of the distinct share without edits, what must be left."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What one strength did, over its texts together; numbers are NaN where a text has no token."""

    fires: float
    nll: float
    distinct: float
    size: float
    """Of several SAEs the one that was moved furthest; NaN where nothing was."""
    tokens: int
    """New tokens."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """The usable strengths, as numbers of rungs, both ends included."""

    low: int
    high: int
    best: int
    """Of these, the one whose texts fire most; of equals the likeliest."""


class Ladder:
    """Texts at each of several rungs, which are lists of edits, and at rung 0 without any.

    `feature` is the (SAE name, feature) that is looked for. Other arguments are those of
    `sae_core.generation.generate`.
    """

    def __init__(
        self,
        lm: SplicedLM,
        ids: Sequence[int],
        rungs: Sequence[Sequence[Edit]],
        feature: tuple[str, int],
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float,
        eos: frozenset[int] | None = None,
    ) -> None:
        self._lm, self._ids, self._feature = lm, list(ids), feature
        self._rungs: list[Sequence[Edit]] = [[], *rungs]
        self._seeds = len(seeds)
        self._record = EditRecord()
        self._steps = generate(
            lm,
            ids,
            [rung for rung in self._rungs for _ in seeds],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=list(seeds) * len(self._rungs),
            eos=eos,
            record=self._record,
        )
        self.texts: list[list[list[int]]] = [[[] for _ in seeds] for _ in self._rungs]
        """New tokens' ids so far: for each rung, for each seed."""

    def grow(self) -> Generator[None]:
        """Add a token to every text that has not ended, step after step."""
        try:
            for step in self._steps:
                self._add(step)
                yield
        finally:
            self._steps.close()

    def _add(self, step: GenerationStep) -> None:
        for row, token in enumerate(step.tokens):
            if token is not None:
                rung, seed = divmod(row, self._seeds)
                self.texts[rung][seed].append(token.id)

    def _repr_html_(self) -> str:
        """The first text of each rung so far."""
        rows = [
            (rung, "".join(token_texts(texts[0], self._lm.vocabulary)))
            for rung, texts in enumerate(self.texts)
        ]
        return notebook.page("A ladder of strengths", notebook.table(("rung", "first text"), rows))

    def touched(self, edit: int) -> tuple[int, int]:
        """To how many tokens the edit of that number applied so far, and at how many it changed an
        activation, over all texts of all rungs.
        """
        counts = [arm[edit] for arm in self._record.touched()[self._seeds :]]
        return sum(each.applied for each in counts), sum(each.changed for each in counts)

    def rungs(self) -> list[Rung]:
        """What each rung did so far: one forward of all texts without edits."""
        rows = [text for rung in self.texts for text in rung]
        readings = readback(self._lm, self._ids, rows, [self._feature])
        sizes = self._record.sizes() or [{} for _ in rows]
        return [
            _rung(self.texts[r], readings[first:last], sizes[first:last])
            for r, (first, last) in enumerate(
                (self._seeds * r, self._seeds * (r + 1)) for r in range(len(self._rungs))
            )
        ]


def _rung(
    texts: Sequence[Sequence[int]],
    readings: Sequence[Reading],
    sizes: Sequence[dict[str, EditSize]],
) -> Rung:
    """The texts' tokens count alike, whichever text they are of."""
    acts = np.concatenate([each.acts[~each.special, 0] for each in readings])
    logp = np.concatenate([each.logp for each in readings])
    tokens = sum(map(len, texts))
    return Rung(
        fires=float((acts > 0).mean()) if len(acts) else float("nan"),
        nll=float(-logp.mean()) if len(logp) else float("nan"),
        distinct=sum(len(set(text)) for text in texts) / tokens if tokens else float("nan"),
        size=joint_size(sizes),
        tokens=tokens,
    )


def joint_size(arms: Sequence[dict[str, EditSize]]) -> float:
    """How far edits moved the activation, over the tokens of some arms; of several SAEs the one
    that was moved furthest.
    """
    means = []
    for name in {name for arm in arms for name in arm}:
        moved = [arm[name] for arm in arms if arm[name].tokens]
        if moved:
            total = sum(each.tokens for each in moved)
            means.append(sum(each.asked * each.tokens for each in moved) / total)
    return max(means, default=float("nan"))


def taken_up(rung: Rung, plain: Rung) -> bool:
    """Whether the feature fires more on a rung's texts than on those without edits."""
    # Not stricter than the shares are exact.
    return rung.fires - plain.fires >= MORE_FIRES - 1e-9


def repeats(rung: Rung, plain: Rung) -> bool:
    """Whether a rung's texts repeat themselves more than those without edits may."""
    return rung.distinct < LEAST_DISTINCT * plain.distinct


def usable(rung: Rung, plain: Rung, *, margin: float = MARGIN) -> bool:
    """Whether a rung's texts took the feature up without falling apart; `plain` has no edits."""
    likely = rung.nll <= plain.nll + margin
    return taken_up(rung, plain) and likely and not repeats(rung, plain)


def band(rungs: Sequence[Rung], *, margin: float = MARGIN) -> Band | None:
    """The longest run of usable rungs, of equals the weaker; None without any. Rung 0 has no edits,
    and the others are in the order of their strengths.
    """
    good = [usable(rung, rungs[0], margin=margin) for rung in rungs[1:]]
    runs: list[list[int]] = [[]]
    for number, is_good in enumerate(good, start=1):
        if is_good:
            runs[-1].append(number)
        elif runs[-1]:
            runs.append([])
    longest = max(runs, key=len)
    if not longest:
        return None
    best = max(longest, key=lambda number: (rungs[number].fires, -rungs[number].nll))
    return Band(low=longest[0], high=longest[-1], best=best)
