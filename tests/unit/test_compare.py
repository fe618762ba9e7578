"""Two texts: which tokens belong together, and the divergence of what comes after them."""

from typing import Any

import numpy as np
import pytest
import torch

from sae_core.compare import AlignedPair, Comparison, aligned, divergence
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests.arms_reference import WINDOW, slow_logits

A = "The river remembers two letters in the winter of 1912. My neighbour returns it at noon."
B = "The river follows an old ship in the winter of 1912. My neighbour ignores it."


@pytest.fixture(scope="module")
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    return SplicedLM(tiny_model, tiny_tokenizer, {})


@pytest.fixture(scope="module")
def texts(lm: SplicedLM, tiny_tokenizer: Any) -> Comparison:
    return Comparison(lm, *(encode_text(tiny_tokenizer, text) for text in (A, B)))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], [(0, 0, True), (1, 1, True), (2, 2, True)]),
        ([1, 2, 3], [1, 9, 3], [(0, 0, True), (1, 1, False), (2, 2, True)]),
        # A name of two tokens in place of one of three: their last ones belong together.
        (
            [1, 5, 6, 3],
            [1, 7, 8, 9, 3],
            [(0, 0, True), (1, 2, False), (2, 3, False), (3, 4, True)],
        ),
        ([1, 2, 3, 4], [1, 4], [(0, 0, True), (3, 1, True)]),
        ([1], [1, 2, 3], [(0, 0, True)]),
        ([1, 2], [3, 4, 5], [(0, 1, False), (1, 2, False)]),
    ],
    ids=["alike", "another word", "a longer name", "left out", "gone on", "nothing alike"],
)
def test_tokens_that_belong_together(
    a: list[int], b: list[int], expected: list[tuple[int, int, bool]]
) -> None:
    assert aligned(a, b) == [AlignedPair(a=x, b=y, same=same) for x, y, same in expected]


def test_frequent_tokens_of_a_long_text_are_aligned() -> None:
    a = [7, 8] * 150
    assert len(aligned(a, [9, *a])) == len(a)


def test_divergence_is_that_of_plain_forwards(texts: Comparison) -> None:
    assert texts.common > 3
    assert len(texts.pairs) > texts.common + WINDOW
    assert any(not pair.same for pair in texts.pairs)
    assert any(pair.a != pair.b for pair in texts.pairs)
    log_p, log_q = (
        slow_logits(texts.lm.model, ids, []).double().log_softmax(-1) for ids in (texts.a, texts.b)
    )
    expected = [
        float((log_p[pair.a].exp() * (log_p[pair.a] - log_q[pair.b])).sum()) for pair in texts.pairs
    ]
    kl = texts.kl()
    assert kl[texts.common :].min() > 1e-3
    np.testing.assert_allclose(kl, expected, atol=1e-5, rtol=1e-5)
    pair = texts.pairs[-1]
    ours = texts.log_probs(pair.a, pair.b)
    assert divergence(*ours) == pytest.approx(expected[-1], abs=1e-5)
    torch.testing.assert_close(ours[0], log_p[pair.a], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours[1], log_q[pair.b], atol=1e-5, rtol=1e-5)


def test_after_the_beginning_that_both_share_predictions_are_the_same(texts: Comparison) -> None:
    assert np.array_equal(texts.kl()[: texts.common], np.zeros(texts.common))
    log_p, log_q = texts.log_probs(texts.common - 1, texts.common - 1)
    assert torch.equal(log_p, log_q)
    # The same token after something else is not shared.
    pair = texts.pairs[-1]
    assert texts.a[pair.a] == texts.b[pair.b]
    assert not texts.is_shared(pair.a, pair.b)


def test_a_text_and_itself(lm: SplicedLM, texts: Comparison) -> None:
    same = Comparison(lm, texts.a, texts.a)
    assert [(pair.a, pair.b) for pair in same.pairs] == [(t, t) for t in range(len(texts.a))]
    assert not same.kl().any()


def test_mistakes_are_named(lm: SplicedLM, texts: Comparison) -> None:
    with pytest.raises(ValueError, match="a text without tokens"):
        Comparison(lm, texts.a, [])
    with pytest.raises(ValueError, match="token 500 is not of the text"):
        texts.log_probs(0, 500)
