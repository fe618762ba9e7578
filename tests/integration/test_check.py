"""The check on the demo's trained SAEs: right ones are green, and wrong sites are named."""

from typing import Any, Literal

import pytest
import torch

from app.commands.shared import DEMO
from sae_core.bundle import Bundle
from sae_core.check import check, check_sae, saved_check
from sae_core.config import Site
from sae_core.number_text import fvu_text
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
    red,
)


@pytest.mark.parametrize("name", [RESID, MLP])
def test_the_demo_is_green(lm: SplicedLM, name: str) -> None:
    result = check(lm, name)
    assert result.verdict == "green", result.sentence
    assert result.tokens >= 4000
    assert result.tried == ()
    assert result.declared_fvu is not None
    assert result.fvu < 1.2 * result.declared_fvu
    saved = saved_check(Bundle.open(DEMO), name)
    assert saved is not None, "the demo's check is of other weights: jumpscope inspect --save"
    assert (saved["verdict"], saved["tokens"]) == (result.verdict, result.tokens)
    # Sums in float32, which another number of threads orders otherwise.
    for key in ("l0", "fvu"):
        assert saved[key] == pytest.approx(getattr(result, key), rel=1e-3), key
    assert (
        f"FVU {fvu_text(saved['fvu'])} (declared: {fvu_text(saved['declared_fvu'])})"
        in (saved["sentence"])
    )


@pytest.mark.parametrize("name", [RESID, MLP])
def test_other_text_is_green(lm: SplicedLM, name: str) -> None:
    result = check(lm, name, text=PASSAGES[5:8], tokens=TOKENS)  # mathematics, code, history
    assert result.verdict == "green", result.sentence


def test_a_model_in_bfloat16_is_green() -> None:
    lm = Bundle.open(DEMO).load(torch.bfloat16)
    for name in (RESID, MLP):
        result = check(lm, name, tokens=TOKENS)
        assert (result.verdict, result.model_dtype) == ("green", "bfloat16"), result.sentence


@pytest.mark.parametrize("metadata", [{}, {"declared": {"l0": 32.0}}])
def test_without_a_declared_fvu_the_similar_conventions_are_looked_at(
    lm: SplicedLM, metadata: Any
) -> None:
    result = check_sae(lm, planted(lm.sae(RESID), metadata=metadata), tokens=TOKENS)
    assert result.verdict == "green", result.sentence
    tried = {convention.convention for convention in result.tried}
    expected = {"resid_mid/4", "resid_post/3", "resid_post/5", "resid_post/4, minus b_dec"}
    assert tried == expected
    assert all(convention.fvu > 1.5 * result.fvu for convention in result.tried)


def test_a_few_tokens_are_green_or_amber(lm: SplicedLM) -> None:
    few = check(lm, MLP, tokens=60)
    assert few.verdict == "green"
    assert "few tokens" in few.sentence
    wrong = planted(lm.sae(MLP), site=Site("mlp_proj", 6))
    assert check_sae(lm, wrong, tokens=60).verdict == "amber"


def test_text_unlike_any_training_is_amber(lm: SplicedLM) -> None:
    result = check(lm, RESID, text=PASSAGES[17:])  # Russian, Chinese and Japanese
    assert (result.verdict, result.convention) == ("amber", None)
    assert "text may be unlike" in result.sentence


# Sites


def test_the_mlp_s_own_output_for_that_after_the_norm(lm: SplicedLM) -> None:
    result = red(lm, planted(lm.sae(MLP), site=Site("mlp_proj", 6)), "mlp_out/6")
    assert result.sentence.startswith(
        "These look like an SAE of mlp_out/6 (post_feedforward_layernorm's output): there L0 is 3"
    )
    assert "at the declared mlp_proj/6 L0 is" in result.sentence
    command = "jumpscope convert SOURCE TARGET --site mlp_out/6"
    assert result.sentence.endswith(f"To say so: {command} writes a copy that does.")
    assert result.declared_fvu is not None
    assert result.fvu > 2 * result.declared_fvu


@pytest.mark.parametrize("metadata", [{}, {"declared": {"l0": 32.0}}])
def test_a_wrong_site_is_named_whatever_is_declared(lm: SplicedLM, metadata: Any) -> None:
    for site in ("resid_pre/4", "resid_mid/4", "resid_mid/5", "resid_post/3"):
        sae = planted(lm.sae(RESID), site=Site.parse(site), metadata=metadata)
        red(lm, sae, "resid_post/4")


@pytest.mark.parametrize("metadata", [None, {}, {"declared": {"l0": 32.0}}])
@pytest.mark.parametrize("layer", [0, 1, 2, 3, 5, 6, 7])
def test_the_search_goes_on_to_the_right_layer(lm: SplicedLM, layer: int, metadata: Any) -> None:
    sae = planted(lm.sae(RESID), site=Site("resid_post", layer))
    result = red(lm, sae if metadata is None else planted(sae, metadata=metadata), "resid_post/4")
    # What is named is no edge: its neighbours were looked at, too.
    tried = {convention.convention for convention in result.tried}
    assert {"resid_post/3", "resid_post/5"} <= tried | {result.site}


