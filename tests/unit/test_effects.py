"""Effects of features on a prediction, against forwards and gradients written out here."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_core.config import Site
from sae_core.effects import Effects, effects, effects_of_all_tokens, joint_effect
from sae_core.prediction import Prediction
from sae_core.sae import SAE
from sae_core.sites import activations
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests import tiny, tiny_sink
from tests.tiny import make_sae

SITE = Site("resid_post", 0)
TEXT = "The river remembers two letters in the winter of 1912. My neighbour returns it at noon."


@pytest.fixture
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    sae = make_sae(tiny_model, tiny_tokenizer, SITE)
    return SplicedLM(tiny_model, tiny_tokenizer, {"tiny": sae})


@pytest.fixture
def ids(tiny_tokenizer: Any) -> list[int]:
    return encode_text(tiny_tokenizer, TEXT)


def slow_log_probs(model: Any, ids: list[int], layer: int, at: int, change: Tensor) -> Tensor:
    """`[pos, vocab]`, float64, with `change` added to what a block returns at one token."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        new = (output[0] if isinstance(output, tuple) else output).clone()
        new[0, at] += change
        return (new, *output[1:]) if isinstance(output, tuple) else new

    blocks = model.model.layers if hasattr(model, "model") else model.transformer.h
    handle = blocks[layer].register_forward_hook(hook)
    try:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        handle.remove()
    return logits.double().log_softmax(-1)


