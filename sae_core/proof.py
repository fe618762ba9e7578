"""Whether a steering shows that it is this feature: its runs, its controls', what they come to.

The same prompt is continued with each of n seeds: without the edit, with it, and with each of its
controls, pushed by the same norm (`sae_core.pushes`) along another direction: five features of like
frequency, one random direction, the wrong sign. The unedited model then reads every text afresh
(`sae_core.unedited`). What counts is the share of new tokens on which the target feature fires.

- A run passes when its share is at least `MARGIN` above that of the run without the edit of the
  same seed; at least as much below it, where the edit lowers the activation.
- The steering *separates* when the Wilson interval of its rate of passed runs lies above that of
  every single control. As each control has to be beaten, nothing is to be corrected for their
  number.
- With fewer than `fewest_runs()` runs of each nothing could: the interval of n passes in n runs
  would reach that of none in n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from sae_core import notebook
from sae_core.edits import EditSize
from sae_core.unedited import Reading
from sae_core.wilson import wilson

Kind = Literal["without", "target", "feature", "random", "opposite"]

FEATURES = 5
"""Features of like frequency among the controls."""
MARGIN = 0.05
"""By how much of a text's new tokens the target must fire more often than without steering."""
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Run:
    """One continuation, generated and read afresh."""

    seed: int
    ids: tuple[int, ...]
    """The new tokens."""
    reading: Reading
    """What the unedited model makes of them: the activation of the target, and likelihoods."""
    size: EditSize | None
    """How far the edits of the target's SAE moved the activation, together; None without any."""
    changed: int
    """At how many tokens the proven edit changed an activation; 0 without it."""

    @property
    def share(self) -> float:
        """Share of the new tokens on which the target fires; NaN for a text without any."""
        return self.reading.firing_share()

    @property
    def nll(self) -> float:
        """Nats per new token under the unedited model; NaN for a text without any."""
        return self.reading.nll


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The runs of one direction."""

    kind: Kind
    """without (the edit), target, feature (another one's direction), random, opposite (the wrong
    sign)."""
    feature: int | None
    """Whose decoder direction it is; None of without and random."""
    cosine: float
    """Of its direction with the target's; NaN of without."""
    runs: tuple[Run, ...]

    @property
    def words(self) -> str:
        """What it is, in a sentence."""
        return {
            "without": "without the edit",
            "target": f"#{self.feature}",
            "feature": f"#{self.feature}",
            "random": "the random direction",
            "opposite": "the wrong sign",
        }[self.kind]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How many of an arm's runs pass, and the Wilson interval of 95 % of their rate."""

    passed: int
    runs: int

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Its ends, as shares."""
        return wilson(self.passed, self.runs)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.passed} of {self.runs} runs ({100 * low:.0f} to {100 * high:.0f} %)"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """All arms of a proof: without the edit, the target, then the controls."""

    arms: tuple[Arm, ...]
    raises: bool
    """Whether the steering should make the target fire, or keep it from firing."""

    @property
    def without(self) -> Arm:
        """The runs without the edit."""
        return self.arms[0]

    @property
    def target(self) -> Arm:
        """The steered runs."""
        return self.arms[1]

    @property
    def controls(self) -> tuple[Arm, ...]:
        """The others."""
        return self.arms[2:]

    def _repr_html_(self) -> str:
        """The sentence, and a row for each direction."""
        rows = [
            (
                arm.words,
                "" if arm.kind == "without" else str(self.rate(arm)),
                _mean([run.share for run in arm.runs]),
                _mean([run.nll for run in arm.runs]),
            )
            for arm in self.arms
        ]
        heads = ("direction", "passes", "fires on", "nats per token")
        return notebook.page(
            "Proof",
            notebook.words(self.sentence),
            notebook.table(heads, rows),
            notebook.words(self.rule),
        )

    def passes(self, arm: Arm) -> list[bool]:
        """Which of an arm's runs pass; a text without tokens does not."""
        pairs = zip(arm.runs, self.without.runs, strict=True)
        more = [run.share - base.share for run, base in pairs]
        return [(m if self.raises else -m) >= MARGIN - _ROUNDING for m in more]

    def rate(self, arm: Arm) -> Rate:
        """How many of an arm's runs pass."""
        return Rate(passed=sum(self.passes(arm)), runs=len(arm.runs))

    @property
    def closest(self) -> Arm:
        """The control that passes most often; the first of several."""
        return max(self.controls, key=lambda arm: self.rate(arm).passed)

    @property
    def separates(self) -> bool:
        """Whether the target's interval lies above that of every control."""
        return self.rate(self.target).interval[0] > self.rate(self.closest).interval[1]

    @property
    def rule(self) -> str:
        """When a run passes, in a sentence."""
        return (
            f"A run passes when {self.target.words} fires on at least {100 * MARGIN:.0f} % of the "
            f"new tokens {'more' if self.raises else 'fewer'} than in the run without the edit "
            "of the same seed, as the unedited model reads the texts."
        )

    @property
    def sentence(self) -> str:
        """What came out, with rates, controls and Wilson intervals."""
        if not any(run.changed for run in self.target.runs):
            return (
                f"Steering {self.target.words} changed no token in any run: there is nothing to "
                "tell from the controls."
            )
        rate, closest = self.rate(self.target), self.rate(self.closest)
        passed = sum(self.rate(arm).passed for arm in self.controls)
        runs = sum(len(arm.runs) for arm in self.controls)
        if self.separates:
            verdict = "it separates from every control"
        elif closest.passed:
            verdict = f"it does not separate from {self.closest.words}"
        else:
            verdict = "it passes too few to separate from them"
        least = fewest_runs()
        few = f" With fewer than {least} runs nothing could." if rate.runs < least else ""
        return (
            f"Steering {self.target.words} passes {rate}; its {len(self.controls)} controls pass "
            f"{passed} of {runs}, the closest, {self.closest.words}, {closest}: {verdict}.{few}"
        )

    @property
    def cost(self) -> str:
        """What the texts cost under the unedited model, in a sentence."""
        controls = [run for arm in self.controls for run in arm.runs]
        return (
            "Median likelihood under the unedited model, in nats per token: without the "
            f"edit {_median(self.without.runs)}, steered {_median(self.target.runs)}, controls "
            f"{_median(controls)}."
        )


def fewest_runs() -> int:
    """The least n for which n passes in n runs have an interval above that of none in n."""
    n = 1
    while wilson(n, n)[0] <= wilson(0, n)[1]:
        n += 1
    return n


def like_frequency(
    frequencies: np.ndarray, feature: int, count: int = FEATURES, without: Sequence[int] = ()
) -> list[int]:
    """The features that fire about as often as `feature`, the closest first.

    `frequencies` are shares of tokens. The rule: of the features that fire at all, but for itself
    and those of `without`, the `count` whose logarithm of the frequency is nearest; of equals those
    of lower number. For a feature that never fires: the rarest.
    """
    kept = np.setdiff1d(np.flatnonzero(frequencies > 0), [feature, *without])
    rarest = frequencies[kept].min() if len(kept) else 1.0
    own = max(float(frequencies[feature]), float(rarest))
    distance = np.abs(np.log(frequencies[kept]) - np.log(own))
    return kept[np.lexsort((kept, distance))][:count].tolist()


def _mean(values: Sequence[float]) -> float:
    """Of those that are numbers; NaN of none."""
    kept = [value for value in values if np.isfinite(value)]
    return float(np.mean(kept)) if kept else float("nan")


def _median(runs: Sequence[Run]) -> str:
    values = [run.nll for run in runs if run.ids]
    return f"{np.median(values):.2f}" if values else "none, as they are empty"
