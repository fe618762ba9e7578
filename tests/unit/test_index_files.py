"""The packed parts of an index file: tokens and pages."""

import numpy as np
import pytest

from sae_core.index.feature_pages import Page
from sae_core.index.tokencodec import BLOCK, decode_block, encode_block, ranks


@pytest.mark.parametrize("vocabulary", [10, 192, 193, 8192, 16574, 16575, 16576, 16577, 300_000])
@pytest.mark.parametrize("length", [1, 2, 500, BLOCK])
def test_a_block_of_tokens_comes_back(vocabulary: int, length: int) -> None:
    rng = np.random.default_rng(vocabulary + length)
    rank = np.minimum((rng.pareto(0.4, length)).astype(np.int64), vocabulary - 1)
    rank[:1] = vocabulary - 1
    assert decode_block(encode_block(rank)).tolist() == rank.tolist()


def test_every_rank_around_the_borders_of_the_code_comes_back() -> None:
    edges = [0, 191, 192, 447, 448, 16511, 16512, 16574, 16575, 16576, 70_000]
    rank = np.array([a for edge in edges for a in (edge, max(edge - 1, 0), edge + 1)] * 2)
    assert decode_block(encode_block(rank)).tolist() == rank.tolist()


def test_ranks_put_frequent_tokens_first() -> None:
    assert ranks(np.array([3, 9, 3, 0])).tolist() == [1, 0, 2, 3]


def test_a_page_comes_back() -> None:
    rng = np.random.default_rng(0)

    def whole(n: int, below: int) -> np.ndarray:
        return rng.integers(0, below, n)

    page = Page(
        contexts=whole(14, 20),
        place=whole(30, 2**32),
        value=whole(25, 2**16),
        gap=rng.random(5).astype(np.float16),
        others=whole(30, 4),
        position=whole(40, 33),
        activation=whole(40, 256),
        activation_counts=whole(128, 2**32),
        pre_activation_counts=whole(116, 2**20),
        raises=whole(20, 2**18),
        raises_logit=rng.standard_normal(20).astype(np.float16),
        lowers=whole(20, 2**18),
        lowers_logit=rng.standard_normal(20).astype(np.float16),
        tokens=whole(2, 10),
        token_count=whole(12, 2**30),
        sources=np.zeros(2, int),
        source=np.empty(0, int),
        source_count=np.empty(0, int),
        neighbour=whole(20, 2**17),
        cosine=whole(20, 2**15) - 2**14,
    )
    again = Page.unpack(page.pack())
    for name in page.__dataclass_fields__:
        assert getattr(again, name).tolist() == getattr(page, name).tolist(), name