def slow_arm(model: Any, ids: list[int], change: Tensor) -> Tensor:
    """`slow_log_probs` with a change of what block 0 returns at every token, `[pos, d_model]`."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        return (output[0] + change, *output[1:]) if isinstance(output, tuple) else output + change

    handle = model.model.layers[0].register_forward_hook(hook)
    try:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        handle.remove()
    return logits.double().log_softmax(-1)


def slow_acts(model: Any, sae: SAE, ids: list[int], site: Site = SITE) -> Tensor:
    x = activations(model, torch.tensor([ids]), [site])[site][0]
    pre = x @ sae.W_enc + sae.b_enc
    return torch.where(pre > sae.get_parameter("threshold"), pre, 0.0)


@pytest.mark.parametrize(("position", "read_at"), [(9, None), (9, 20), (27, None), (1, 3)])
def test_every_active_feature_is_truly_set_to_0(
    lm: SplicedLM, ids: list[int], position: int, read_at: int | None
) -> None:
    sae, last = lm.sae("tiny"), position if read_at is None else read_at
    target = 17
    result = effects(lm, ids, "tiny", position, read_at=read_at, target=target, tokens=5)
    acts = slow_acts(lm.model, sae, ids)[position]
    active = acts.nonzero()[:, 0].tolist()
    assert sorted(result.feature.tolist()) == active
    assert len(active) >= 2
    assert set(result.position.tolist()) == {position}
    assert result.exact.all()
    assert (np.diff(result.kl) <= 0).all()
    with torch.no_grad():
        base = slow_log_probs(lm.model, ids, 0, position, torch.zeros(tiny.D_MODEL))[last]
    likeliest = base.topk(5).indices.tolist()
    assert target not in likeliest
    assert result.tokens.tolist() == [*likeliest, target]
    assert result.logp == pytest.approx(base[result.tokens].numpy(), abs=1e-5)
    for n, feature in enumerate(result.feature):
        with torch.no_grad():
            change = -acts[feature] * sae.W_dec[feature]
            arm = slow_log_probs(lm.model, ids, 0, position, change)[last]
        kl = float((base.exp() * (base - arm)).sum())
        assert result.activation[n] == pytest.approx(float(acts[feature]), rel=1e-5)
        assert result.kl[n] == pytest.approx(kl, abs=1e-6, rel=1e-3)
        assert result.change[n] == pytest.approx((arm - base)[result.tokens].numpy(), abs=1e-5)
        assert result.dlogp[n] == pytest.approx(float((arm - base)[target]), abs=1e-5)
        assert result.becomes[n] == int(arm.argmax())
        assert result.becomes_logp[n] == pytest.approx(float(arm.max()), abs=1e-5)
    assert result.kl.max() > 1e-4


def test_the_estimate_is_gradient_times_activation(lm: SplicedLM, ids: list[int]) -> None:
    sae, position, last = lm.sae("tiny"), 11, 19
    result = effects(lm, ids, "tiny", position, read_at=last)
    assert result.target == result.tokens[0]
    change = torch.zeros(tiny.D_MODEL, requires_grad=True)
    logp = slow_log_probs(lm.model, ids, 0, position, change)[last, result.target]
    (gradient,) = torch.autograd.grad(logp, change)
    expected = -(sae.W_dec[result.feature] @ gradient).numpy() * result.activation
    assert result.estimate == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert not np.allclose(result.estimate, result.dlogp, rtol=1e-3), "no estimate is exact"


def test_without_estimates_all_else_is_the_same(lm: SplicedLM, ids: list[int]) -> None:
    result = effects(lm, ids, "tiny", 11, read_at=19, estimates=False)
    other = effects(lm, ids, "tiny", 11, read_at=19)
    assert np.isnan(result.estimate).all()
    assert np.isfinite(other.estimate).all()
    assert np.isnan(result.rank_correlation())
    for name in ("position", "feature", "activation", "kl", "change", "becomes", "exact"):
        assert np.array_equal(getattr(result, name), getattr(other, name)), name


def test_all_tokens_are_estimated_and_the_largest_measured(lm: SplicedLM, ids: list[int]) -> None:
    last = 16
    result = effects_of_all_tokens(lm, ids, "tiny", last, exact=7)
    analysis = lm.analyse(ids, "tiny")
    expected = {
        (int(t), int(f)) for t, f in zip(analysis.token, analysis.feature, strict=True) if t <= last
    }
    pairs = list(zip(result.position.tolist(), result.feature.tolist(), strict=True))
    assert set(pairs) == expected
    assert len(pairs) == len(expected)
    assert result.exact.tolist() == [True] * 7 + [False] * (len(pairs) - 7)
    size = np.abs(result.estimate)
    assert size[:7].min() >= size[7:].max()
    assert (np.diff(size[7:]) <= 0).all()
    assert np.isnan(result.kl[7:]).all()
    assert np.isnan(result.dlogp[7:]).all()
    assert (result.becomes[7:] == -1).all()
    assert np.isnan(result.becomes_logp[7:]).all()
    assert len({position for position, _ in pairs[:7]}) > 1
    for n, (position, feature) in enumerate(pairs[:7]):
        alone = effects(lm, ids, "tiny", position, read_at=last)
        there = int(np.flatnonzero(alone.feature == feature)[0])
        assert result.kl[n] == pytest.approx(alone.kl[there], abs=1e-6)
        assert result.change[n] == pytest.approx(alone.change[there], abs=1e-5)
        assert result.estimate[n] == pytest.approx(alone.estimate[there], abs=1e-5)
    ranks = [values[:7].argsort().argsort() for values in (result.estimate, result.dlogp)]
    assert result.rank_correlation() == pytest.approx(np.corrcoef(ranks[0], ranks[1])[0, 1])


def test_several_are_set_to_0_at_once_and_each_alone(lm: SplicedLM, ids: list[int]) -> None:
    sae, last, target = lm.sae("tiny"), 16, 17
    acts = slow_acts(lm.model, sae, ids)
    pairs = [(t, int(acts[t].argmax())) for t in (9, 12, 16)]
    pairs.append((16, int(acts[16].topk(2).indices[1])))
    twice = [*pairs, pairs[0]]
    result = joint_effect(lm, ids, "tiny", twice, last, target=target, tokens=5)
    assert len(result.kl_alone) == len(pairs), "the sum of each alone has each once"
    with torch.no_grad():
        whole = torch.zeros(len(ids), tiny.D_MODEL)
        base = slow_arm(lm.model, ids, whole)[last]
        for n, (position, feature) in enumerate(pairs):
            one = torch.zeros(len(ids), tiny.D_MODEL)
            one[position] = -acts[position, feature] * sae.W_dec[feature]
            whole += one
            arm = slow_arm(lm.model, ids, one)[last]
            kl = float((base.exp() * (base - arm)).sum())
            assert result.kl_alone[n] == pytest.approx(kl, abs=1e-6, rel=1e-3)
            expected = (arm - base)[result.tokens].numpy()
            assert result.change_alone[n] == pytest.approx(expected, abs=1e-5)
        arm = slow_arm(lm.model, ids, whole)[last]
    assert result.pairs == tuple(pairs)
    assert result.tokens[-1] == target
    kl = float((base.exp() * (base - arm)).sum())
    assert result.kl == pytest.approx(kl, abs=1e-6, rel=1e-3)
    assert result.kl != pytest.approx(result.kl_alone.sum(), rel=1e-3), "effects do not add up"
    assert result.change == pytest.approx((arm - base)[result.tokens].numpy(), abs=1e-5)
    assert result.becomes == int(arm.argmax())
    assert result.becomes_logp == pytest.approx(float(arm.max()), abs=1e-5)


def test_the_splice_is_the_analysis_s(lm: SplicedLM, ids: list[int]) -> None:
    analysis = lm.analyse(ids, "tiny")
    for read_at in (4, 20):
        following = ids[read_at + 1]
        prediction = Prediction(lm, ids, "tiny", read_at, target=following)
        logp, kl = prediction.spliced()
        assert -logp[prediction.tokens.index(following)] == pytest.approx(
            float(analysis.spliced_loss[read_at + 1]), abs=1e-4
        )
        assert kl == pytest.approx(float(analysis.kl[read_at + 1]), abs=1e-4)
        assert kl > 1e-3


def test_wide_saes_are_encoded_in_parts(
    lm: SplicedLM, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = effects_of_all_tokens(lm, ids, "tiny", 16, exact=0)
    monkeypatch.setattr("sae_core.prediction._ENCODED", 3 * tiny.D_SAE)
    parts = effects_of_all_tokens(lm, ids, "tiny", 16, exact=0)
    assert parts.position.tolist() == whole.position.tolist()
    assert parts.feature.tolist() == whole.feature.tolist()
    assert parts.estimate == pytest.approx(whole.estimate, abs=1e-6)
    assert not parts.exact.any()
    assert np.isnan(parts.rank_correlation())


def test_a_transcoders_effect_is_on_what_it_writes(
    tiny_model: Any, tiny_tokenizer: Any, ids: list[int]
) -> None:
    read, write = Site("mlp_in", 0), Site("resid_post", 1)
    reader = make_sae(tiny_model, tiny_tokenizer, read)
    sae = SAE.build(dataclasses.replace(reader.cfg, site_out=write))
    sae.load_state_dict(reader.state_dict())
    lm = SplicedLM(tiny_model, tiny_tokenizer, {"tc": sae})
    result = effects(lm, ids, "tc", 12, read_at=15)
    acts = slow_acts(tiny_model, sae, ids, read)[12]
    with torch.no_grad():
        base = slow_log_probs(tiny_model, ids, 1, 12, torch.zeros(tiny.D_MODEL))[15]
        for n, feature in enumerate(result.feature):
            change = -acts[feature] * sae.W_dec[feature]
            arm = slow_log_probs(tiny_model, ids, 1, 12, change)[15]
            assert result.kl[n] == pytest.approx(float((base.exp() * (base - arm)).sum()), abs=1e-5)
    assert len(result.feature) >= 3
    leaf = torch.zeros(tiny.D_MODEL, requires_grad=True)
    logp = slow_log_probs(tiny_model, ids, 1, 12, leaf)[15, result.target]
    (gradient,) = torch.autograd.grad(logp, leaf)
    expected = -(sae.W_dec[result.feature] @ gradient).numpy() * result.activation
    assert result.estimate == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_another_architecture_and_its_attention_sink() -> None:
    """GPT-2: learned positions, other modules; its first token keeps its activation."""
    tokenizer, model = tiny_sink.make_tokenizer(), tiny_sink.make_model(300.0)
    sae = tiny_sink.make_sae(model, tokenizer)
    lm = SplicedLM(model, tokenizer, {"sae": sae})
    ids = encode_text(tokenizer, TEXT)
    with pytest.raises(ValueError, match="token 0 is a special token or an attention sink"):
        effects(lm, ids, "sae", 0)
    with pytest.raises(ValueError, match="token 0 is a special token or an attention sink"):
        joint_effect(lm, ids, "sae", [(6, 1), (0, 1)], 9)
    acts = slow_acts(model, sae, ids, tiny_sink.SITE)
    result = effects(lm, ids, "sae", 6, read_at=9)
    assert sorted(result.feature.tolist()) == acts[6].nonzero()[:, 0].tolist()
    with torch.no_grad():
        base = slow_log_probs(model, ids, 1, 6, torch.zeros(tiny.D_MODEL))[9]
        for n, feature in enumerate(result.feature):
            arm = slow_log_probs(model, ids, 1, 6, -acts[6, feature] * sae.W_dec[feature])[9]
            assert result.kl[n] == pytest.approx(float((base.exp() * (base - arm)).sum()), abs=1e-5)
            assert result.change[n] == pytest.approx((arm - base)[result.tokens].numpy(), abs=1e-5)
    pairs = effects_of_all_tokens(lm, ids, "sae", 9)
    assert 0 not in pairs.position
    assert 1 in pairs.position


def test_ranks_are_shared_by_equal_values() -> None:
    estimate = np.array([0.1, 0.1, -0.4, 0.9, 5.0])
    change = np.array([[0.2], [0.3], [-0.1], [-0.1], [np.nan]])
    result = Effects(
        read_at=3,
        target=4,
        tokens=np.array([4]),
        logp=np.array([-1.0]),
        position=np.array([1, 1, 2, 2, 3]),
        feature=np.array([5, 6, 7, 8, 9]),
        activation=np.ones(5),
        kl=np.array([0.4, 0.3, 0.2, 0.1, np.nan]),
        change=change,
        becomes=np.array([4, 4, 4, 4, -1]),
        becomes_logp=np.array([-1.0, -1.0, -1.0, -1.0, np.nan]),
        estimate=estimate,
        exact=np.array([True, True, True, True, False]),
    )
    expected = np.corrcoef([[1.5, 1.5, 0, 3], [2, 3, 0.5, 0.5]])[0, 1]
    assert result.rank_correlation() == pytest.approx(expected)
    assert repr(result) == ("Effects(5 pairs, 4 exact; feature 5 at token 1: KL 0.4, change 0.2)")
    assert np.isnan(dataclasses.replace(result, exact=np.zeros(5, bool)).rank_correlation())
    assert np.isnan(dataclasses.replace(result, estimate=np.ones(5)).rank_correlation())


@pytest.mark.usefixtures("unchecked_types")
def test_mistakes_are_named(lm: SplicedLM, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="token 0 is a special token"):
        effects(lm, ids, "tiny", 0)
    with pytest.raises(ValueError, match="the second not before the first"):
        effects(lm, ids, "tiny", 9, read_at=8)
    for position in (-1, len(ids)):
        with pytest.raises(ValueError, match=f"tokens from 0 to {len(ids) - 1}"):
            effects(lm, ids, "tiny", position)
        with pytest.raises(ValueError, match=f"tokens from 0 to {len(ids) - 1}"):
            effects_of_all_tokens(lm, ids, "tiny", position)
    with pytest.raises(ValueError, match="unknown SAE 'other'"):
        effects(lm, ids, "other", 3)
    with pytest.raises(ValueError, match="no features are named"):
        joint_effect(lm, ids, "tiny", [], 5)
    with pytest.raises(ValueError, match="token 6 has no effect on the prediction after token 5"):
        joint_effect(lm, ids, "tiny", [(6, 1)], 5)
    with pytest.raises(ValueError, match="token 0 is a special token"):
        joint_effect(lm, ids, "tiny", [(0, 1)], 5)
    with pytest.raises(ValueError, match="feature 64 does not exist"):
        joint_effect(lm, ids, "tiny", [(3, tiny.D_SAE)], 5)
    with pytest.raises(ValueError, match="no prediction after token 99"):
        Prediction(lm, ids, "tiny", 99)
    with pytest.raises(ValueError, match="token 7 has no effect on the prediction after token 5"):
        Prediction(lm, ids, "tiny", 5).at(7)
    with pytest.raises(ValueError, match="target 384 is not a token's id: give 0 to 383"):
        effects(lm, ids, "tiny", 3, target=tiny.VOCAB_SIZE)


def test_bfloat16(tiny_tokenizer: Any, ids: list[int]) -> None:
    wide, narrow = tiny.make_model(), tiny.make_model().bfloat16()
    sae = make_sae(wide, tiny_tokenizer, SITE)
    exact = effects(SplicedLM(wide, tiny_tokenizer, {"tiny": sae}), ids, "tiny", 20, target=17)
    lm = SplicedLM(narrow, tiny_tokenizer, {"tiny": sae})
    rounded = effects(lm, ids, "tiny", 20, target=17)
    largest = int(exact.feature[0])
    assert int(rounded.feature[0]) == largest
    assert rounded.kl[0] == pytest.approx(exact.kl[0], rel=0.2)
    assert rounded.estimate[0] == pytest.approx(exact.estimate[0], rel=0.2)
