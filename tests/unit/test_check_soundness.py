"""Plain limits: what makes an SAE that is read rightly one that nobody should use."""

from typing import Any

import pytest

from sae_core.check.judge import Declared, Outcome
from sae_core.check.measure import Numbers
from sae_core.check.soundness import flaws, sound
from sae_core.config import SAEConfig
from tests.unit.test_check_judge import HERE

TRAINED = {"training": {"l0_target": 32.0}, "measured": {"l0": 32.4, "fvu": 0.1, "tokens": 400_000}}


def sae(d_sae: int = 4096, d_model: int = 256, **metadata: Any) -> SAEConfig:
    return SAEConfig(architecture="jumprelu", d_model=d_model, d_sae=d_sae, metadata=metadata)


def measured(l0: float, fvu: float, **more: Any) -> Numbers:
    return Numbers(**({"l0": float(l0), "fvu": fvu, "tokens": 4000, "dead": 0.2} | more))


def with_measured(**changes: Any) -> dict[str, Any]:
    return {**TRAINED, "measured": TRAINED["measured"] | changes}


@pytest.mark.parametrize(
    ("cfg", "numbers", "word"),
    [
        # A good one: of a run, of nobody known, wide, and a transcoder's FVU.
        (sae(**TRAINED), measured(35, 0.13), ""),
        (sae(), measured(35, 0.13), ""),
        (sae(d_sae=2**20, d_model=2304), measured(60, 0.2, dead=0.93), ""),
        (sae(), measured(12.8, 0.5), ""),
        # A target of 32 that ended at 64, or the same below it.
        (sae(**with_measured(l0=64.0)), measured(66, 0.07), "reach an L0 of 32 and ended at 64.0"),
        (sae(**with_measured(l0=20.0)), measured(21, 0.2), "reach an L0 of 32 and ended at 20.0"),
        (sae(**with_measured(l0=36.0)), measured(37, 0.1), ""),
        # What training measured of dead features; on few tokens that says nothing.
        (sae(**with_measured(dead=0.6)), measured(35, 0.13), "60% of its features were dead"),
        (sae(**with_measured(dead=0.6, tokens=900)), measured(35, 0.13), ""),
        (sae(**with_measured(dead=0.01)), measured(35, 0.13, dead=0.9), ""),
        # Nothing recorded: the sample alone.
        (sae(), measured(35, 0.13, dead=0.7), "70% of its features are active on none of these"),
        (sae(), measured(35, 0.13, dead=0.7, tokens=400), ""),
        # 61 active of 128, whatever the FVU; or as many as half of the activation's width.
        (sae(d_sae=128), measured(61, 0.34, dead=0.0), "61 of 128 features are active"),
        (sae(), measured(140, 0.02), "which is not sparse"),
        (sae(), measured(35, 0.85), "FVU is 0.850 where the mean activation in the SAE's place"),
    ],
)
def test_flaws(cfg: SAEConfig, numbers: Numbers, word: str) -> None:
    result = flaws(cfg, numbers)
    assert len(result) == bool(word)
    assert not word or word in result[0]
    # Green means both: what is declared fits, and nothing is wrong.
    declared = Declared(l0=numbers.l0, fvu=numbers.fvu, d_model=cfg.d_model, d_sae=cfg.d_sae)
    outcome = Outcome(
        declared=declared,
        here=HERE,
        numbers=numbers,
        fitting=None,
        nearest=None,
        others=0,
        flaws=result,
    )
    assert outcome.verdict == ("amber" if word else "green")


def test_soundness_is_about_numbers_and_not_about_a_training() -> None:
    assert sound(sae(**with_measured(l0=64.0)), measured(66, 0.07))
    assert not sound(sae(d_sae=128), measured(61, 0.34))


@pytest.mark.parametrize("entry", [None, "32", 3, ["l0"], {"l0": "32", "l0_target": True}])
def test_metadata_of_other_kinds_say_nothing(entry: Any) -> None:
    cfg = sae(training=entry, measured=entry, declared=entry)
    assert flaws(cfg, measured(35, 0.13)) == ()
    assert Declared.by(cfg).nothing
