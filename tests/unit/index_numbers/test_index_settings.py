"""What changes an index and what does not: batches, seeds, SAEs, an end before the corpus's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.config import SAEConfig, Site
from sae_core.index import Index, Target, build_index, build_indexes
from sae_core.sae import SAE
from tests import tiny
from tests.index_reference import CONTEXT, Reference, at, config, group

FEATURES = range(tiny.D_SAE)


def same(a: Any, b: Any, path: str = "") -> None:
    """Equal structures; numbers up to rounding."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        if a.get("name") in ("top", "near_miss"):
            # The corpus repeats itself: of equal activations, rounding decides which are kept.
            values = [context["value"] for context in b["contexts"]]
            assert [context["value"] for context in a["contexts"]] == pytest.approx(
                values, rel=1e-4
            )
            return
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        if path.endswith(".contexts"):
            a, b = sorted(a, key=at), sorted(b, key=at)
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{n}]")
    elif isinstance(a, float):
        # Activations are kept in 255ths: a rounding error can move one by a step.
        assert a == pytest.approx(b, rel=2e-3, abs=0.05), path
    else:
        assert a == b, path


@pytest.mark.parametrize("rows_per_batch", [1, 64])
def test_batch_size_changes_nothing(
    rows_per_batch: int,
    pages: list[dict[str, Any]],
    tiny_model: Any,
    tiny_tokenizer: Any,
    sae: SAE,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Merging often must not matter either.
    monkeypatch.setattr("sae_core.index.statistics.MERGE_AT", 300)
    cfg = config(tiny_corpus, rows_per_batch=rows_per_batch)
    build_index(tiny_model, tiny_tokenizer, sae, cfg, tmp_path / "i.duckdb")
    other = Index.open(tmp_path / "i.duckdb")
    for i, page in enumerate(pages):
        same(page, other.feature(i), f"feature {i}")


def test_another_seed_samples_other_contexts(
    pages: list[dict[str, Any]],
    tiny_model: Any,
    tiny_tokenizer: Any,
    sae: SAE,
    tiny_corpus: Path,
    tmp_path: Path,
) -> None:
    cfg = config(tiny_corpus, seed=1)
    build_index(tiny_model, tiny_tokenizer, sae, cfg, tmp_path / "i.duckdb")
    other = Index.open(tmp_path / "i.duckdb").feature(tiny.ALWAYS)
    page = pages[tiny.ALWAYS]
    assert group(page, "interval_1")["contexts"] != group(other, "interval_1")["contexts"]
    assert group(page, "top")["contexts"] == group(other, "top")["contexts"]


def test_two_saes_in_one_pass(
    pages: list[dict[str, Any]],
    tiny_model: Any,
    tiny_tokenizer: Any,
    sae: SAE,
    tiny_corpus: Path,
    tmp_path: Path,
) -> None:
    second = tiny.make_sae(tiny_model, tiny_tokenizer, Site("mlp_out", 0), seed=1)
    targets = [
        Target(sae=second, out_path=tmp_path / "second.duckdb"),
        Target(sae=sae, out_path=tmp_path / "first.duckdb"),
    ]
    seen: list[int] = []
    metas = build_indexes(
        tiny_model, tiny_tokenizer, targets, config(tiny_corpus), progress=seen.append
    )
    assert [meta["site"] for meta in metas] == ["mlp_out/0", "resid_post/1"]
    assert sum(seen) == metas[0]["tokens"]
    with_other = Index.open(tmp_path / "first.duckdb")
    for i, page in enumerate(pages):
        same(page, with_other.feature(i), f"feature {i}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first.duckdb", "second.duckdb"]


@pytest.mark.parametrize("architecture", ["topk", "standard", "gated"])
def test_other_architectures(
    architecture: Any,
    tiny_model: Any,
    tiny_tokenizer: Any,
    sae: SAE,
    tiny_corpus: Path,
    tmp_path: Path,
    dense: Reference,
) -> None:
    cfg = SAEConfig(
        architecture=architecture,
        d_model=tiny.D_MODEL,
        d_sae=tiny.D_SAE,
        site=tiny.SITE,
        context_size=CONTEXT,
        k=6 if architecture == "topk" else None,
    )
    sae = SAE.build(cfg)
    for name in sae.tensor_names:
        source = {"b_gate": "b_enc", "b_mag": "b_enc"}.get(name, name)
        if hasattr(sae, source):
            getattr(sae, name).data = getattr(sae, source).detach().clone()
    build_index(tiny_model, tiny_tokenizer, sae, config(tiny_corpus), tmp_path / "i.duckdb")
    result = Index.open(tmp_path / "i.duckdb")
    acts = sae.encode(torch.from_numpy(dense.x).float()).double().numpy()
    np.testing.assert_allclose(result.frequencies(), (acts > 0).mean(0), atol=2 / len(acts))
    np.testing.assert_allclose(result.max_acts(), acts.max(0), rtol=1e-4, atol=1e-4)
    page = result.feature(3)
    for context in group(page, "near_miss")["contexts"]:
        assert context["activations"][context["peak"]] == 0


def test_reading_stops_at_the_number_of_tokens(
    tiny_model: Any, tiny_tokenizer: Any, sae: SAE, tiny_corpus: Path, tmp_path: Path
) -> None:
    cfg = config(tiny_corpus, tokens=500)
    meta = build_index(tiny_model, tiny_tokenizer, sae, cfg, tmp_path / "i.duckdb")
    assert 500 <= meta["tokens"] < 500 + CONTEXT


def test_an_sae_of_another_model_is_refused(
    tiny_model: Any, tiny_tokenizer: Any, sae: SAE, tiny_corpus: Path, tmp_path: Path
) -> None:
    other = SAE.build(
        SAEConfig(architecture="standard", d_model=7, d_sae=4, site=tiny.SITE, context_size=8)
    )
    with pytest.raises(ValueError, match="reads 7 numbers but site resid_post/1"):
        build_index(tiny_model, tiny_tokenizer, other, config(tiny_corpus), tmp_path / "i.duckdb")
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_left_as_it_was(
    tiny_model: Any, tiny_tokenizer: Any, sae: SAE, tiny_corpus: Path, tmp_path: Path
) -> None:
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in tiny_model.modules())

    before = hooks()
    cfg = config(tiny_corpus, tokens=100)
    build_index(tiny_model, tiny_tokenizer, sae, cfg, tmp_path / "i.duckdb")
    assert hooks() == before
