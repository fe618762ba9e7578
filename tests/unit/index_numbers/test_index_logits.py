"""What features do to the next token's logits, at every kind of site."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.config import Site, SiteKind
from sae_core.index import Index, build_index
from sae_core.index.logits import top_logits
from sae_core.sae import SAE
from tests import tiny
from tests.index_reference import config


def expected_logits(model: Any, direction: np.ndarray) -> np.ndarray:
    gain = 1 + model.model.norm.weight.double().numpy()
    unembedding = model.lm_head.weight.double().numpy()
    logits = unembedding @ (gain * direction / np.linalg.norm(direction))
    return logits - logits.mean()


def check_logits(page: dict[str, Any], logits: np.ndarray, specials: set[int]) -> None:
    allowed = [i for i in range(len(logits)) if i not in specials]
    ranked = sorted(allowed, key=lambda i: -logits[i])
    for rows, expected in (
        (page["logits"]["raises"], ranked[:10]),
        (page["logits"]["lowers"], ranked[::-1][:10]),
    ):
        assert [row["id"] for row in rows] == expected
        result = [row["logit"] for row in rows]
        assert result == pytest.approx(logits[expected].tolist(), rel=2e-3, abs=2e-3)


def test_logits(
    pages: list[dict[str, Any]], tiny_model: Any, tiny_tokenizer: Any, sae: SAE
) -> None:
    rows = sae.W_dec.double().numpy()
    specials = set(tiny_tokenizer.all_special_ids)
    for i, page in enumerate(pages):
        check_logits(page, expected_logits(tiny_model, rows[i]), specials)


def test_logits_at_attn_out_go_through_the_output_projection_and_its_norm(
    tiny_model: Any, tiny_tokenizer: Any, tiny_corpus: Path, tmp_path: Path
) -> None:
    site = Site("attn_out", 1)
    sae = tiny.make_sae(tiny_model, tiny_tokenizer, site)
    block = tiny_model.model.layers[1]
    gain = block.post_attention_layernorm.weight
    before = gain.detach().clone()
    # A gain that is not 1 everywhere, or leaving it out would go unnoticed.
    gain.copy_(torch.linspace(-0.5, 0.5, len(gain)))
    try:
        build_index(tiny_model, tiny_tokenizer, sae, config(tiny_corpus), tmp_path / "i.duckdb")
        scale = 1 + gain.double().numpy()
        projection = block.self_attn.o_proj.weight.double().numpy()
        result = Index.open(tmp_path / "i.duckdb")
        for i in (0, 5, 40):
            direction = scale * (projection @ sae.W_dec[i].double().numpy())
            logits = expected_logits(tiny_model, direction)
            check_logits(result.feature(i), logits, set(tiny_tokenizer.all_special_ids))
    finally:
        gain.copy_(before)


def test_neighbours(pages: list[dict[str, Any]], sae: SAE) -> None:
    rows = sae.W_dec.double().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    for i, page in enumerate(pages):
        order = np.argsort(-cosine[i])[:10]
        result = page["neighbours"]
        assert [row["feature"] for row in result] == order.tolist()
        assert [row["cosine"] for row in result] == pytest.approx(cosine[i][order], abs=2e-5)
        assert [row["signature"] for row in result] == [pages[j]["signature"] for j in order]


@pytest.mark.parametrize(
    ("kind", "norm"),
    [("attn_proj", "post_attention_layernorm"), ("mlp_proj", "post_feedforward_layernorm")],
)
def test_logits_before_a_norm_go_through_its_gain(
    kind: SiteKind, norm: str, tiny_model: Any, sae: SAE
) -> None:
    gain = tiny_model.model.layers[1].get_submodule(norm).weight
    before = gain.detach().clone()
    gain.copy_(torch.linspace(-0.5, 0.5, len(gain)))
    try:
        result = top_logits(tiny_model, moved(sae, kind), 10, frozenset(), torch.tensor([5]))
        scale = 1 + gain.double().numpy()
    finally:
        gain.copy_(before)
    logits = expected_logits(tiny_model, scale * sae.W_dec[5].double().numpy())
    assert result.raises[0].tolist() == np.argsort(-logits)[:10].tolist()
    np.testing.assert_allclose(result.raises_logit[0], np.sort(logits)[::-1][:10], rtol=1e-4)


def test_what_the_mlp_reads_has_no_logits(
    tiny_model: Any, tiny_tokenizer: Any, sae: SAE, tiny_corpus: Path, tmp_path: Path
) -> None:
    for kind in ("mlp_in", "mlp_in_unit"):
        result = top_logits(tiny_model, moved(sae, kind), 10, frozenset(), torch.tensor([5, 6]))
        assert result.raises.shape == result.lowers_logit.shape == (2, 0)
    path, cfg = tmp_path / "i.duckdb", config(tiny_corpus)
    meta = build_index(tiny_model, tiny_tokenizer, moved(sae, "mlp_in"), cfg, path)
    assert meta["listed_logits"] == 0
    index = Index.open(path)
    for i in range(tiny.D_SAE):
        feature = index.feature(i)
        assert feature["logits"] == {"raises": [], "lowers": []}
        assert "→" not in feature["signature"]
    # What it reads there is no matter: a transcoder's rows are those of the site that it writes.
    writes = moved(sae, "mlp_in", site_out=Site("mlp_out", 1))
    assert top_logits(tiny_model, writes, 10, frozenset()).raises.shape == (tiny.D_SAE, 10)


def moved(sae: SAE, kind: SiteKind, **cfg: Any) -> SAE:
    """The same weights at another site."""
    other = copy.deepcopy(sae)
    other.cfg = replace(sae.cfg, site=Site(kind, 1), **cfg)
    return other
