"""A transcoder reads one activation and is spliced in at another, everywhere an SAE is."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.config import SAEConfig, Site
from sae_core.corpus import documents, token_rows
from sae_core.edits import Edit
from sae_core.evaluation import evaluate, uniformity
from sae_core.generation import generate
from sae_core.index.build import build_index
from sae_core.index.index_config import IndexConfig
from sae_core.index.store import Index
from sae_core.sae import SAE
from sae_core.sites import activations, replace
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests.tiny import ALWAYS, make_sae

READ, WRITE = Site("mlp_in_unit", 1), Site("mlp_out", 1)
TEXT = "The river remembers two letters in the winter of 1912. My neighbour returns it at noon."


@pytest.fixture
def transcoder(tiny_model: Any, tiny_tokenizer: Any) -> SAE:
    """Random, with a skip; its outputs are about as large as the MLP's."""
    reader = make_sae(tiny_model, tiny_tokenizer, READ)
    sae = SAE.build(dataclasses.replace(reader.cfg, site_out=WRITE, d_out=32, skip=True))
    sae.load_state_dict(reader.state_dict(), strict=False)
    # Thresholds are quantiles, and one is on a token that comes often: which side that is on would
    # hang on the order of a sum.
    sae.get_parameter("threshold").data *= 1.0001
    generator = torch.Generator().manual_seed(3)
    sae.W_dec.data = 0.3 * torch.randn(sae.W_dec.shape, generator=generator)
    sae.W_skip.data = 0.1 * torch.randn(sae.W_skip.shape, generator=generator)
    return sae


@pytest.fixture
def lm(tiny_model: Any, tiny_tokenizer: Any, transcoder: SAE) -> SplicedLM:
    return SplicedLM(tiny_model, tiny_tokenizer, {"tc": transcoder})


@pytest.fixture
def ids(tiny_tokenizer: Any) -> list[int]:
    return encode_text(tiny_tokenizer, TEXT)


