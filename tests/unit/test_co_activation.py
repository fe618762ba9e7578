"""What fires together with a feature, and the same feature in another SAE, against slow loops."""

from typing import Any

import numpy as np
import pytest
import torch

from sae_core import co_activation as module
from sae_core.check import check_rows
from sae_core.co_activation import (
    co_activation,
    correlations,
    decoder_cosines,
    random_cosine,
    writes_to_stream,
)
from sae_core.config import Site
from sae_core.corpus import TokenRow
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from tests.tiny import ALWAYS, D_SAE, DEAD, make_sae

FEATURE = 5


@pytest.fixture
def lm(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> SplicedLM:
    saes = {"tiny": tiny_sae}
    for name, site, seed in (
        ("later", Site("mlp_out", 2), 1),
        ("heads", Site("attn_out", 1), 2),
        ("before", Site("mlp_in", 2), 3),
    ):
        saes[name] = make_sae(tiny_model, tiny_tokenizer, site, seed)
        # Away from the tokens that they are quantiles of: a rounding would decide what fires.
        saes[name].get_parameter("threshold").data *= 1.01
    return SplicedLM(tiny_model, tiny_tokenizer, saes)


@pytest.fixture
def rows(lm: SplicedLM) -> list[TokenRow]:
    return check_rows(lm, lm.sae("tiny").cfg, None, 300)


def acts_of(lm: SplicedLM, name: str, rows: list[TokenRow]) -> np.ndarray:
    """Activations `[tokens, d_sae]` on all but BOS, a row of tokens at a time."""
    parts = [lm.pre_activations(row.ids.tolist(), name, list(range(D_SAE)))[1] for row in rows]
    return np.concatenate([part[1:] for part in parts])


@pytest.fixture(params=[module._CHUNK, 5 * D_SAE])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens all at once, and in parts that no row is a multiple of."""
    monkeypatch.setattr(module, "_CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
def test_jaccard_and_lift_count_tokens(lm: SplicedLM, rows: list[TokenRow]) -> None:
    acts = acts_of(lm, "tiny", rows) > 0
    result = co_activation(lm, "tiny", FEATURE, rows)
    assert result.tokens == len(acts)
    assert result.own == acts[:, FEATURE].sum() > 0
    for other in range(D_SAE):
        a, b = acts[:, FEATURE], acts[:, other]
        both, either = int((a & b).sum()), int((a | b).sum())
        assert (result.both[other], result.either[other]) == (both, either)
        assert result.jaccard()[other] == pytest.approx(both / either)
        by_chance = a.mean() * b.mean() * len(a)
        lift = both / by_chance if by_chance else 0
        assert result.lift()[other] == pytest.approx(lift)
    assert result.fires[DEAD] == result.lift()[DEAD] == 0


def test_the_nearest_leave_out_itself_and_what_never_meets_it(
    lm: SplicedLM, rows: list[TokenRow]
) -> None:
    result = co_activation(lm, "tiny", ALWAYS, rows)
    nearest = result.nearest(1000).tolist()
    jaccard, lift = result.jaccard(), result.lift()
    expected = sorted(
        (i for i in range(D_SAE) if i != ALWAYS and result.both[i]),
        key=lambda i: (-jaccard[i], -lift[i], i),
    )
    assert nearest == expected
    assert ALWAYS not in nearest
    assert DEAD not in nearest
    assert result.nearest(3).tolist() == expected[:3]
    assert len(co_activation(lm, "tiny", DEAD, rows).nearest(10)) == 0


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("other", ["later", "before"])
def test_correlations_are_pearson_s(lm: SplicedLM, rows: list[TokenRow], other: str) -> None:
    one, two = acts_of(lm, "tiny", rows), acts_of(lm, other, rows)
    result = correlations(lm, "tiny", ALWAYS, other, rows)
    for feature in range(D_SAE):
        if two[:, feature].any():
            expected = np.corrcoef(one[:, ALWAYS], two[:, feature])[0, 1]
            assert result[feature] == pytest.approx(expected, abs=1e-5)
        else:
            assert np.isnan(result[feature])
    assert np.isnan(correlations(lm, "tiny", DEAD, other, rows)).all()


def test_cosines_are_those_of_the_directions_in_the_stream(
    lm: SplicedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DIRECTIONS", 10)
    direction = lm.sae("tiny").W_dec[FEATURE]
    cosines = decoder_cosines(lm, "tiny", FEATURE, "later")
    expected = torch.cosine_similarity(direction[None], lm.sae("later").W_dec)
    assert cosines == pytest.approx(expected.numpy(), abs=1e-5)
    assert decoder_cosines(lm, "tiny", FEATURE, "tiny").argmax() == FEATURE
    # What attention's heads write reaches the stream through its projection and norm.
    block = lm.model.model.layers[1]
    gain = 1 + block.post_attention_layernorm.weight
    written = (lm.sae("heads").W_dec @ block.self_attn.o_proj.weight.T) * gain
    expected = torch.cosine_similarity(direction[None], written)
    cosines = decoder_cosines(lm, "tiny", FEATURE, "heads")
    assert cosines == pytest.approx(expected.detach().numpy(), abs=1e-5)


@pytest.mark.parametrize(("count", "width"), [(1, 3), (64, 32), (500, 100)])
def test_the_nearest_of_random_directions_is_nearer_once_in_twenty(count: int, width: int) -> None:
    generator = np.random.default_rng(0)
    largest = []
    for _ in range(600):
        directions = generator.normal(size=(count, width))
        largest.append((directions[:, 0] / np.linalg.norm(directions, axis=1)).max())
    assert random_cosine(count, width) == pytest.approx(np.quantile(largest, 0.95), rel=0.05)


def test_what_an_mlp_reads_is_no_direction_of_the_stream(lm: SplicedLM) -> None:
    names = ("tiny", "later", "heads", "before")
    assert [writes_to_stream(lm, name) for name in names] == [True, True, True, False]
    for pair in (("tiny", "before"), ("before", "tiny")):
        with pytest.raises(ValueError, match="SAE before writes what an MLP reads"):
            decoder_cosines(lm, pair[0], FEATURE, pair[1])


def test_a_feature_that_is_not_there_is_named(lm: SplicedLM, rows: list[TokenRow]) -> None:
    for ask in (
        lambda: co_activation(lm, "tiny", D_SAE, rows),
        lambda: correlations(lm, "tiny", D_SAE, "later", rows),
        lambda: decoder_cosines(lm, "tiny", D_SAE, "later"),
    ):
        with pytest.raises(ValueError, match=f"feature {D_SAE} does not exist"):
            ask()
