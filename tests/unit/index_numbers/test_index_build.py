"""Every number of an index against a slow computation that shares no code with it."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.corpus import Document, token_rows
from sae_core.index import Index, build_index
from sae_core.sae import SAE
from sae_core.sites import activations
from sae_core.tokens import partial_bytes, token_texts, vocabulary
from tests import tiny
from tests.index_reference import (
    CONTEXT,
    Reference,
    Token,
    at,
    config,
    group,
)

FEATURES = range(tiny.D_SAE)


def test_counts_sizes_and_totals(
    index: Index, pages: list[dict[str, Any]], dense: Reference
) -> None:
    acts = dense.acts
    total = len(dense.tokens)
    assert index.meta["tokens"] == total
    assert index.meta["documents"] == 60
    assert index.meta["context_size"] == CONTEXT
    for i, page in enumerate(pages):
        active = acts[:, i][acts[:, i] > 0]
        assert page["active_tokens"] == len(active)
        assert page["frequency"] == pytest.approx(len(active) / total)
        assert page["max_act"] == pytest.approx(active.max(initial=0), rel=1e-5)
        assert page["mean_act"] == pytest.approx(active.mean() if len(active) else 0, rel=1e-5)
        assert page["threshold"] == pytest.approx(dense.threshold[i], rel=1e-6)
    np.testing.assert_allclose(index.frequencies(), (acts > 0).mean(0))
    np.testing.assert_allclose(index.max_acts(), acts.max(0), rtol=1e-5)


def test_totals_and_mean(index: Index, dense: Reference, sae: SAE) -> None:
    recon = dense.acts @ sae.W_dec.double().numpy() + sae.b_dec.double().numpy()
    mean = dense.x.mean(0)
    fvu = ((dense.x - recon) ** 2).sum() / ((dense.x - mean) ** 2).sum()
    totals = index.meta["totals"]
    assert totals["l0"] == pytest.approx((dense.acts > 0).sum(1).mean())
    assert totals["fvu"] == pytest.approx(fvu, rel=1e-5)
    assert totals["dead"] == pytest.approx((dense.acts.max(0) == 0).mean())
    np.testing.assert_allclose(index.meta["mean_activation"], mean, rtol=1e-4, atol=1e-5)


def test_sources_of_the_sample(index: Index, dense: Reference) -> None:
    documents = tiny.tiny_documents()
    count = Counter(documents[token.document]["source"] for token in dense.tokens)
    assert {row["source"]: row["tokens"] for row in index.meta["sources"]} == dict(count)


def test_histograms(pages: list[dict[str, Any]], dense: Reference) -> None:
    for i, page in enumerate(pages):
        active = dense.acts[:, i][dense.acts[:, i] > 0]
        chart = page["activation_histogram"]
        assert sum(chart["counts"]) == len(active)
        if len(active):
            # A value on an edge may fall on either side of it, float64 or float32.
            expected, _ = np.histogram(active, chart["edges"])
            assert np.abs(np.array(chart["counts"]) - expected).sum() <= 2
            assert chart["edges"][0] == pytest.approx(page["threshold"])
            assert 32 <= len(chart["counts"]) <= 64
            assert chart["counts"][-1] > 0
        chart = page["pre_activation_histogram"]
        edges = np.array(chart["edges"])
        expected, _ = np.histogram(dense.pre_acts[:, i], edges)
        assert np.abs(np.array(chart["counts"]) - expected).sum() <= 2
        assert chart["below"] + sum(chart["counts"]) + chart["above"] == len(dense.tokens)
        assert right_of_the_threshold(chart) == page["active_tokens"] == len(active)


def right_of_the_threshold(chart: dict[str, Any]) -> int:
    """The tokens right of the edge that is the threshold."""
    middle = chart["edges"].index(chart["threshold"])
    return sum(chart["counts"][middle:]) + chart["above"]


def test_what_is_right_of_the_threshold_is_what_fires_even_on_the_threshold(
    tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE, tiny_corpus: Path, tmp_path: Path
) -> None:
    # Of repeated sentences: thresholds are the pre-activations of tokens, or next to them.
    sae = copy.deepcopy(tiny_sae)
    cfg = config(tiny_corpus, rows_per_batch=1)
    documents = [Document(0, tiny.tiny_documents()[5]["text"], "", "", "")]
    (row, *_) = token_rows(documents, tiny_tokenizer, CONTEXT)
    site = tiny.SITE
    x = activations(tiny_model, torch.from_numpy(row.ids).long()[None], [site])[site][:, 1:]
    pre_acts = sae.pre_acts(x.float())[0]
    values = torch.cat([pre_acts, torch.nextafter(pre_acts, torch.full_like(pre_acts, -torch.inf))])
    choice = torch.arange(tiny.D_SAE) % len(values)
    thresholds = values[choice, torch.arange(tiny.D_SAE)]
    sae.load_state_dict(sae.state_dict() | {"threshold": thresholds.clamp(min=0.0)})
    build_index(tiny_model, tiny_tokenizer, sae, cfg, tmp_path / "i.duckdb")
    result = Index.open(tmp_path / "i.duckdb")
    pages = [result.feature(i) for i in FEATURES]
    right = [right_of_the_threshold(page["pre_activation_histogram"]) for page in pages]
    assert right == [page["active_tokens"] for page in pages]
    assert sum(right) > 0


def check_best(
    contexts: list[dict[str, Any]],
    dense: Reference,
    column: np.ndarray,
    expected: list[tuple[float, Token]],
    tolerance: float,
) -> None:
    """The same values from places that have them; of equal values any place will do."""
    places = {(t.document, t.in_document): t for t in dense.tokens}
    result = [places[at(c)] for c in contexts]
    values = [value for value, _ in expected]
    assert [c["value"] for c in contexts] == pytest.approx(values, abs=tolerance)
    assert [column[t.place] for t in result] == pytest.approx(values, abs=1e-5)
    assert len({t.row for t in result}) == len(result)
    assert len({t.document for t in result}) == len({t.document for _, t in expected})


def test_strongest_contexts(pages: list[dict[str, Any]], dense: Reference) -> None:
    for i, page in enumerate(pages):
        expected = dense.strongest(dense.events(i), 20)
        contexts = group(page, "top")["contexts"]
        check_best(contexts, dense, dense.acts[:, i], expected, page["max_act"] * 2e-5)


def test_few_documents_are_filled_up_with_further_rows(
    dense: Reference,
    tiny_model: Any,
    tiny_tokenizer: Any,
    sae: SAE,
    tiny_corpus: Path,
    tmp_path: Path,
) -> None:
    cfg = config(tiny_corpus, top=80, near_misses=70, per_interval=0)
    build_index(tiny_model, tiny_tokenizer, sae, cfg, tmp_path / "i.duckdb")
    result = Index.open(tmp_path / "i.duckdb")
    for i in FEATURES:
        page = result.feature(i)
        for name, k, events, column in (
            ("top", 80, dense.events(i), dense.acts[:, i]),
            ("near_miss", 70, dense.misses(i), dense.pre_acts[:, i]),
        ):
            expected = dense.strongest(events, k)
            assert len({t.document for _, t in expected}) < k
            gap = page["threshold"] - expected[-1][0] if name == "near_miss" else page["max_act"]
            tolerance = 1e-5 + gap * 1e-3
            check_best(group(page, name)["contexts"], dense, column, expected, tolerance)
        assert all(not g["contexts"] for g in page["groups"] if g["name"].startswith("interval"))


def test_near_misses(pages: list[dict[str, Any]], dense: Reference) -> None:
    for i, page in enumerate(pages):
        expected = dense.strongest(dense.misses(i), 5)
        result = group(page, "near_miss")
        gap = page["threshold"] - expected[-1][0]
        tolerance = 1e-5 + 1e-3 * gap
        check_best(result["contexts"], dense, dense.pre_acts[:, i], expected, tolerance)
        for context in result["contexts"]:
            assert context["value"] <= page["threshold"]
            assert context["activations"][context["peak"]] == 0
        assert result["high"] == page["threshold"]


def test_windows_hold_the_text_and_the_activations(
    pages: list[dict[str, Any]], dense: Reference, tiny_tokenizer: Any
) -> None:
    vocab = vocabulary(tiny_tokenizer)
    documents = tiny.tiny_documents()
    places = {(t.document, t.in_document): t for t in dense.tokens}
    for i, page in enumerate(pages):
        for context in (c for g in page["groups"] for c in g["contexts"]):
            peak = places[at(context)]
            near = [t for t in dense.row_of(peak) if -24 <= t.in_row - peak.in_row <= 8]
            ids = [t.id for t in near]
            assert context["tokens"] == token_texts(ids, vocab)
            assert context["bytes"] == partial_bytes(ids, context["tokens"], vocab)
            assert context["offset"] == near[0].in_document
            acts = [dense.acts[t.place, i] for t in near]
            # Half a step of 1/255, and the rounding to 11 bits before it.
            step = page["max_act"] / 255
            np.testing.assert_allclose(context["activations"], acts, atol=0.51 * step, rtol=5e-4)
            assert [a > 0 for a in context["activations"]] == [a > 0 for a in acts]
            document = documents[context["document"]]
            assert context["title"] == document["title"]
            assert context["source"] == document["source"]
            assert context["license"] == document["license"]


def test_intervals_are_sampled_distinct_documents_first(
    pages: list[dict[str, Any]], dense: Reference
) -> None:
    for i, page in enumerate(pages):
        edges = np.linspace(page["threshold"], page["max_act"], 6)
        for n in range(1, 6):
            result = group(page, f"interval_{n}")
            low, high = edges[n - 1], edges[n]
            assert (result["low"], result["high"]) == pytest.approx((low, high), rel=1e-5)
            inside: dict[tuple[int, int], Token] = {
                (t.document, t.in_document): t
                for value, t in dense.events(i)
                if low - 1e-5 < value <= high + 1e-5
            }
            contexts = result["contexts"]
            assert {at(c) for c in contexts} <= set(inside)
            rows = {t.row for t in inside.values()}
            documents = {t.document for t in inside.values()}
            assert len(contexts) == pytest.approx(min(5, len(rows)), abs=1 if len(rows) < 5 else 0)
            chosen = {c["document"] for c in contexts}
            assert len(chosen) >= min(len(contexts), len(documents)) - (len(documents) <= 5)
            values = [c["value"] for c in contexts]
            assert values == sorted(values, reverse=True)


def test_tokens_and_sources_it_fires_on(
    pages: list[dict[str, Any]], dense: Reference, tiny_tokenizer: Any
) -> None:
    documents = tiny.tiny_documents()
    total = len(dense.tokens)
    base_tokens = Counter(t.id for t in dense.tokens)
    base_sources = Counter(documents[t.document]["source"] for t in dense.tokens)
    for i, page in enumerate(pages):
        events = [t for _, t in dense.events(i)]
        by_token = Counter(t.id for t in events)
        ranked = sorted(by_token.items(), key=lambda item: (-item[1], item[0]))
        expected = [(token, n) for token, n in ranked if n >= 3][:10]
        result = page["fires_on"]["tokens"]
        assert [row["id"] for row in result] == [token for token, _ in expected]
        for row, (token, n) in zip(result, expected, strict=True):
            share = n / len(events)
            assert row["share"] == pytest.approx(share)
            assert row["lift"] == pytest.approx(share / (base_tokens[token] / total))
        by_source = Counter(documents[t.document]["source"] for t in events)
        sources = page["fires_on"]["sources"]
        assert {row["source"] for row in sources} == {s for s, n in by_source.items() if n >= 3}
        for row in sources:
            share = by_source[row["source"]] / len(events)
            assert row["share"] == pytest.approx(share)
            assert row["lift"] == pytest.approx(share / (base_sources[row["source"]] / total))
        shares = [row["share"] for row in sources]
        assert shares == sorted(shares, reverse=True)


def test_a_dead_feature(pages: list[dict[str, Any]], dense: Reference) -> None:
    page = pages[tiny.DEAD]
    assert page["frequency"] == page["max_act"] == page["mean_act"] == 0
    assert page["signature"] == f"never fires in {len(dense.tokens):,} tokens"
    assert page["activation_histogram"] == {"edges": [], "counts": []}
    assert page["fires_on"] == {"tokens": [], "sources": []}
    # It has near misses all the same: they say what it comes closest to.
    full = [g["name"] for g in page["groups"] if g["contexts"]]
    assert full == ["near_miss"]


def test_hostile_text_comes_back_as_it_was(pages: list[dict[str, Any]]) -> None:
    result = [
        c for page in pages for g in page["groups"] for c in g["contexts"] if c["document"] == 1
    ]
    assert result
    hostile = tiny.tiny_documents()[1]["text"]
    texts = ["".join(c["tokens"]) for c in result]
    assert all(text in hostile for text in texts)
    assert any("onerror=alert(1)" in text for text in texts)
