"""The check on the demo's trained SAEs: right ones are green, each planted mistake is named."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from app.commands.shared import DEMO
from sae_core.bundle import Bundle
from sae_core.check import Check, check, check_sae, saved_check
from sae_core.check.conventions import Convention
from sae_core.check.measure import measure
from sae_core.check.sae_check import TEXT
from sae_core.config import SAEConfig, Site
from sae_core.corpus import Document, token_rows
from sae_core.sae import SAE
from sae_core.sites import activations
from sae_core.splice import SplicedLM

RESID, MLP = "resid_post-layer_4-l0_32", "mlp_out-layer_6-l0_32"
PASSAGES = TEXT.read_text(encoding="utf-8").strip().split("\n%\n")
TOKENS = 600
FEW = PASSAGES[:2]
"""What SAEs in closed form are fitted to and checked on: 700 tokens."""


@pytest.fixture(scope="module")
def lm() -> SplicedLM:
    return Bundle.open(DEMO).load()


def planted(sae: SAE, change: Callable[[Any], object] = lambda sae: None, **cfg: Any) -> SAE:
    """A copy of an SAE with a mistake in it."""
    other = copy.deepcopy(sae)
    change(other)
    other.cfg = replace(other.cfg, **cfg)
    return other


def declaring(sae: SAE, l0: float, fvu: float) -> SAE:
    return planted(sae, metadata={"declared": {"l0": l0, "fvu": fvu}})


def unscaled(by: float) -> Callable[[Any], None]:
    """Weights as they were before the scale of training was folded in."""

    def change(sae: Any) -> None:
        for name in ("b_enc", "b_dec", "threshold"):
            getattr(sae, name).data /= by

    return change


def pre_bias(sae: Any) -> None:
    """Weights as they were before b_dec was folded into b_enc."""
    sae.b_enc.data += sae.b_dec @ sae.W_enc


def red(lm: SplicedLM, sae: SAE, convention: str) -> Check:
    """The check, which must name this convention."""
    result = check_sae(lm, sae, tokens=TOKENS)
    assert (result.verdict, result.convention) == ("red", convention), result.sentence
    return result


# The innocent


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
    assert (saved["sentence"], saved["tokens"]) == (result.sentence, result.tokens)


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
    assert "its training was to reach an L0 of 16 and ended at 32.1" in result.sentence


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


# Scale, b_dec, BOS


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
    assert result.sentence.startswith("The declared numbers count BOS as a token: so L0 is 4")
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


def rows(lm: SplicedLM, texts: Sequence[str], context_size: int) -> list[Any]:
    documents = [Document(number, text, "", "", "") for number, text in enumerate(texts)]
    return list(token_rows(documents, lm.tokenizer, context_size))


def captured(
    lm: SplicedLM, sites: Sequence[Site], *, context_size: int, bos: bool
) -> dict[Site, torch.Tensor]:
    """Activations of the ordinary tokens of the first passages, with BOS before them or without."""
    parts: dict[Site, list[torch.Tensor]] = {site: [] for site in sites}
    for row in rows(lm, FEW, context_size):
        ids = torch.from_numpy(row.ids).long()[None]
        result = activations(lm.model, ids if bos else ids[:, 1:], sites)
        for site in sites:
            parts[site].append(result[site][0, 1:] if bos else result[site][0])
    return {site: torch.cat(part) for site, part in parts.items()}


def fitted(
    x: torch.Tensor,
    y: torch.Tensor,
    site: Site,
    site_out: Site | None,
    *,
    features: int,
    context_size: int,
    share: float = 0.08,
) -> SAE:
    """An SAE in closed form: random directions that fire on a share of x, decoder by ridge on y."""
    sae: Any = SAE.build(
        SAEConfig(
            architecture="jumprelu",
            d_model=x.shape[1],
            d_sae=features,
            site=site,
            site_out=site_out,
            context_size=context_size,
        )
    )
    directions = torch.randn(x.shape[1], features, generator=torch.Generator().manual_seed(0))
    directions /= directions.norm(dim=0)
    sae.W_enc.data = directions
    sae.b_enc.data = -x.mean(0) @ directions
    sae.threshold.data = ((x - x.mean(0)) @ directions).quantile(1 - share, dim=0).clamp(min=1e-3)
    acts = sae.encode(x)
    centred, mean = acts - acts.mean(0), y.mean(0)
    gram = centred.T @ centred
    ridge = gram + 1e-3 * gram.diagonal().mean() * torch.eye(features)
    sae.W_dec.data = torch.linalg.solve(ridge, centred.T @ (y - mean))
    sae.b_dec.data = mean - acts.mean(0) @ sae.W_dec
    return sae
