"""The conventions that a check tries, and the numbers that each gives."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sae_core.check import measure as measuring
from sae_core.check.conventions import Convention, Conventions, as_declared
from sae_core.check.measure import measure
from sae_core.config import SAEConfig, Site
from sae_core.corpus import Document, token_rows
from sae_core.evaluation import evaluate
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from tests import tiny

TEXTS = [row["text"] for row in tiny.tiny_documents()]
HERE = Convention(site=tiny.SITE, target=tiny.SITE)


@pytest.fixture
def lm(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> SplicedLM:
    return SplicedLM(tiny_model, tiny_tokenizer, {"tiny": tiny_sae})


@pytest.fixture
def rows(tiny_tokenizer: Any) -> list[Any]:
    documents = [Document(number, text, "", "", "") for number, text in enumerate(TEXTS[:20])]
    return list(token_rows(documents, tiny_tokenizer, 32))


def changed(sae: SAE, change: Callable[[Any], object] = lambda sae: None, **cfg: Any) -> SAE:
    """A copy of an SAE with other weights, another configuration, or both."""
    other = copy.deepcopy(sae)
    change(other)
    other.cfg = replace(other.cfg, **cfg)
    return other


def test_the_conventions_of_a_layer_are_its_tensors_once_each(tiny_model: Any) -> None:
    cfg = SAEConfig(architecture="standard", d_model=32, d_sae=4, site=Site("resid_pre", 1))
    here = as_declared(cfg)
    assert here is not None
    conventions = Conventions(tiny_model, cfg)
    kinds = "resid_mid resid_post mlp_in mlp_in_unit mlp_proj mlp_out attn_out attn_proj attn_add"
    assert [str(r) for r in conventions.same_layer(here)] == [f"{kind}/1" for kind in kinds.split()]
    # resid_pre/2 is resid_post/1, and resid_pre/0 the only one without another name.
    assert [str(r) for r in conventions.other_layers(here)] == ["resid_pre/0", "resid_post/1"]
    similar = [str(convention) for convention in conventions.similar(here)]
    assert similar == ["resid_mid/1", "resid_post/1", "resid_pre/0", "resid_pre/1, minus b_dec"]


def test_a_transcoder_s_conventions_vary_its_input_its_output_and_both_ends_of_the_mlp(
    tiny_model: Any,
) -> None:
    site, target = Site("mlp_in_unit", 1), Site("mlp_out", 1)
    cfg = SAEConfig(architecture="standard", d_model=32, d_sae=4, site=site, site_out=target)
    here = as_declared(cfg)
    assert here is not None
    conventions = Conventions(tiny_model, cfg)
    near = [str(convention) for convention in conventions.same_layer(here)]
    assert {"mlp_in/1 to mlp_out/1", "resid_mid/1 to mlp_out/1"} <= set(near)
    assert {"mlp_in_unit/1 to mlp_proj/1", "mlp_in/1 to mlp_proj/1"} <= set(near)
    assert str(here) not in near
    assert "mlp_out/1" not in near  # that would be no transcoder
    shifted = [str(convention) for convention in conventions.other_layers(here)]
    assert shifted == ["mlp_in_unit/0 to mlp_out/0", "mlp_in_unit/2 to mlp_out/2"]
    arithmetic = {(r.scale, r.minus_b_dec) for r in conventions.other_arithmetic(here)}
    assert arithmetic == {("unit", False), ("sqrt_d", False)}


def test_a_model_without_norms_after_the_mlp_has_fewer_tensors() -> None:
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        vocab_size=64,
    )
    cfg = SAEConfig(architecture="standard", d_model=16, d_sae=4, site=Site("mlp_proj", 0))
    here = as_declared(cfg)
    assert here is not None
    conventions = Conventions(LlamaForCausalLM(config).eval(), cfg)
    near = [str(convention) for convention in conventions.same_layer(here)]
    # mlp_proj is mlp_out here; attn_out is 8 wide.
    kinds = "resid_pre resid_mid resid_post mlp_in mlp_in_unit attn_add"
    assert near == [f"{kind}/0" for kind in kinds.split()]
    assert [str(convention) for convention in conventions.other_layers(here)] == ["mlp_out/1"]


def test_the_declared_convention_has_the_numbers_of_eval(lm: SplicedLM, rows: list[Any]) -> None:
    expected = evaluate(lm, "tiny", rows)
    result = measure(lm, lm.sae("tiny"), rows, [HERE])[HERE]
    assert result.tokens == expected.tokens
    assert result.l0 == pytest.approx(expected.l0, abs=1e-9)
    assert result.fvu == pytest.approx(expected.fvu, rel=1e-6)


def test_chunks_and_company_change_nothing(
    lm: SplicedLM, rows: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = lm.sae("tiny")
    alone = measure(lm, sae, rows, [HERE])[HERE]
    others = Conventions(lm.model, sae.cfg).same_layer(HERE)
    assert measure(lm, sae, rows, [*others, HERE])[HERE] == alone
    monkeypatch.setattr(measuring, "_KEPT", 0)  # one convention at a time
    assert measure(lm, sae, rows, [*others, HERE])[HERE] == alone
    monkeypatch.setattr(measuring, "_CHUNK", 7 * sae.cfg.d_sae)
    in_parts = measure(lm, sae, rows, [HERE])[HERE]
    assert in_parts.l0 == alone.l0
    assert in_parts.fvu == pytest.approx(alone.fvu, rel=1e-6)


def test_bos_is_out_counted_or_absent(lm: SplicedLM, rows: list[Any]) -> None:
    conventions = [replace(HERE, bos=bos) for bos in ("out", "counted", "absent")]
    sae = changed(lm.sae("tiny"))
    out, counted, absent = measure(lm, sae, rows, conventions).values()
    assert counted.tokens == out.tokens + len(rows)
    assert absent.tokens == out.tokens
    assert absent.fvu != out.fvu
    # L0 of all tokens is that of the ordinary ones and of the BOS tokens, which are all alike.
    x = measuring._gather(lm, rows, [tiny.SITE], torch.device("cpu"), without_bos=False)
    bos = sae.encode(x.at[tiny.SITE][~x.ordinary]).ne(0).sum(-1)
    total = out.l0 * out.tokens + float(bos.sum())
    assert counted.l0 * counted.tokens == pytest.approx(total)


def unscaled(by: float) -> Callable[[Any], None]:
    """Weights as they were before the scale of training was folded in."""

    def change(sae: Any) -> None:
        for name in ("b_enc", "b_dec", "threshold"):
            getattr(sae, name).data /= by

    return change


def pre_bias(sae: Any) -> None:
    """Weights as they were before b_dec was folded into b_enc."""
    sae.b_enc.data += sae.b_dec @ sae.W_enc


@pytest.mark.parametrize("scale", ["unit", "sqrt_d"])
def test_a_scale_that_was_not_folded_in_is_undone(
    lm: SplicedLM, rows: list[Any], scale: Any
) -> None:
    sae = lm.sae("tiny")
    right = measure(lm, sae, rows, [HERE])[HERE]
    convention = replace(HERE, scale=scale, minus_b_dec=True)
    divisor = measure(lm, sae, rows, [convention])[convention].divisor
    raw = changed(sae, lambda sae: (unscaled(divisor)(sae), pre_bias(sae)))
    result = measure(lm, raw, rows, [convention, HERE])
    assert result[convention].l0 == pytest.approx(right.l0, rel=1e-3)
    assert result[convention].fvu == pytest.approx(right.fvu, rel=1e-3)
    assert result[HERE].fvu != pytest.approx(right.fvu, rel=0.1)
    x = measuring._gather(lm, rows, [tiny.SITE], torch.device("cpu"), without_bos=False)
    norms = x.at[tiny.SITE][x.ordinary].norm(dim=-1) / divisor
    mean = norms.square().mean() if scale == "unit" else norms.mean() / math.sqrt(32)
    assert float(mean) == pytest.approx(1, rel=1e-4)


def test_layer_norm_takes_each_token_s_mean_and_deviation(lm: SplicedLM, rows: list[Any]) -> None:
    # An SAE whose features are the activation's own entries, both signs: it reconstructs exactly.
    sae = SAE.build(SAEConfig(architecture="standard", d_model=32, d_sae=64, site=tiny.SITE))
    both = torch.cat([torch.eye(32), -torch.eye(32)], 1)
    sae.W_enc.data, sae.W_dec.data = both, both.T.contiguous()
    convention = replace(HERE, scale="layer_norm")
    result = measure(lm, sae, rows, [convention])[convention]
    assert result.fvu < 1e-9
    assert result.l0 == pytest.approx(32)
    sae.b_enc.data -= 0.5  # only entries beyond half a deviation are left
    assert measure(lm, sae, rows, [convention])[convention].l0 < 25
