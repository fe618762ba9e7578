"""Uniformity of a text's tokens, against gradients of whole forwards written out here."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.config import Site
from sae_core.metrics import uniformity_by_token
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from sae_core.text_uniformity import uniformity_of_text
from sae_core.tokens import encode_text
from tests import tiny_sink
from tests.tiny import make_sae

SITE = Site("resid_post", 0)
TEXT = "The river remembers two letters in the winter of 1912."


@pytest.fixture
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    sae = make_sae(tiny_model, tiny_tokenizer, SITE)
    return SplicedLM(tiny_model, tiny_tokenizer, {"tiny": sae})


def slow_uniformity(model: Any, sae: SAE, layer: int, ids: list[int], token: int) -> float:
    """From a forward of the whole text and a backward through all of it; NaN if none is active."""
    leaves = []

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        leaves.append(x.detach().requires_grad_())
        return (leaves[0], *output[1:]) if isinstance(output, tuple) else leaves[0]

    blocks = model.model.layers if hasattr(model, "model") else model.transformer.h
    handle = blocks[layer].register_forward_hook(hook)
    try:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, token].float()
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(logits[ids[token + 1]] - logits.mean(), leaves)
    x = leaves[0][0, token].detach()
    pre = x @ sae.W_enc + sae.b_enc
    active = (pre > sae.get_parameter("threshold")).nonzero()[:, 0].tolist()
    effects = [abs(float(pre[i] * (sae.W_dec[i] @ gradient[0, token]))) for i in active]
    if not active:
        return math.nan
    shares = [effect / sum(effects) for effect in effects]
    return math.exp(-sum(s * math.log(s) for s in shares if s > 0)) / len(active)


def test_it_is_the_mean_over_tokens_with_a_next_one(lm: SplicedLM, tiny_tokenizer: Any) -> None:
    ids = encode_text(tiny_tokenizer, TEXT)
    sae = lm.sae("tiny")
    expected = [slow_uniformity(lm.model, sae, 0, ids, t) for t in range(1, len(ids) - 1)]
    mean, count = uniformity_of_text(lm, ids, "tiny")
    assert count == np.isfinite(expected).sum()
    assert mean == pytest.approx(np.nanmean(expected), rel=1e-3)
    assert 0 < mean < 1


def test_of_a_long_text_some_tokens_are_taken(lm: SplicedLM, tiny_tokenizer: Any) -> None:
    ids = encode_text(tiny_tokenizer, TEXT)
    usable = range(1, len(ids) - 1)
    chosen = [usable[i * len(usable) // 3] for i in range(3)]
    assert chosen[0] == 1
    assert chosen[-1] > len(ids) // 2
    expected = [slow_uniformity(lm.model, lm.sae("tiny"), 0, ids, t) for t in chosen]
    mean, count = uniformity_of_text(lm, ids, "tiny", most=3)
    assert count == np.isfinite(expected).sum() >= 2
    assert mean == pytest.approx(np.nanmean(expected), rel=1e-3)


def test_an_attention_sink_does_not_count() -> None:
    tokenizer, model = tiny_sink.make_tokenizer(), tiny_sink.make_model(300.0)
    sae = tiny_sink.make_sae(model, tokenizer)
    ids = encode_text(tokenizer, TEXT)
    mean, count = uniformity_of_text(SplicedLM(model, tokenizer, {"sae": sae}), ids, "sae")
    layer = tiny_sink.SITE.layer
    expected = [slow_uniformity(model, sae, layer, ids, t) for t in range(1, len(ids) - 1)]
    assert count == np.isfinite(expected).sum()
    assert mean == pytest.approx(np.nanmean(expected), rel=1e-3)


def test_a_text_without_a_next_token_has_none(lm: SplicedLM, tiny_tokenizer: Any) -> None:
    mean, count = uniformity_of_text(lm, encode_text(tiny_tokenizer, "The")[:2], "tiny")
    assert math.isnan(mean)
    assert count == 0


def test_equal_effects_are_uniform_and_one_alone_is_not() -> None:
    acts = torch.tensor([[1.0, 2, 3, 4, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    effects = torch.tensor([[2.0, -2, 2, 2, 0], [0, 0, -5, 0, 0], [0, 0, 0, 0, 0], [0] * 5])
    uniformity = uniformity_by_token(effects, acts).tolist()
    assert uniformity[:2] == pytest.approx([1.0, 0.25])
    assert all(math.isnan(each) for each in uniformity[2:])
