"""Metrics against slow float64 computations written here, independently."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.config import Site
from sae_core.corpus import TokenRow, documents, token_rows
from sae_core.evaluation import evaluate, evaluate_together, take_tokens, uniformity
from sae_core.metrics import (
    DEFINITIONS,
    ReconstructionStats,
    affected,
    fvu,
    squared_deviation,
)
from sae_core.sae import SAE
from sae_core.sites import activations, replace
from sae_core.splice import SplicedLM
from tests.tiny import SITE


@pytest.fixture
def lm(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> SplicedLM:
    return SplicedLM(tiny_model, tiny_tokenizer, {"tiny": tiny_sae})


@pytest.fixture
def rows(tiny_corpus: Path, tiny_tokenizer: Any) -> list[TokenRow]:
    return take_tokens(token_rows(documents([str(tiny_corpus)]), tiny_tokenizer, 24), 600)


def test_take_tokens_is_enough_and_no_more(rows: list[TokenRow]) -> None:
    sizes = [len(row.ids) - 1 for row in rows]
    assert sum(sizes) >= 600 > sum(sizes[:-1])


def test_reconstruction_stats_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=generator) + 40  # a large mean: no cancellation allowed
    recon = x + 0.1 * torch.randn(300, 6, generator=generator)
    acts = (torch.rand(300, 10, generator=generator) - 0.8).relu()
    acts[:, 3] = 0
    acts[:, 4] = 1
    stats = ReconstructionStats(6, 10)
    for part in torch.randperm(300, generator=generator).split(37):
        stats.update(x[part], recon[part], acts[part])
    wide = x.double()
    expected = {
        "l0": float((acts > 0).double().sum() / 300),
        "fvu": float((wide - recon).square().sum() / (wide - wide.mean(0)).square().sum()),
        "dead": 0.1,
        "high_frequency": float(((acts > 0).double().mean(0) >= 0.1).double().mean()),
    }
    assert stats.result() == pytest.approx(expected, rel=1e-9)
    assert stats.frequency()[4] == 1
    assert stats.tokens == 300


def test_fvu_is_a_ratio_of_sums_and_undefined_without_variance() -> None:
    assert fvu(1.0, 4.0) == 0.25
    assert fvu(torch.tensor(9.0), torch.tensor(2.0)) == 4.5
    assert fvu(0.0, 4.0) == 0
    for error in (0.0, 1.0):
        assert np.isnan(fvu(error, 0.0))
        assert np.isnan(fvu(torch.tensor(error), torch.tensor(0.0)))
    assert np.isnan(fvu(1.0, float("nan")))


def test_deviations_that_are_rounding_alone_are_none() -> None:
    def of(x: torch.Tensor) -> float:
        return squared_deviation(x.square().sum(), x.sum(0), len(x))

    x = torch.tensor([[1.0, 5.0], [3.0, 5.0]], dtype=torch.float64)
    assert of(x) == 2
    # Sevenths and the like: what is left of their squares is rounding, of either sign.
    for tokens in range(1, 60):
        alike = (1 / torch.arange(3, 10, dtype=torch.float64)).expand(tokens, -1)
        assert of(alike) == 0, tokens
    assert of(torch.zeros(0, 7, dtype=torch.float64)) == 0


def test_what_a_sample_does_not_define_is_nan() -> None:
    stats = ReconstructionStats(3, 5)
    assert np.isnan(list(stats.result().values())).all()
    x = torch.tensor([[0.1, 0.7, 0.3]]).expand(9, -1)
    stats.update(x, x + 1, torch.eye(5)[:1].expand(9, -1))
    result = stats.result()
    assert np.isnan(result.pop("fvu"))
    assert result == pytest.approx({"l0": 1, "dead": 0.8, "high_frequency": 0.2})


def test_evaluation_equals_a_slow_float64_computation(lm: SplicedLM, rows: list[TokenRow]) -> None:
    """One row at a time, no batches and no padding, all arithmetic after the model in float64."""
    sae = lm.sae("tiny")
    xs, recons, actss = [], [], []
    for row in rows:
        ids = torch.tensor(row.ids[None], dtype=torch.long)
        read = activations(lm.model, ids, [SITE])[SITE][0, 1:]
        # Which side of the threshold, by float32: some pre-activation may lie within its rounding.
        active = read @ sae.W_enc + sae.b_enc > sae.threshold  # pyright: ignore
        x = read.double()
        acts = torch.where(active, x @ sae.W_enc.double() + sae.b_enc.double(), 0.0)
        xs.append(x)
        actss.append(acts)
        recons.append(acts @ sae.W_dec.double() + sae.b_dec.double())
    x, acts, recon = torch.cat(xs), torch.cat(actss), torch.cat(recons)
    mean = x.mean(0)
    losses: dict[str, list[float]] = {name: [] for name in ("base", "sae", "mean", "zero", "kl")}
    for row, row_recon in zip(rows, recons, strict=True):
        ids = torch.tensor(row.ids[None], dtype=torch.long)
        log_p = {}
        for name in ("base", "sae", "mean", "zero"):

            def new(x: torch.Tensor, name: str = name, row_recon: Any = row_recon) -> Any:
                if name == "base":
                    return None
                out = x.clone()
                values = {"sae": row_recon, "mean": mean, "zero": torch.zeros_like(mean)}
                out[0, 1:] = values[name].float()
                return out

            with torch.no_grad(), replace(lm.model, SITE, new):
                log_p[name] = lm.model(input_ids=ids).logits[0].double().log_softmax(-1)
            # From BOS alone nothing is predicted otherwise: the token after it is no sample.
            for t in range(2, ids.shape[1]):
                losses[name].append(-float(log_p[name][t - 1, ids[0, t]]))
        for t in range(1, ids.shape[1] - 1):
            p, q = log_p["base"][t], log_p["sae"][t]
            losses["kl"].append(float((p.exp() * (p - q)).sum()))
    ce = {name: float(np.mean(values)) for name, values in losses.items()}
    frequency = (acts != 0).double().mean(0)
    expected = {
        "tokens": len(x),
        "sink_tokens": 0,
        "l0": float((acts != 0).double().sum(1).mean()),
        "fvu": float((x - recon).square().sum() / (x - mean).square().sum()),
        "ce_base": ce["base"],
        "ce_spliced": ce["sae"],
        "delta_lm_loss": ce["sae"] - ce["base"],
        "kl": ce["kl"],
        "loss_recovered_mean": (ce["mean"] - ce["sae"]) / (ce["mean"] - ce["base"]),
        "loss_recovered_zero": (ce["zero"] - ce["sae"]) / (ce["zero"] - ce["base"]),
        "dead": float((frequency == 0).double().mean()),
        "high_frequency": float((frequency >= 0.1).double().mean()),
    }
    actual = evaluate(lm, "tiny", rows, batch_rows=7).as_dict()
    assert actual == pytest.approx(expected, rel=2e-4, abs=1e-5)
    assert set(actual) <= set(DEFINITIONS)
    assert expected["dead"] > 0
    assert expected["high_frequency"] > 0


def test_predictions_that_a_splice_cannot_affect_are_no_samples(
    lm: SplicedLM, rows: list[TokenRow]
) -> None:
    bos, pad = [False], [False, False]
    assert affected(torch.tensor([*bos, True, True, False, True, *pad])).tolist() == [
        *[False, False, True, False, True],
        *pad,
    ]
    assert affected(torch.tensor([[True, True], [False, True]])).tolist() == [
        [False, True],
        [False, False],
    ]
    # Rows of three tokens: half of the predictions are BOS's own, and those are as they were.
    short = [TokenRow(row.document, 0, row.ids[:3]) for row in rows]
    of_text = [lm.analyse(row.ids.tolist(), "tiny") for row in short]
    assert max(abs(a.spliced_loss[1] - a.base_loss[1]) for a in of_text) < 1e-5
    evaluation = evaluate(lm, "tiny", short)
    kl = float(np.mean([a.kl[2] for a in of_text]))
    delta = float(np.mean([a.spliced_loss[2] - a.base_loss[2] for a in of_text]))
    assert evaluation.kl == pytest.approx(kl, rel=1e-4)
    assert evaluation.delta_lm_loss == pytest.approx(delta, rel=1e-3)
    assert kl > 1e-3


def test_padding_and_batch_size_change_nothing(lm: SplicedLM, rows: list[TokenRow]) -> None:
    one = evaluate(lm, "tiny", rows, batch_rows=1).as_dict()
    many = evaluate(lm, "tiny", rows, batch_rows=64).as_dict()
    assert one == pytest.approx(many, rel=1e-5, abs=1e-6)


def test_saes_of_one_site_are_measured_together(lm: SplicedLM, rows: list[TokenRow]) -> None:
    """Each as if it were alone; the model runs three times for all and once for each."""
    other = copy.deepcopy(lm.sae("tiny"))
    with torch.no_grad():
        other.get_parameter("threshold").mul_(2)
    lm.add("other", other)
    alone = {name: evaluate(lm, name, rows) for name in ("tiny", "other")}
    assert alone["other"].l0 < alone["tiny"].l0
    runs: list[None] = []
    last = lm.model.base_model.layers[-1]
    handle = last.register_forward_hook(lambda *_: runs.append(None))
    actual = evaluate_together(lm, ["tiny", "other"], rows, batch_rows=len(rows))
    handle.remove()
    assert len(runs) == 5
    for name, one in alone.items():
        assert actual[name].as_dict() == pytest.approx(one.as_dict(), rel=1e-5, abs=1e-6)


def test_saes_of_several_sites_are_not(lm: SplicedLM, tiny_sae: SAE, rows: list[TokenRow]) -> None:
    elsewhere = copy.deepcopy(tiny_sae)
    elsewhere.cfg = dataclasses.replace(elsewhere.cfg, site=Site("resid_post", 0))
    lm.add("elsewhere", elsewhere)
    with pytest.raises(ValueError, match="only SAEs of one site can be measured together"):
        evaluate_together(lm, ["tiny", "elsewhere"], rows)


def test_a_perfect_sae_costs_nothing(lm: SplicedLM, rows: list[TokenRow]) -> None:
    class Identity(SAE):
        def encode(self, x: Any) -> Any:
            return x

        def decode(self, acts: Any) -> Any:
            return acts

    cfg = lm.sae("tiny").cfg
    lm.add("identity", Identity(cfg))
    lm.sae("identity").cfg = type(cfg)(**{**cfg.__dict__, "d_sae": cfg.d_model})
    actual = evaluate(lm, "identity", rows)
    assert (actual.fvu, actual.delta_lm_loss) == (0, 0)
    assert actual.kl == pytest.approx(0, abs=1e-6)
    assert actual.loss_recovered_mean == actual.loss_recovered_zero == 1


def test_uniformity_equals_a_finite_difference(lm: SplicedLM, rows: list[TokenRow]) -> None:
    """One row of one usable token: the effects by moving the activation along each decoder row."""
    row = TokenRow(rows[0].document, 0, rows[0].ids[:3])
    sae, ids = lm.sae("tiny"), torch.tensor(row.ids[None], dtype=torch.long)
    x = activations(lm.model, ids, [SITE])[SITE]
    acts = sae.encode(x[0, 1])

    def centred_logit(at: torch.Tensor) -> float:
        def put(old: torch.Tensor) -> torch.Tensor:
            new = old.clone()
            new[0, 1] = at
            return new

        with torch.no_grad(), replace(lm.model, SITE, put):
            logits = lm.model(input_ids=ids).logits[0, 1].double()
        return float(logits[ids[0, 2]] - logits.mean())

    effects = []
    for feature in acts.nonzero()[:, 0].tolist():
        d = sae.W_dec[feature] * 0.02
        slope = (centred_logit(x[0, 1] + d) - centred_logit(x[0, 1] - d)) / 0.04
        effects.append(abs(float(acts[feature]) * slope))
    p = np.array(effects) / sum(effects)
    expected = np.exp(-(p * np.log(p)).sum()) / len(p)
    assert uniformity(lm, "tiny", [row]) == pytest.approx(expected, rel=0.02)
    assert 0 < uniformity(lm, "tiny", rows) <= 1


def test_without_bos_the_first_token_counts_but_has_no_loss(
    lm: SplicedLM, rows: list[TokenRow]
) -> None:
    """As for a tokenizer that has no BOS: losses are means over the tokens that have one."""
    row = TokenRow(rows[0].document, 0, rows[0].ids[1:5])
    actual, text = evaluate(lm, "tiny", [row]), lm.analyse(row.ids.tolist(), "tiny").totals
    assert actual.tokens == text["tokens"] == 4
    for name in ("l0", "ce_base", "ce_spliced", "delta_lm_loss", "kl"):
        assert getattr(actual, name) == pytest.approx(text[name], rel=1e-4, abs=1e-5)


def test_a_text_of_one_token_has_no_loss(lm: SplicedLM, rows: list[TokenRow]) -> None:
    actual = evaluate(lm, "tiny", [TokenRow(rows[0].document, 0, rows[0].ids[1:2])])
    assert actual.tokens == 1
    assert np.isnan([actual.ce_base, actual.kl, actual.loss_recovered_mean, actual.fvu]).all()


def test_no_text_is_named(lm: SplicedLM) -> None:
    with pytest.raises(ValueError, match="no token that counts"):
        evaluate(lm, "tiny", [])
