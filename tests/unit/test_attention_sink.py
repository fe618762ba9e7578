"""The rule for first tokens that are attention sinks, and all who follow it."""

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.attention_sink import NORM_RATIO, FirstTokenStats, is_sink, sink_at
from sae_core.check import check_sae
from sae_core.corpus import Document, TokenRow, documents, token_rows
from sae_core.evaluation import evaluate
from sae_core.index import Index, IndexConfig, build_index
from sae_core.metrics import ReconstructionStats
from sae_core.sae import SAE
from sae_core.sites import activations
from sae_core.splice import SplicedLM
from tests import tiny, tiny_sink
from tests.tiny_sink import CONTEXT, SITE

LONG, MODERATE, NONE = 60.0, 4.0, 1.0
"""An outlier by its norm, one that only moves FVU, and none."""


def made(length: float) -> tuple[SplicedLM, SAE]:
    tokenizer = tiny_sink.make_tokenizer()
    model = tiny_sink.make_model(length)
    sae = tiny_sink.make_sae(model, tokenizer)
    return SplicedLM(model, tokenizer, {"sae": sae}), sae


@pytest.fixture
def rows(tiny_corpus: Path) -> list[TokenRow]:
    return list(token_rows(documents([str(tiny_corpus)]), tiny_sink.make_tokenizer(), CONTEXT))


def by_hand(lm: SplicedLM, sae: SAE, rows: list[TokenRow], start: int) -> dict[str, float]:
    """L0 and FVU over the tokens of each row from `start` on, in float64."""
    x = []
    for row in rows:
        ids = torch.tensor(row.ids[None], dtype=torch.long)
        x.append(activations(lm.model, ids, [SITE])[SITE][0, start:])
    x = torch.cat(x)
    acts = sae.encode(x)
    wide, recon = x.double(), sae.decode(acts).double()
    deviation = (wide - wide.mean(0)).square().sum()
    return {
        "l0": float((acts != 0).double().sum(-1).mean()),
        "fvu": float((wide - recon).square().sum() / deviation),
    }


def test_the_rule() -> None:
    others = torch.tensor([1.0, 1.0, 2.0, 9.0])
    few, many = torch.full((3,), 5.0), torch.full((8,), 5.0)
    assert not is_sink(many, others)
    assert is_sink(torch.full((1,), 1.01 * NORM_RATIO), others)
    # A few long ones among others, or one long first token among many, make no sink.
    assert not is_sink(torch.tensor([1.0, 1.0, 99.0]), others)
    assert is_sink(many, others, 0.11)
    assert is_sink(many, others, -0.11)
    assert not is_sink(many, others, 0.09)
    assert not is_sink(few, others, 0.5)
    assert not is_sink(many, others, math.nan)
    assert not is_sink(others[:0], others)
    assert not is_sink(many, others[:0])


def test_statistics_apart_are_statistics_together() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator)
    recon = x + 0.1 * torch.randn(200, 6, generator=generator)
    acts = (torch.rand(200, 10, generator=generator) - 0.8).relu()
    first = torch.arange(200) % 20 == 0
    apart, whole, rest = FirstTokenStats(6, 10), *(ReconstructionStats(6, 10) for _ in range(2))
    for part in torch.arange(200).split(37):
        apart.update(x[part], x[part], recon[part], acts[part], first[part])
    whole.update(x, recon, acts)
    rest.update(x[~first], recon[~first], acts[~first])
    assert apart.stats(without_first=False).result() == pytest.approx(whole.result(), rel=1e-12)
    assert apart.stats(without_first=True).result() == pytest.approx(rest.result(), rel=1e-12)
    assert apart.first_tokens == 10
    assert not apart.sink


@pytest.mark.parametrize("length", [LONG, MODERATE])
def test_eval_leaves_a_sink_out(rows: list[TokenRow], length: float) -> None:
    lm, sae = made(length)
    evaluation = evaluate(lm, "sae", rows)
    assert evaluation.sink_tokens == len(rows)
    assert evaluation.tokens == sum(len(row.ids) - 1 for row in rows)
    without, with_it = by_hand(lm, sae, rows, 1), by_hand(lm, sae, rows, 0)
    assert evaluation.fvu == pytest.approx(without["fvu"], rel=1e-4)
    assert evaluation.l0 == pytest.approx(without["l0"], rel=1e-4)
    assert abs(with_it["fvu"] / without["fvu"] - 1) > 0.1
    # Nor is it spliced: the token after it is predicted as it was, and is no sample.
    texts = [lm.analyse(row.ids.tolist(), "sae") for row in rows]
    if length == LONG:
        kl = np.concatenate([text.kl[2:] for text in texts if len(text.kl) > 2])
        assert evaluation.kl == pytest.approx(float(kl.mean(dtype=np.float64)), rel=1e-3)


