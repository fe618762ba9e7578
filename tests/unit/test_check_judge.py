"""Which numbers fit, and what verdict they get."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sae_core.check.conventions import Convention
from sae_core.check.input_factor import best_factor
from sae_core.check.judge import Declared, Outcome
from sae_core.check.measure import Numbers
from sae_core.config import SAEConfig
from tests import tiny

HERE = Convention(site=tiny.SITE, target=tiny.SITE)


def declares(l0: float | None = None, fvu: float | None = None) -> Declared:
    return Declared(l0=l0 and float(l0), fvu=fvu, d_model=256, d_sae=4096)


def numbers(l0: float, fvu: float, tokens: int = 4000, **more: Any) -> Numbers:
    return Numbers(l0=float(l0), fvu=fvu, tokens=tokens, **more)


def outcome(declared: Declared, measured: Numbers, **more: Any) -> Outcome:
    settings = {"here": HERE, "fitting": None, "nearest": None, "others": 0} | more
    return Outcome(declared=declared, numbers=measured, **settings)


@pytest.mark.parametrize(
    ("declared", "measured", "fits"),
    [
        (declares(85), numbers(110, 0.26), True),  # L0 85 +- 25 is what others allow
        (declares(85), numbers(60, 0.26), True),
        (declares(85), numbers(812, 0.26), False),
        (declares(85), numbers(85, 9.8), False),
        (declares(12), numbers(12.8, 0.5), True),  # a transcoder of Gemma Scope, read right
        (declares(32, 0.13), numbers(34, 0.16), True),
        (declares(32, 0.13), numbers(34, 0.2), False),
        (declares(32, 0.13), numbers(34, 0.04), False),  # too good: measured otherwise
        (declares(32, 0.01), numbers(34, 0.03), True),  # small numbers scatter
        (declares(32, 0.9), numbers(32, 1.01), False),  # no better than the mean
        (declares(), numbers(60, 0.3), True),
        (declares(), numbers(60, 0.4), False),
        (declares(), numbers(0.0, 0.3), False),
        (declares(), numbers(300, 0.3), False),  # more active features than dimensions
        (declares(300), numbers(290, 0.3), True),  # but declared so
        (declares(32), numbers(32, math.nan), False),
        (declares(32), numbers(32, 0.1, finite=False), False),
    ],
)
def test_what_fits(declared: Declared, measured: Numbers, fits: bool) -> None:
    assert declared.fits(measured) is fits


def test_declared_numbers_come_from_the_id_before_those_measured_here() -> None:
    def said(**metadata: Any) -> tuple[float | None, float | None]:
        cfg = SAEConfig(architecture="standard", d_model=2, d_sae=4, metadata=metadata)
        declared = Declared.by(cfg)
        return declared.l0, declared.fvu

    assert said(declared={"l0": 71.0}) == (71.0, None)
    assert said(declared={"l0": None}) == (None, None)
    assert said(measured={"l0": 32, "fvu": 0.1}) == (32.0, 0.1)
    assert said(measured={"l0": 32, "fvu": 0.1}, declared={"l0": 71}) == (71.0, 0.1)
    assert said(measured={"l0": True, "fvu": "0.1"}) == (None, None)
    assert said() == (None, None)
    # A run that was not measured has at least a target.
    assert said(training={"l0_target": 32.0}) == (32.0, None)
    assert said(training={"l0_target": 32.0}, measured={"l0": 64, "fvu": 0.1}) == (64.0, 0.1)


def test_a_transcoder_s_fvu_may_be_larger() -> None:
    declared = replace(declares(), transcoder=True)
    assert declared.fits(numbers(60, 0.45))
    assert not declared.fits(numbers(60, 0.6))


def test_the_nearer_convention_is_the_one_nearer_the_declared_numbers() -> None:
    declared = declares(32, 0.13)
    assert declared.clearly_better(numbers(32, 0.14), numbers(60, 0.14))
    assert declared.clearly_better(numbers(32, 0.14), numbers(32, 0.03))
    assert not declared.clearly_better(numbers(32, 0.14), numbers(33, 0.15))
    assert not declared.clearly_better(numbers(32, math.nan), numbers(33, 0.15))
    # Where nothing is declared, no FVU makes up for a code that is not sparse.
    assert declares().clearly_better(numbers(32, 0.5), numbers(300, 0.01))
    assert declares(300).clearly_better(numbers(300, 0.01), numbers(32, 0.5))
    # Where no FVU is declared, the lower one is the nearer.
    assert declares(32).clearly_better(numbers(32, 0.1), numbers(32, 0.2))


def test_what_was_chosen_to_fit_must_be_clearly_better() -> None:
    declared, plain = declares(32, 0.13), declares(32, 0.13).rank(HERE, numbers(32, 0.165))
    for chosen in (replace(HERE, factor=2.3), replace(HERE, scale="layer_norm")):
        assert declared.rank(chosen, numbers(32, 0.135)) > plain
        assert declared.rank(chosen, numbers(32, 0.13)) < plain


@pytest.mark.parametrize("factor", [1.0, 2.3, 0.0143, 800.0])
def test_the_best_factor_is_found_to_a_few_percent(factor: float) -> None:
    def distances(factors: Sequence[float]) -> list[float]:
        return [abs(math.log(each / factor)) for each in factors]

    assert best_factor(distances) == pytest.approx(factor, rel=0.03)


@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        (outcome(declares(32, 0.13), numbers(33, 0.14)), "green"),
        (outcome(declares(), numbers(33, 0.14)), "green"),
        (outcome(declares(32, 0.13), numbers(60, 0.3)), "amber"),
        (outcome(declares(), numbers(60, 0.8)), "amber"),
        (outcome(declares(32, 0.13), numbers(33, 1.0)), "red"),
        (outcome(declares(32, 0.13), numbers(0, 0.99)), "red"),
        (outcome(declares(32, 0.13), numbers(4000, 0.2)), "red"),
        (outcome(declares(32, 0.13), numbers(33, math.nan)), "red"),
        (outcome(declares(32, 0.13), numbers(33, 0.13, finite=False)), "red"),
        (outcome(declares(32, 0.13), numbers(812, 9.8, tokens=499)), "amber"),
        (outcome(declares(32, 0.13), numbers(33, 0.14, tokens=9)), "green"),
        (outcome(declares(), numbers(33, 0.14), here=None), "red"),
    ],
)
def test_verdicts_without_another_convention(case: Outcome, verdict: str) -> None:
    assert case.verdict == verdict


def test_green_is_for_numbers_that_nothing_else_is_nearer_to() -> None:
    good, better = numbers(33, 0.3), (replace(HERE, minus_b_dec=True), numbers(33, 0.2))
    assert outcome(declares(), good).verdict == "green"
    assert outcome(declares(), good, nearest=better).verdict == "amber"


def test_another_convention_is_red_unless_it_is_harmless() -> None:
    good = numbers(33, 0.14)
    for bos, verdict in (("out", "red"), ("absent", "red"), ("counted", "amber")):
        fitting = (replace(HERE, bos=bos), good)
        assert outcome(declares(32, 0.13), numbers(60, 0.3), fitting=fitting).verdict == verdict
    assert outcome(declares(), good, here=None, fitting=(HERE, good)).verdict == "amber"