def test_no_site_is_named_where_none_gives_what_an_sae_should(lm: SplicedLM) -> None:
    """Decoder rows that are a third of what they should be, at the wrong layer: better at the
    right one, and nowhere good.
    """

    def weakened(sae: Any) -> None:
        sae.W_dec.data *= 0.3

    for site in (Site("resid_post", 3), None):
        sae = planted(lm.sae(RESID), weakened, site=site, metadata={})
        result = check_sae(lm, sae, tokens=TOKENS)
        assert result.convention is None, result.sentence
        assert "convert" not in result.sentence
        assert "resid_post/4" in result.sentence, "the nearest is said, without confidence"


def test_a_training_that_missed_its_target_is_not_green(lm: SplicedLM) -> None:
    sae = lm.sae(RESID)
    training = sae.cfg.metadata["training"] | {"l0_target": 16.0}
    result = check_sae(lm, planted(sae, metadata={**sae.cfg.metadata, "training": training}))
    assert (result.verdict, result.convention, result.tried) == ("amber", None, ())
    ended = sae.cfg.metadata["measured"]["l0"]
    assert f"its training was to reach an L0 of 16 and ended at {ended:.1f}" in result.sentence


@pytest.mark.parametrize("declares", [True, False])
def test_an_sae_that_is_not_sparse_is_not_green(lm: SplicedLM, declares: bool) -> None:
    site = Site("resid_post", 4)
    x = captured(lm, [site], context_size=512, bos=True)[site]
    dense = fitted(x, x, site, None, features=128, share=0.47, context_size=512)
    result = check_sae(lm, dense, text=FEW)
    if declares:
        result = check_sae(lm, declaring(dense, result.l0, result.fvu), text=FEW)
    assert (result.verdict, result.convention) == ("amber", None), result.sentence
    assert "of 128 features are active on a token of 256 numbers, which is not sparse" in (
        result.sentence
    )


def test_the_block_s_input_for_its_output(lm: SplicedLM) -> None:
    red(lm, planted(lm.sae(RESID), site=Site("resid_pre", 4)), "resid_post/4")
    # The same tensor under its other name is no mistake.
    same = planted(lm.sae(RESID), site=Site("resid_pre", 5))
    assert check_sae(lm, same, tokens=TOKENS).verdict == "green"


def test_the_wrong_activation_of_the_wrong_layer(lm: SplicedLM) -> None:
    red(lm, planted(lm.sae(MLP), site=Site("attn_add", 3)), "mlp_out/6")


def test_no_site_at_all(lm: SplicedLM) -> None:
    result = check_sae(lm, planted(lm.sae(MLP), site=None), tokens=TOKENS)
    assert (result.verdict, result.convention) == ("amber", "mlp_out/6")
    assert "do not say where they read" in result.sentence


# Transcoders


@pytest.fixture(scope="module")
def mlp_acts(lm: SplicedLM) -> dict[Site, torch.Tensor]:
    kinds = ("mlp_in", "mlp_in_unit", "resid_mid", "mlp_out")
    return captured(lm, [Site(kind, 6) for kind in kinds], context_size=512, bos=True)


@pytest.mark.parametrize("right", ["mlp_in", "mlp_in_unit"])
def test_a_transcoder_s_input_and_output(
    lm: SplicedLM, mlp_acts: dict[Site, torch.Tensor], right: Literal["mlp_in", "mlp_in_unit"]
) -> None:
    site, target = Site(right, 6), Site("mlp_out", 6)
    sae = fitted(mlp_acts[site], mlp_acts[target], site, target, features=384, context_size=512)
    bare = check_sae(lm, sae, text=FEW)
    sae = declaring(sae, bare.l0, bare.fvu)
    assert check_sae(lm, sae, text=FEW).verdict == "green"
    other = "mlp_in_unit" if right == "mlp_in" else "mlp_in"
    result = None
    for wrong in (
        f"{other}/6 to mlp_out/6",  # the norm's gain in or out
        f"{right}/6 to mlp_proj/6",  # before the norm after the MLP
        f"{other}/6 to mlp_proj/6",  # both
        "resid_mid/6 to mlp_out/6",  # not normed at all
    ):
        sites = [Site.parse(text) for text in wrong.split(" to ")]
        moved = planted(sae, site=sites[0], site_out=sites[1])
        result = check_sae(lm, moved, text=FEW)
        assert (result.verdict, result.convention) == ("red", f"{site} to {target}"), (
            result.sentence
        )
        assert result.site == wrong
    assert result is not None
    assert f"These look like a transcoder of {site} (" in result.sentence
    assert f" --site {site} --site-out {target} writes a copy" in result.sentence


def test_a_transcoder_taken_for_an_sae(lm: SplicedLM, mlp_acts: dict[Site, torch.Tensor]) -> None:
    site, target = Site("mlp_in", 6), Site("mlp_out", 6)
    sae = fitted(mlp_acts[site], mlp_acts[target], site, target, features=384, context_size=512)
    for declared in (site, None):
        taken = planted(sae, site=declared, site_out=None)
        result = check_sae(lm, taken, text=FEW)
        assert result.convention == "mlp_in/6 to mlp_out/6", result.sentence
        assert result.verdict == ("amber" if declared is None else "red")
