"""When numbers fit what is declared, which of two fits better, and the verdict.

Whether an SAE that is read rightly is a good one is another question: `soundness`. The
thresholds are explained in docs/check.md.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from sae_core.check.conventions import Convention
from sae_core.check.measure import Numbers
from sae_core.config import SAEConfig
from sae_core.definitions import HIGH_FREQUENCY

Verdict = Literal["green", "amber", "red"]

L0_FACTOR = 1.5
"""L0 fits up to this factor above or below the declared one: it differs from text to text."""
FVU_FACTOR = 1.35
"""FVU fits up to this factor above the declared one..."""
FVU_SLACK = 0.03
"""...or up to this much, whichever is more."""
FVU_SHARE = 0.5
"""An FVU below this share of the declared one was measured otherwise."""
PLAUSIBLE_FVU = 0.7
"""Where L0 alone is declared, the largest FVU that goes with it: transcoders have 0.5."""
GOOD_FVU = 0.35
"""Where nothing is declared, the largest FVU that is taken for a right convention..."""
GOOD_FVU_ACROSS = 0.5
"""...and a transcoder's, which does not see what it is to reconstruct."""
CLEARLY = 1.25
"""A convention is clearly better if its L0 and FVU are nearer by this factor on the same tokens."""
FACTOR_GAIN = 2.0
"""A factor on the input counts if FVU falls by so much: some factor brings any L0 where it should
be, and the FVU of a mediocre SAE down a little."""
FEW_TOKENS = 500
"""On fewer tokens nothing is called wrong."""
LEAST_L0 = 0.1
"""With fewer active features per token, nothing fires."""
MOST_ACTIVE = HIGH_FREQUENCY
"""Largest share of the features that is active on a token: from there on the average feature is one
of high frequency."""
MOST_OF_WIDTH = 0.5
"""Largest L0 as a share of the activation's width: half as many numbers as are to be described."""
_FAR = 20.0
"""More than the logarithms of FVUs differ by."""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What an SAE says of itself, None where it says nothing, and the sizes that bound it."""

    l0: float | None
    fvu: float | None
    d_model: int
    d_sae: int
    transcoder: bool = False

    @classmethod
    def by(cls, cfg: SAEConfig) -> "Declared":
        """From the id that an SAE was fetched by, else from what was measured after training, else
        the L0 that training was to reach.
        """
        said = {"l0": recorded(cfg, "training").get("l0_target")}
        said |= recorded(cfg, "measured") | recorded(cfg, "declared")
        l0, fvu = (declared_number(said.get(name)) for name in ("l0", "fvu"))
        return cls(
            l0=l0, fvu=fvu, d_model=cfg.d_model, d_sae=cfg.d_sae, transcoder=cfg.is_transcoder
        )

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to compare with."""
        return self.l0 is None and self.fvu is None

    @property
    def good_fvu(self) -> float:
        """The largest FVU that is taken for a right convention where nothing is declared."""
        return GOOD_FVU_ACROSS if self.transcoder else GOOD_FVU

    def fits(self, numbers: Numbers) -> bool:
        """Whether these numbers are what this SAE gives when it is read right."""
        better_than_mean = numbers.usable and numbers.fvu < 1
        return better_than_mean and self.l0_fits(numbers) and self.fvu_fits(numbers)

    def l0_fits(self, numbers: Numbers) -> bool:
        """Whether L0 is about the declared one; where none is declared, whether it is sensible."""
        if self.l0 is None:
            return not self.absurd(numbers)
        return self.l0 / L0_FACTOR <= numbers.l0 <= self.l0 * L0_FACTOR

    def fvu_fits(self, numbers: Numbers) -> bool:
        """Whether FVU is about the declared one; where none is declared, whether it is good."""
        if self.fvu is None:
            return numbers.fvu <= (self.good_fvu if self.l0 is None else PLAUSIBLE_FVU)
        least = min(self.fvu * FVU_SHARE, self.fvu - FVU_SLACK)
        most = max(self.fvu * FVU_FACTOR, self.fvu + FVU_SLACK)
        return least <= numbers.fvu <= most

    def distance(self, numbers: Numbers) -> float:
        """How far numbers are from the declared ones, as the logarithm of a factor.

        Without a declared FVU a lower one is nearer, so that values may be negative; without a
        declared L0 one that is not sparse is far from everything: any input is reconstructed well
        from features enough.
        """
        if not numbers.usable:
            return math.inf
        fvu = math.log(max(numbers.fvu, 1e-6))
        total = fvu if self.fvu is None else abs(fvu - math.log(self.fvu))
        if self.l0 is not None:
            return total + abs(math.log(max(numbers.l0, 1e-3) / self.l0))
        sparse = LEAST_L0 <= numbers.l0 < densest(self.d_model, self.d_sae)
        return total + (0 if sparse else _FAR)

    def rank(self, convention: Convention, numbers: Numbers) -> float:
        """The distance, by which the best convention is chosen.

        Where norms hardly differ from token to token, dividing by one number for all is as good as
        a norm for each, and can be folded into the weights: the latter must be clearly better. So
        must a factor, which was chosen to fit.
        """
        handicapped = convention.scale == "layer_norm" or convention.factor != 1
        return self.distance(numbers) + handicapped * math.log(CLEARLY)

    def clearly_better(self, one: Numbers, other: Numbers) -> bool:
        """Whether `one` is nearer than `other`, both measured on the same tokens."""
        return self.distance(one) < self.distance(other) - math.log(CLEARLY)

    def absurd(self, numbers: Numbers) -> bool:
        """Whether nothing fires, or so much that the code is sparse no longer."""
        return numbers.l0 < LEAST_L0 or numbers.l0 >= min(self.d_model, self.d_sae / 2)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything that was measured; `verdict` and `verdict_sentence.py` only read it."""

    declared: Declared
    here: Convention | None
    """As declared; None if no site is."""
    numbers: Numbers
    """The numbers there; without a declared site those of the best convention."""
    fitting: tuple[Convention, Numbers] | None
    """Another convention that fits, and clearly better than the declared one."""
    nearest: tuple[Convention, Numbers] | None
    """One that is clearly better but not as good as an SAE should be, where none is."""
    others: int
    """How many other conventions were tried."""
    flaws: tuple[str, ...] = ()
    """What is wrong with the SAE even if it is read rightly."""

    @property
    def few(self) -> bool:
        """Whether the sample is too small to call anything wrong."""
        return self.numbers.tokens < FEW_TOKENS

    @property
    def fits(self) -> bool:
        """Whether the numbers at the declared site fit."""
        return self.here is not None and self.declared.fits(self.numbers)

    @property
    def absurd(self) -> bool:
        """Whether L0 is absurd, and not because it was declared so."""
        return self.declared.absurd(self.numbers) and not self.declared.l0_fits(self.numbers)

    @property
    def verdict(self) -> Verdict:
        """Green: fits, and usable. Amber: off, and no other is better, or fits, but is a failed
        training's. Red: another convention, or hopeless.
        """
        if self.fitting is not None:
            # To count BOS is another way to report the same SAE, and a site that is not declared
            # contradicts nothing.
            harmless = self.here is None or self.fitting[0].bos == "counted"
            return "amber" if harmless else "red"
        if self.fits:
            return "amber" if self.flaws or self.nearest else "green"
        if self.few:
            return "amber"
        hopeless = self.here is None or not self.numbers.usable or self.numbers.fvu >= 1
        return "red" if hopeless or self.absurd else "amber"


def densest(d_model: int, d_sae: int) -> float:
    """The L0 from which on a code is not sparse."""
    return min(MOST_ACTIVE * d_sae, MOST_OF_WIDTH * d_model)


def recorded(cfg: SAEConfig, key: str) -> dict[str, Any]:
    """An entry of an SAE's metadata; empty if there is none."""
    entry = cfg.metadata.get(key)
    return entry if isinstance(entry, dict) else {}


def declared_number(value: Any) -> float | None:
    """A number above 0, as metadata hold it; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < math.inf else None
