"""What a script sees of the library: names in one place, objects that say what they are, bars."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sae_core
from sae_core import Bundle, Index, SplicedLM, activations, encode_text, progress_bar, rewrite
from sae_core.check import check
from sae_core.config import SAEConfig, Site
from sae_core.corpus import Document, token_rows
from sae_core.evaluation import evaluate
from sae_core.index import IndexConfig, build_index
from sae_core.sae import SAE
from tests import tiny


@pytest.fixture(scope="module")
def lm(tiny_bundle: Bundle) -> SplicedLM:
    return tiny_bundle.load()


@pytest.fixture
def rows(tiny_tokenizer: Any) -> list[Any]:
    texts = [row["text"] for row in tiny.tiny_documents()[:9]]
    documents = [Document(number, text, "", "", "") for number, text in enumerate(texts)]
    return list(token_rows(documents, tiny_tokenizer, 32))


def test_the_names_that_a_script_needs_work_together(lm: SplicedLM) -> None:
    assert {"Bundle", "SplicedLM", "encode_text", "Index", "activations", "rewrite"} <= set(
        sae_core.__all__
    )
    ids = encode_text(lm.tokenizer, "The river follows the harbour.")
    row = lm.analyse(ids, tiny.SAE_NAME)
    x = activations(lm.model, torch.tensor([ids]), [tiny.SITE])[tiny.SITE]
    assert x.shape == (1, len(ids), tiny.D_MODEL)
    assert callable(rewrite)
    assert row.totals["tokens"] == len(ids) - 1


def test_each_says_what_it_is_in_one_line(lm: SplicedLM, tiny_bundle: Bundle) -> None:
    ids = encode_text(lm.tokenizer, "The river follows the harbour.")
    analysis = lm.analyse(ids, tiny.SAE_NAME)
    index = Index.open(tiny_bundle.index_path(tiny.SAE_NAME))
    shown = {
        SAE: (lm.sae(tiny.SAE_NAME), ["JumpReLUSAE(resid_post/1", "d_model 32", "d_sae 64"]),
        SplicedLM: (lm, ["Gemma2ForCausalLM", "float32 on cpu", "SAEs: tiny at resid_post/1"]),
        Index: (index, ["index.duckdb", "64 features at resid_post/1 of tiny", " tokens)"]),
        Bundle: (tiny_bundle, [str(tiny_bundle.path), "SAEs tiny"]),
        object: (analysis, [f"{len(ids)} tokens", "l0 ", "fvu ", "delta_lm_loss ", "kl "]),
    }
    for told, words in shown.values():
        line = repr(told)
        assert "\n" not in line
        assert len(line) < 200 + len(str(tiny_bundle.path))
        for word in words:
            assert word in line, line
    index.close()
    cfg = SAEConfig(architecture="topk", d_model=4, d_sae=2**20, k=2)
    transcoder = replace(cfg, site=Site("mlp_in", 3), site_out=Site("mlp_out", 3))
    assert repr(SAE.build(cfg)) == "TopKSAE(no site, d_model 4, d_sae 1,048,576, k 2, cpu)"
    assert repr(SAE.build(transcoder)).startswith("TopKSAE(mlp_in/3 to mlp_out/3, d_model 4")
    assert repr(SplicedLM(lm.model, lm.tokenizer, {})).endswith("no SAEs)")


def test_long_calls_show_a_bar_unless_their_caller_does(
    lm: SplicedLM,
    rows: list[Any],
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measure(progress: Any) -> None:
        evaluate(lm, tiny.SAE_NAME, rows, batch_rows=2, progress=progress)

    def index(progress: Any) -> None:
        cfg = IndexConfig(corpus=(str(tiny_corpus),), tokens=500, rows_per_batch=4)
        sae = lm.sae(tiny.SAE_NAME)
        build_index(lm.model, lm.tokenizer, sae, cfg, tmp_path / "i.duckdb", progress=progress)

    def judge(progress: Any) -> None:
        check(lm, tiny.SAE_NAME, tokens=600, progress=progress)

    calls = ((measure, "measuring tiny"), (index, "indexing"), (judge, "checking"))
    for call, title in calls:
        monkeypatch.setattr(progress_bar, "PATIENCE", 0.0)
        call(None)
        bar = capsys.readouterr().err
        assert title in bar
        assert "token/s" in bar
        told: list[int] = []
        call(told.append)
        assert title not in capsys.readouterr().err
        assert sum(told) >= 200
        assert len(told) > 3
        # What is over at once needs no bar.
        monkeypatch.setattr(progress_bar, "PATIENCE", 600.0)
        call(None)
        assert title not in capsys.readouterr().err


def test_both_passes_of_a_measurement_are_seen(lm: SplicedLM, rows: list[Any]) -> None:
    told: list[int] = []
    result = evaluate(lm, tiny.SAE_NAME, rows, batch_rows=2, progress=told.append)
    assert sum(told) == result.tokens
    half = sum(told[: len(told) // 2])
    assert abs(half - result.tokens / 2) <= len(told)
