"""A feature's threshold on text through the model, against really changed SAEs and slow loops."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_core.check import check_rows
from sae_core.corpus import TokenRow
from sae_core.evaluation import evaluate
from sae_core.formats.saelens import load_sae, save_sae
from sae_core.jumprelu import jumprelu, step
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from sae_core.threshold_lab import gradient_terms
from sae_core.threshold_sample import (
    AS_IS,
    MOVED,
    RELU,
    feature_sample,
    measure_thresholds,
    with_thresholds,
)
from tests.tiny import ALWAYS

FEATURE = ALWAYS
SCALE = 1.7


@pytest.fixture
def lm(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> SplicedLM:
    return SplicedLM(tiny_model, tiny_tokenizer, {"tiny": tiny_sae})


@pytest.fixture
def rows(lm: SplicedLM) -> list[TokenRow]:
    return check_rows(lm, lm.sae("tiny").cfg, None, 400)


def read_by(lm: SplicedLM, rows: list[TokenRow]) -> torch.Tensor:
    """What the SAE reads at every token that counts, row by row, from the model's own output."""
    parts = []
    for row in rows:
        seen: list[Any] = []
        layer = lm.model.model.layers[lm.site("tiny").layer]
        hook = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        with torch.no_grad():
            lm.model(input_ids=torch.tensor([row.ids.tolist()]))
        hook.remove()
        keep = ~torch.tensor(lm.is_special(row.ids.tolist()))
        states = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        parts.append(states[0][keep])
    return torch.cat(parts)


def test_the_sample_gives_the_gradient_that_training_would_have(
    lm: SplicedLM, rows: list[TokenRow]
) -> None:
    sae = lm.sae("tiny")
    x = read_by(lm, rows)
    sample = feature_sample(lm, "tiny", FEATURE, rows)
    assert sample.units.stated == ()
    assert sample.units.scale == pytest.approx(float(x.square().sum(1).mean().sqrt()), rel=1e-5)
    bandwidth, penalty = 0.3, 0.02
    thresholds = (sae.effective_threshold() / SCALE).double().requires_grad_()
    z = sae.pre_acts(x).double() / SCALE
    acts = jumprelu(z, thresholds, bandwidth)
    recon = acts @ sae.W_dec.double() + sae.b_dec.double() / SCALE
    l0 = step(z, thresholds, bandwidth).sum()
    loss = ((x.double() / SCALE - recon).square().sum() + penalty * l0) / len(x)
    (expected,) = torch.autograd.grad(loss, thresholds)
    inside = sample.feature.scaled(SCALE)
    terms = gradient_terms(inside, [inside.threshold], penalty=penalty, bandwidth=bandwidth)
    assert float(terms.gradient[0]) == pytest.approx(float(expected[FEATURE]), rel=1e-3)
    assert int(terms.in_window[0]) > 0


@pytest.mark.parametrize(
    ("given", "frequency_scale"), [(None, None), (0.2, None), (0.5, None), (0.2, 0.1)]
)
def test_the_resting_lambda_makes_all_gradients_together_zero_with_its_bandwidth(
    lm: SplicedLM,
    rows: list[TokenRow],
    monkeypatch: pytest.MonkeyPatch,
    given: float | None,
    frequency_scale: float | None,
) -> None:
    stated = {"settings": {"loss": {"frequency_scale": frequency_scale}}}
    monkeypatch.setitem(lm.sae("tiny").cfg.metadata, "training", stated)
    monkeypatch.setattr("sae_core.threshold_lab.PUBLISHED_BANDWIDTH", 0.2)
    bandwidth = given or 0.2
    sample = feature_sample(lm, "tiny", FEATURE, rows, bandwidth=given)
    assert sample.resting_penalty is not None
    total = cost = 0.0
    for feature in range(lm.sae("tiny").cfg.d_sae):
        inside = feature_sample(lm, "tiny", feature, rows).feature.scaled(sample.units.scale)
        terms = gradient_terms(
            inside,
            [inside.threshold],
            penalty=sample.resting_penalty,
            bandwidth=bandwidth,
            frequency_scale=frequency_scale,
        )
        total += float(terms.gradient[0])
        cost += abs(float(terms.reconstruction[0]))
    assert sample.resting_penalty > 0
    assert abs(total) < 1e-4 * cost


def test_what_is_measured_is_what_a_saved_and_changed_sae_gives(
    lm: SplicedLM, rows: list[TokenRow], tmp_path: Path
) -> None:
    sae = lm.sae("tiny")
    before = sae.effective_threshold().clone()
    threshold = 3 * float(before[FEATURE]) + 1
    measured = measure_thresholds(lm, "tiny", FEATURE, threshold, rows)
    assert torch.equal(sae.effective_threshold(), before)
    assert lm.sae_names == ["tiny"]

    def slow(name: str, thresholds: torch.Tensor) -> dict[str, Any]:
        save_sae(sae, tmp_path / name)
        changed = load_sae(tmp_path / name)
        changed.get_parameter("threshold").data = thresholds
        other = SplicedLM(lm.model, lm.tokenizer, {name: changed})
        return evaluate(other, name, rows).as_dict()

    def close(name: str, expected: dict[str, Any]) -> None:
        got = measured[name].as_dict()
        for key in ("tokens", "l0", "fvu", "ce_base", "ce_spliced", "delta_lm_loss", "kl"):
            assert got[key] == pytest.approx(expected[key], rel=1e-5, abs=1e-7), key

    moved = before.clone()
    moved[FEATURE] = threshold
    close(AS_IS, slow("same", before))
    close(MOVED, slow("moved", moved))
    close(RELU, slow("relu", torch.zeros_like(before)))
    assert measured[MOVED].l0 < measured[AS_IS].l0 < measured[RELU].l0
    assert measured[MOVED].fvu != measured[AS_IS].fvu


def test_its_own_threshold_is_not_measured_twice(lm: SplicedLM, rows: list[TokenRow]) -> None:
    own = float(lm.sae("tiny").effective_threshold()[FEATURE])
    assert list(measure_thresholds(lm, "tiny", FEATURE, own, rows[:1])) == [AS_IS, RELU]


def test_changed_thresholds_share_every_other_tensor(tiny_sae: SAE) -> None:
    changed = with_thresholds(tiny_sae, torch.zeros(tiny_sae.cfg.d_sae))
    assert changed.W_enc is tiny_sae.W_enc
    assert changed.W_dec is tiny_sae.W_dec
    x = torch.randn(5, tiny_sae.cfg.d_model)
    assert torch.equal(changed.encode(x), tiny_sae.pre_acts(x).relu())


def test_mistakes_are_sentences(lm: SplicedLM, rows: list[TokenRow]) -> None:
    with pytest.raises(ValueError, match="feature 64 does not exist"):
        feature_sample(lm, "tiny", 64, rows)
    with pytest.raises(ValueError, match=r"bandwidth is 0\.0 but must be above 0"):
        feature_sample(lm, "tiny", FEATURE, rows, bandwidth=0.0)
    with pytest.raises(ValueError, match=r"threshold is -1\.0 but must be 0 or more"):
        measure_thresholds(lm, "tiny", FEATURE, -1.0, rows)
    from sae_core.config import SAEConfig, Site

    site = Site("resid_post", 1)
    topk = SAE.build(SAEConfig(architecture="topk", d_model=32, d_sae=8, k=2, site=site))
    lm.add("topk", topk)
    with pytest.raises(ValueError, match="a topk SAE has no threshold of each feature"):
        feature_sample(lm, "topk", 0, rows)
