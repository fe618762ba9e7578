"""Active features of many texts, against one text at a time."""

import numpy as np
import pytest

from sae_core import Bundle, SplicedLM, encode_text
from sae_core.feature_activations import feature_activations
from tests import tiny

TEXTS = ["The river follows the harbour.", "", "The garden was quiet. " * 6]


@pytest.fixture(scope="module")
def lm(tiny_bundle: Bundle) -> SplicedLM:
    return tiny_bundle.load()


def test_each_text_has_what_an_analysis_of_it_has(lm: SplicedLM) -> None:
    result = feature_activations(lm, tiny.SAE_NAME, TEXTS, batch_rows=2)
    counted = 0
    for number, text in enumerate(TEXTS):
        if not text:
            assert number not in result.text
            continue
        ids = encode_text(lm.tokenizer, text)
        analysis = lm.analyse(ids, tiny.SAE_NAME)
        counted += int(analysis.totals["tokens"])
        order = np.lexsort((analysis.feature, analysis.token))
        here = result.text == number
        assert (result.feature[here] == analysis.feature[order]).all()
        assert (result.position[here] == analysis.token[order] - 1).all()
        assert (result.token[here] == np.array(ids)[analysis.token[order]]).all()
        np.testing.assert_allclose(
            result.activation[here], analysis.activation[order], rtol=1e-4, atol=1e-5
        )
    assert result.tokens == counted


def test_rows_are_cut_and_counted_on(lm: SplicedLM) -> None:
    result = feature_activations(lm, tiny.SAE_NAME, TEXTS, context_size=8)
    last = len(encode_text(lm.tokenizer, TEXTS[2])) - 2
    assert result.position[result.text == 2].max() <= last
    assert result.position[result.text == 2].max() > 8


def test_top_features_and_the_largest_of_each_text(lm: SplicedLM) -> None:
    result = feature_activations(lm, tiny.SAE_NAME, TEXTS)
    feature, mean, share = result.top_features(3)[0]
    own = result.activation[result.feature == feature]
    assert mean == pytest.approx(own.sum() / result.tokens, rel=1e-5)
    assert share == pytest.approx(len(own) / result.tokens)
    assert len(result.top_features(3)) == 3
    dense = result.dense()
    assert dense.shape == (3, result.d_sae)
    assert (dense[1] == 0).all()
    here = (result.text == 2) & (result.feature == feature)
    assert float(dense[2, feature]) == pytest.approx(float(result.activation[here].max(initial=0)))


@pytest.mark.parametrize("texts", [[], [""], ["The river.", "", ""], ["", "The river."]])
def test_there_is_a_row_for_each_text_also_where_nothing_fires(
    lm: SplicedLM, texts: list[str]
) -> None:
    result = feature_activations(lm, tiny.SAE_NAME, iter(texts))
    dense = result.dense()
    assert result.texts == len(texts)
    assert dense.shape == (len(texts), result.d_sae)
    assert [bool(row.any()) for row in dense] == [text != "" for text in texts]