def reconstruction(sae: SAE, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Activations and reconstruction in float64, written out."""
    w = {name: p.detach().double().numpy() for name, p in sae.named_parameters()}
    x64 = x.double().numpy()
    pre = x64 @ w["W_enc"] + w["b_enc"]
    acts = np.where(pre > w["threshold"], pre, 0.0)
    return acts, acts @ w["W_dec"] + w["b_dec"] + x64 @ w["W_skip"]


def test_analysis_equals_a_slow_computation(lm: SplicedLM, ids: list[int]) -> None:
    row = torch.tensor([ids])
    result = activations(lm.model, row, [READ, WRITE])
    acts, recon = reconstruction(lm.sae("tc"), result[READ][0])
    y = result[WRITE][0].double().numpy()
    new = y.copy()
    new[1:] = recon[1:]  # BOS keeps its own
    with torch.no_grad():
        base = lm.model(input_ids=row).logits[0].double().log_softmax(-1).numpy()
        with replace(lm.model, WRITE, lambda _: torch.tensor(new)[None].float()):
            spliced = lm.model(input_ids=row).logits[0].double().log_softmax(-1).numpy()
    before = np.arange(1, len(ids) - 1)  # from BOS alone nothing is predicted otherwise
    ce_base, ce_spliced = (-float(lp[before, ids[2:]].mean()) for lp in (base, spliced))
    expected = {
        "tokens": len(ids) - 1,
        "l0": float((acts[1:] > 0).sum(1).mean()),
        "fvu": float(((y - recon)[1:] ** 2).sum() / ((y[1:] - y[1:].mean(0)) ** 2).sum()),
        "ce_base": ce_base,
        "ce_spliced": ce_spliced,
        "delta_lm_loss": ce_spliced - ce_base,
        "kl": float((np.exp(base) * (base - spliced))[1:-1].sum(-1).mean()),
    }
    assert lm.analyse(ids, "tc").totals == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert ce_spliced != pytest.approx(ce_base, abs=1e-3)


def test_evaluation_agrees_with_the_analysis_of_each_text(
    lm: SplicedLM, tiny_tokenizer: Any, tiny_corpus: Path
) -> None:
    rows = list(token_rows(documents([str(tiny_corpus)]), tiny_tokenizer, 24))[:6]
    result = evaluate(lm, "tc", rows, batch_rows=4)
    each = [lm.analyse(row.ids.tolist(), "tc").totals for row in rows]
    weights = [totals["tokens"] for totals in each]
    for name in ("l0", "ce_base", "ce_spliced", "kl"):
        expected = np.average([totals[name] for totals in each], weights=weights)
        assert getattr(result, name) == pytest.approx(expected, rel=1e-4)
    assert 0 < uniformity(lm, "tc", rows) <= 1


def test_an_edit_adds_its_decoder_row_to_what_the_mlp_writes(lm: SplicedLM, ids: list[int]) -> None:
    """Seen from the block after: its input moves by value * W_dec[feature], but not at BOS."""
    edit = Edit(feature=ALWAYS, mode="add", value=2.0, positions="prompt")
    seen: list[torch.Tensor] = []
    handle = lm.model.model.layers[2].register_forward_pre_hook(
        lambda _module, args: seen.append(args[0][0].clone())
    )
    tokens = []
    try:
        for arm in ([], [edit]):
            step = next(generate(lm, ids, [arm], max_new_tokens=1, watch=[("tc", ALWAYS)]))
            tokens.append(step.tokens[0])
    finally:
        handle.remove()
    # Two forwards a generation: the prompt's and the new token's.
    moved = seen[2] - seen[0]
    expected = (2.0 * lm.sae("tc").W_dec[ALWAYS]).expand_as(moved).clone()
    expected[0] = 0
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-5)
    # The encoder reads before the MLP writes: the edit has changed nothing for it on the token.
    assert tokens[1].own == tokens[1].after


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_with_edits_needs_no_cache(
    lm: SplicedLM, ids: list[int], temperature: float
) -> None:
    edit = Edit(feature=ALWAYS, mode="add", value=3.0)
    options: dict[str, Any] = {
        "max_new_tokens": 6,
        "temperature": temperature,
        "watch": [("tc", ALWAYS)],
    }
    cached, slow = (
        [
            [(t.id, t.own) for t in step.tokens if t]
            for step in generate(lm, ids, [[], [edit]], use_cache=use_cache, **options)
        ]
        for use_cache in (True, False)
    )
    assert [[i for i, _ in step] for step in cached] == [[i for i, _ in step] for step in slow]
    for a, b in zip(cached, slow, strict=True):
        np.testing.assert_allclose([o for _, o in a], [o for _, o in b], rtol=1e-4, atol=1e-5)


def test_an_index_counts_what_it_reconstructs(
    lm: SplicedLM, transcoder: SAE, tiny_tokenizer: Any, tiny_corpus: Path, tmp_path: Path
) -> None:
    cfg = IndexConfig(corpus=(str(tiny_corpus),), context_size=24)
    meta = build_index(lm.model, tiny_tokenizer, transcoder, cfg, tmp_path / "index.duckdb")
    rows = list(token_rows(documents([str(tiny_corpus)]), tiny_tokenizer, 24))
    expected = evaluate(lm, "tc", rows)
    assert meta["totals"]["fvu"] == pytest.approx(expected.fvu, rel=1e-4)
    assert meta["totals"]["l0"] == pytest.approx(expected.l0)
    assert (meta["site"], meta["site_out"]) == (str(READ), str(WRITE))
    index = Index.open(tmp_path / "index.duckdb")
    assert index.meta["mean_activation"].shape == (32,)
    assert index.feature(ALWAYS)["logits"]["raises"]


def test_only_a_transcoder_has_another_width_or_a_skip() -> None:
    mistakes: tuple[dict[str, Any], ...] = ({"d_out": 8}, {"skip": True})
    for wrong in mistakes:
        with pytest.raises(ValueError, match="only a transcoder"):
            SAEConfig(architecture="standard", d_model=4, d_sae=5, **wrong)


def test_a_transcoder_of_another_model_is_refused(lm: SplicedLM, transcoder: SAE) -> None:
    cfg = dataclasses.replace(transcoder.cfg, d_out=7)
    with pytest.raises(ValueError, match="writes 7 numbers but site mlp_out/1"):
        lm.add("other", SAE.build(cfg))
    lm.remove("tc")
    with pytest.raises(ValueError, match="unknown SAE 'tc'"):
        lm.remove("tc")
