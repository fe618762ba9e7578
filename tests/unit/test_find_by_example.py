"""Features by how well they tell texts apart, against slow loops over pairs and over all splits."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sae_core import find_by_example
from sae_core.corpus import Document, TokenRow
from sae_core.find_by_example import (
    TextPeaks,
    auroc,
    separation,
    strongest,
    text_peaks,
)
from sae_core.sae import SAE
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests.tiny import DEAD, tiny_documents


@pytest.fixture
def lm(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> SplicedLM:
    return SplicedLM(tiny_model, tiny_tokenizer, {"tiny": tiny_sae})


def rows_of(lm: SplicedLM, texts: Sequence[str]) -> list[TokenRow]:
    ids = [np.array(encode_text(lm.tokenizer, text), dtype=np.int32) for text in texts]
    return [TokenRow(Document(i, "", "", "", ""), 0, each) for i, each in enumerate(ids)]


def drawn(texts: int, features: int, seed: int = 0) -> np.ndarray:
    """Values with many zeros and many ties, as largest activations have them."""
    generator = np.random.default_rng(seed)
    values = generator.integers(1, 5, (texts, features)) * (
        generator.random((texts, features)) < 0.6
    )
    return values.astype(np.float32)


def peaks_of(values: np.ndarray) -> list[TextPeaks]:
    numbers = [np.flatnonzero(row) for row in values]
    return [
        TextPeaks(feature=at, activation=row[at], token=np.full(len(at), 3))
        for row, at in zip(values, numbers, strict=True)
    ]


def slow_auroc(values: np.ndarray, positive: Sequence[bool]) -> list[float]:
    result = []
    for column in values.T:
        score, pairs = 0.0, 0
        for p, is_positive in enumerate(positive):
            for n, is_other in enumerate(positive):
                if is_positive and not is_other:
                    pairs += 1
                    score += (
                        1.0 if column[p] > column[n] else 0.5 if column[p] == column[n] else 0.0
                    )
        result.append(score / pairs)
    return result


@pytest.mark.parametrize("split", [(1, 1), (1, 4), (3, 4), (6, 2)])
def test_the_auroc_counts_pairs_and_ties_by_half(split: tuple[int, int]) -> None:
    n, m = split
    values = drawn(n + m, 50)
    positive = [True] * n + [False] * m
    assert auroc(values, np.array(positive)) == pytest.approx(slow_auroc(values, positive))


@pytest.mark.parametrize("block", [find_by_example._BLOCK, 7])
def test_the_chance_is_that_of_all_splits(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(find_by_example, "_BLOCK", block)
    values = drawn(6, 40, seed=3)
    # One that a split of three makes perfect twice over, and one that none can.
    values[:, 0], values[:, 1], values[:, 2] = [9, 8, 7, 0, 0, 0], [5, 6, 7, 1, 0, 1], [1] * 6
    perfect = []
    for chosen in itertools.combinations(range(6), 3):
        positive = [i in chosen for i in range(6)]
        perfect.append(sum(each == 1.0 for each in slow_auroc(values, positive)))
        result = separation(peaks_of(values), positive)
        assert result.perfect == perfect[-1]
    assert result.splits == len(perfect) == 20
    assert result.expected == pytest.approx(np.mean(perfect))
    assert result.any_perfect == pytest.approx(np.mean([count > 0 for count in perfect]))
    assert 0 < result.any_perfect < 1


def test_the_order_is_by_auroc_then_difference_then_number() -> None:
    values = drawn(7, 60, seed=1)
    values[:, 59] = 0  # it fires nowhere, so it is not there at all
    values[:, 58] = values[:, 57]  # alike in all, so that the number decides
    positive = [True, False, True, False, False, True, False]
    result = separation(peaks_of(values), positive)
    is_positive = np.array(positive)
    exact = values.astype(np.float64)
    means = exact[is_positive].mean(0), exact[~is_positive].mean(0)
    rows = sorted(
        (-score, -(high - low), feature)
        for feature, (score, high, low) in enumerate(
            zip(slow_auroc(values, positive), *means, strict=True)
        )
        if values[:, feature].any()
    )
    best = result.feature[result.best(1000)]
    assert best.tolist() == [feature for *_, feature in rows]
    assert result.best(5).tolist() == result.best(1000)[:5].tolist()
    assert result.positive_mean == pytest.approx(means[0][result.feature])
    assert result.negative_mean == pytest.approx(means[1][result.feature])


def test_texts_of_one_kind_alone_tell_nothing() -> None:
    with pytest.raises(ValueError, match="at least one text that has it"):
        separation(peaks_of(drawn(2, 3)), [True, True])


def test_texts_in_which_nothing_fires_have_no_features() -> None:
    result = separation(peaks_of(np.zeros((4, 5), dtype=np.float32)), [True, True, False, False])
    assert len(result.feature) == len(result.best(10)) == result.perfect == 0
    assert (result.expected, result.any_perfect, result.splits) == (0, 0, 6)


@pytest.mark.parametrize("chunk", [find_by_example._CHUNK, 64 * 3])
def test_peaks_are_the_largest_over_the_tokens_that_count(
    lm: SplicedLM, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(find_by_example, "_CHUNK", chunk)
    # Of several lengths, so that they are padded, and more than one forward takes.
    texts = [row["text"][: 20 + 17 * i] for i, row in enumerate(tiny_documents(6))]
    rows = rows_of(lm, texts)
    for row, peaks in zip(rows, text_peaks(lm, "tiny", rows), strict=True):
        ids = row.ids.tolist()
        _, acts = lm.pre_activations(ids, "tiny", list(range(64)))
        assert peaks.feature.tolist() == np.flatnonzero(acts.max(0)).tolist()
        assert len(peaks.feature)
        for feature in range(64):
            activation, token = peaks.of(feature)
            assert activation == pytest.approx(acts[:, feature].max(), rel=1e-4)
            assert (token == -1) == (activation == 0)
            if token >= 0:
                assert acts[token, feature] == pytest.approx(activation, rel=1e-4)
                assert token > 0, "BOS counts nowhere"


def test_the_strongest_is_of_the_texts_that_are_asked_about(lm: SplicedLM) -> None:
    values = np.array([[0, 2], [5, 0], [3, 0]], dtype=np.float32)
    peaks = peaks_of(values)
    assert strongest(peaks, [0, 1, 2], 0) == (1, 3, 5.0)
    assert strongest(peaks, [0, 2], 0) == (2, 3, 3.0)
    assert strongest(peaks, [1, 2], 1) is None
    assert strongest(peaks, [0, 1, 2], DEAD) is None


def test_the_model_is_left_without_hooks_when_an_sae_fails(
    lm: SplicedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of order")

    monkeypatch.setattr(lm.sae("tiny"), "encode", fail)
    with pytest.raises(RuntimeError, match="out of order"):
        text_peaks(lm, "tiny", rows_of(lm, ["The river"]))