def test_what_is_no_sink_counts(rows: list[TokenRow]) -> None:
    lm, sae = made(NONE)
    evaluation = evaluate(lm, "sae", rows)
    assert evaluation.sink_tokens == 0
    assert evaluation.tokens == sum(len(row.ids) for row in rows)
    assert evaluation.fvu == pytest.approx(by_hand(lm, sae, rows, 0)["fvu"], rel=1e-4)
    assert not lm.analyse(rows[0].ids.tolist(), "sae").special[0]
    assert sink_at(lm.model, lm.tokenizer, [SITE], rows) == []


def test_a_model_with_bos_has_none(tiny_tokenizer: Any, rows: list[TokenRow]) -> None:
    lm, _ = made(LONG)
    assert sink_at(lm.model, lm.tokenizer, [SITE], rows) == [SITE]
    assert sink_at(lm.model, tiny_tokenizer, [SITE], rows) == []


@pytest.mark.parametrize("length", [LONG, MODERATE])
def test_before_there_is_an_sae_the_variance_tells(rows: list[TokenRow], length: float) -> None:
    lm, _ = made(length)
    assert sink_at(lm.model, lm.tokenizer, [SITE], iter(rows)) == [SITE]


@pytest.mark.parametrize("length", [LONG, MODERATE, NONE])
def test_the_index_leaves_a_sink_out(tmp_path: Path, tiny_corpus: Path, length: float) -> None:
    lm, sae = made(length)
    config = IndexConfig(corpus=(str(tiny_corpus),), tokens=1_500)
    meta = build_index(lm.model, lm.tokenizer, sae, config, tmp_path / "index.duckdb")
    assert bool(meta.get("attention_sink")) == (length != NONE)
    with closing(Index.open(tmp_path / "index.duckdb")) as index:
        peaks = {
            (context["offset"] + context["peak"]) % CONTEXT
            for feature in range(sae.cfg.d_sae)
            for group in index.feature(feature)["groups"]
            for context in group["contexts"]
        }
    assert (0 in peaks) == (length == NONE)
    assert len(peaks) > 10


@pytest.mark.parametrize("length", [LONG, MODERATE, NONE])
def test_the_check_leaves_a_sink_out(length: float) -> None:
    lm, sae = made(length)
    text = [row["text"] for row in tiny.tiny_documents(40)]
    check = check_sae(lm, sae, text=text, tokens=1_500)
    kept = list(token_rows(documents_of(text), lm.tokenizer, CONTEXT))
    start = 0 if length == NONE else 1
    # The check takes rows until it has enough tokens.
    total, taken = 0, []
    for row in kept:
        if total >= 1_500:
            break
        taken.append(row)
        total += len(row.ids) - 1
    expected = by_hand(lm, sae, taken, start)
    assert check.fvu == pytest.approx(expected["fvu"], rel=1e-3)
    assert check.l0 == pytest.approx(expected["l0"], rel=1e-3)
    assert check.tokens == sum(len(row.ids) - start for row in taken)
    left_out = 0 if length == NONE else len(taken)
    assert (check.sink_tokens, check.as_dict()["sink_tokens"]) == (left_out, left_out)
    said = f"an attention sink of this model, which has no BOS, and is left out ({left_out} tokens)"
    assert (said in check.sentence) == (length != NONE), check.sentence


def documents_of(texts: list[str]) -> list[Document]:
    return [Document(number, text, "", "", "") for number, text in enumerate(texts)]


def test_a_prompt_keeps_its_sink(rows: list[TokenRow]) -> None:
    lm, _ = made(LONG)
    ids = rows[0].ids.tolist()
    analysis = lm.analyse(ids, "sae")
    assert analysis.special.tolist() == [True] + [False] * (len(ids) - 1)
    assert 0 not in analysis.token
    assert analysis.totals["tokens"] == len(ids) - 1
    assert analysis.kl[1] == pytest.approx(0, abs=1e-6)
    pre_acts, acts = lm.pre_activations(ids, "sae", range(8))
    assert not pre_acts[0].any()
    assert not acts[0].any()
    assert acts[1:].any()


def test_no_bos_is_put_before_a_text(rows: list[TokenRow]) -> None:
    """The model's configuration names one, but its tokenizer, and so its training, has none."""
    lm, _ = made(LONG)
    assert lm.model.config.bos_token_id == 2
    assert all(2 not in row.ids for row in rows)
    assert rows[0].ids.tolist() == lm.tokenizer(rows[0].document.text)["input_ids"][:CONTEXT]
