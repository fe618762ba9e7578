"""The check names a scale, a factor, b_dec and BOS that were read otherwise in training."""

import math
import re
from typing import Any

import pytest
import torch

from sae_core.check import check_sae
from sae_core.check.conventions import Convention
from sae_core.check.measure import measure
from sae_core.config import Site
from sae_core.splice import SplicedLM
from tests.integration.check_support import (
    FEW,
    MLP,
    PASSAGES,
    RESID,
    TOKENS,
    captured,
    declaring,
    fitted,
    planted,
    pre_bias,
    red,
    rows,
    unscaled,
)


@pytest.mark.parametrize("name", [RESID, MLP])
def test_a_scale_that_was_not_folded_in(lm: SplicedLM, name: str) -> None:
    sae = lm.sae(name)
    scale = float(sae.cfg.metadata["training"]["scale"])
    where = str(sae.cfg.site)
    result = red(lm, planted(sae, unscaled(scale)), f"{where}, scaled to mean square 1")
    assert "so that their mean squared norm is 1: read so, L0 is" in result.sentence
    fold = "multiply b_enc, threshold and b_dec by the scale of its training, about "
    *_, about = result.sentence.rstrip(".").split(fold)
    assert float(about) == pytest.approx(scale, rel=0.1)
    root = math.sqrt(sae.cfg.d_model)
    red(lm, planted(sae, unscaled(scale / root)), f"{where}, scaled to mean norm sqrt(d)")

    def both(sae: Any) -> None:
        unscaled(scale)(sae)
        pre_bias(sae)

    red(lm, planted(sae, both), f"{where}, scaled to mean square 1, minus b_dec")


@pytest.mark.parametrize(
    ("name", "by", "metadata"),
    [
        (RESID, 2.3, None),
        (RESID, 1 / 2.3, {"declared": {"l0": 32.0}}),  # of which layer 7's stream makes sense, too
        (MLP, 10.0, {}),
        (MLP, 1 / 2.3, None),
    ],
)
def test_a_factor_that_no_convention_explains(
    lm: SplicedLM, name: str, by: float, metadata: Any
) -> None:
    sae = planted(lm.sae(name), unscaled(by))
    if metadata is not None:
        sae = planted(sae, metadata=metadata)
    result = check_sae(lm, sae, tokens=TOKENS)
    start = "The activations look as if they had been multiplied by about "
    assert result.sentence.startswith(start), result.sentence
    assert result.verdict == "red"
    # By FVU alone, where nothing is declared, more fires than the training wanted.
    factor = float(result.sentence.removeprefix(start).partition(" ")[0])
    assert factor == pytest.approx(1 / by, rel=0.05 if metadata != {} else 0.15)
    fold = "To fold that in, multiply b_enc, threshold and b_dec by the scale of its training, "
    *_, about = result.sentence.rstrip(".").split(f"{fold}about ")
    assert float(about) == pytest.approx(1 / factor, rel=0.05)
    assert result.convention == f"{sae.cfg.site}, multiplied by {factor:.2g}"


@pytest.mark.parametrize(("l0", "text"), [(60.0, None), (8.0, None), (14.0, PASSAGES[17:])])
def test_no_factor_is_named_because_it_brings_l0_where_it_is_declared(
    lm: SplicedLM, l0: float, text: Any
) -> None:
    innocent = planted(lm.sae(MLP), metadata={"declared": {"l0": l0}})
    result = check_sae(lm, innocent, text=text, tokens=TOKENS)
    assert (result.verdict, result.convention) == ("amber", None), result.sentence


def test_no_factor_makes_up_for_weights_in_the_wrong_order(lm: SplicedLM) -> None:
    def mixed_up(sae: Any) -> None:
        sae.W_dec.data = sae.W_dec.data.roll(1, dims=0)

    for name, metadata in ((RESID, {}), (MLP, {"declared": {"l0": 32.0}})):
        result = check_sae(lm, planted(lm.sae(name), mixed_up, metadata=metadata), tokens=TOKENS)
        assert (result.verdict, result.convention) == ("red", None), result.sentence


@pytest.mark.parametrize("metadata", [None, {}, {"declared": {"l0": 32.0}}])
@pytest.mark.parametrize("name", [RESID, MLP])
def test_b_dec_that_should_have_been_subtracted(lm: SplicedLM, name: str, metadata: Any) -> None:
    sae = planted(lm.sae(name), pre_bias)
    if metadata is not None:
        sae = planted(sae, metadata=metadata)
    result = red(lm, sae, f"{sae.cfg.site}, minus b_dec")
    assert result.sentence.endswith("To fold that in, subtract b_dec @ W_enc from b_enc.")


def test_the_folding_that_is_advised_is_the_right_one(lm: SplicedLM) -> None:
    sae: Any = lm.sae(RESID)

    def broken(sae: Any) -> None:
        unscaled(70.0)(sae)
        pre_bias(sae)

    def mended(sae: Any) -> None:
        sae.b_enc.data -= sae.b_dec @ sae.W_enc
        for name in ("b_enc", "threshold", "b_dec"):
            getattr(sae, name).data *= 70.0

    folded: Any = planted(planted(sae, broken), mended)
    for name in ("b_enc", "threshold", "b_dec"):
        torch.testing.assert_close(getattr(folded, name), getattr(sae, name), atol=1e-3, rtol=1e-4)


def test_numbers_that_count_bos(lm: SplicedLM) -> None:
    # In prompts of 8 tokens every eighth is BOS, three times as long as any other activation here.
    sae = planted(lm.sae(RESID), context_size=8)
    counted = Convention(site=Site("resid_post", 4), target=Site("resid_post", 4), bos="counted")
    numbers = measure(lm, sae, rows(lm, PASSAGES[:8], 8)[:120], [counted])[counted]
    result = check_sae(lm, declaring(sae, numbers.l0, numbers.fvu), tokens=TOKENS)
    assert (result.verdict, result.convention) == ("amber", "resid_post/4, BOS counted")
    said = re.match(
        r"The declared numbers count BOS as a token: so L0 is ([\d.]+) and FVU", result.sentence
    )
    assert said
    # On other text.
    assert float(said[1]) == pytest.approx(numbers.l0, rel=0.2)
    assert result.sentence.endswith("Nothing needs to be changed.")


def test_an_sae_of_prompts_without_bos(lm: SplicedLM) -> None:
    # The demo's activations early in a prompt depend on whether BOS is there.
    site = Site("mlp_out", 6)
    x = captured(lm, [site], context_size=16, bos=False)[site]
    sae = fitted(x, x, site, None, features=512, context_size=16)
    absent = Convention(site=site, target=site, bos="absent")
    numbers = measure(lm, sae, rows(lm, FEW, 16), [absent])[absent]
    sae = declaring(sae, numbers.l0, numbers.fvu)
    result = check_sae(lm, sae, text=FEW)
    assert (result.verdict, result.convention) == ("red", "mlp_out/6, prompts without BOS")
    assert "with BOS, which Jumpscope puts before every prompt" in result.sentence
