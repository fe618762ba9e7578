"""Whether an SAE is one that an expert would use: plain limits, whatever is declared of it.

Numbers can fit what is declared and still be a failed training's, or fit nothing because nothing is
declared. The limits are explained in docs/check.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sae_core.check.judge import PLAUSIBLE_FVU, declared_number, densest, recorded
from sae_core.check.measure import Numbers
from sae_core.check.numbers_in_words import fvu_in_digits, in_digits, l0_in_digits
from sae_core.config import SAEConfig

TARGET_FACTOR = 1.25
"""A training met its target if its L0 ended within this factor of it."""
MOST_DEAD = 0.25
"""Largest share of dead features that training measured, as the doctor has it."""
MOST_UNSEEN = 0.5
"""Largest share of features that may be active nowhere in the sample, which is a small one."""
FIRINGS = 20
"""Activations per feature, in the mean, from which on the share of those without says something."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training run recorded of an SAE, None where it recorded nothing."""

    target: float | None
    """L0 that it was to reach."""
    l0: float | None
    """L0 that it ended with, on held-out text."""
    dead: float | None
    """Share of features that were active nowhere there."""
    tokens: float | None
    """Tokens of that text."""

    @classmethod
    def by(cls, cfg: SAEConfig) -> "Trained":
        """From the metadata that Jumpscope's training writes."""
        training, measured = recorded(cfg, "training"), recorded(cfg, "measured")
        return cls(
            target=declared_number(training.get("l0_target")),
            l0=declared_number(measured.get("l0")),
            dead=declared_number(measured.get("dead")),
            tokens=declared_number(measured.get("tokens")),
        )


def flaws(cfg: SAEConfig, numbers: Numbers) -> tuple[str, ...]:
    """What is wrong with an SAE that is read rightly, each as a clause; nothing: it is usable."""
    trained = Trained.by(cfg)
    return (*_of_training(trained, cfg), *_of_numbers(cfg, numbers, trained))


def sound(cfg: SAEConfig, numbers: Numbers) -> bool:
    """Whether numbers are as good as an SAE's should be, its training aside."""
    return not any(_of_numbers(cfg, numbers, Trained.by(cfg)))


def _of_training(trained: Trained, cfg: SAEConfig) -> Iterator[str]:
    target, l0 = trained.target, trained.l0
    if target and l0 and not target / TARGET_FACTOR <= l0 <= target * TARGET_FACTOR:
        yield (
            f"its training was to reach an L0 of {in_digits(target)} and ended at "
            f"{l0_in_digits(l0)}"
        )
    if trained.dead and trained.dead > MOST_DEAD and _enough(l0, trained.tokens, cfg):
        yield f"{trained.dead:.0%} of its features were dead after training"


def _of_numbers(cfg: SAEConfig, numbers: Numbers, trained: Trained) -> Iterator[str]:
    l0 = numbers.l0
    if l0 >= densest(cfg.d_model, cfg.d_sae):
        yield (
            f"{in_digits(l0)} of {cfg.d_sae:,} features are active on a token of "
            f"{cfg.d_model:,} numbers, which is not sparse"
        )
    # What training measured, on more text, says more.
    small = _enough(l0, numbers.tokens, cfg) and trained.dead is None
    if small and numbers.dead > MOST_UNSEEN:
        yield (
            f"{numbers.dead:.0%} of its features are active on none of these "
            f"{in_digits(numbers.tokens)} tokens"
        )
    if not numbers.fvu <= PLAUSIBLE_FVU:
        yield (
            f"FVU is {fvu_in_digits(numbers.fvu)} where the mean activation in the SAE's place has "
            "1"
        )


def _enough(l0: float | None, tokens: int | float | None, cfg: SAEConfig) -> bool:
    """Whether features were active so often that those that were not are dead."""
    return bool(l0 and tokens and l0 * tokens >= FIRINGS * cfg.d_sae)
