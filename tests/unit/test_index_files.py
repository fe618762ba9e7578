"""The packed parts of an index file: tokens and pages."""

import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest

from sae_core.index.arrays import pack, unpack
from sae_core.index.feature_pages import Page, PageShape, joined, packed
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

    contexts, others = np.array([8, 4, 3, 0, 0, 0, 3, 9, 0, 0, 1, 0, 0, 2]), whole(30, 4)
    tokens = np.array([8, 4])
    page = Page(
        contexts=contexts,
        place=whole(30, 2**32),
        value=whole(25, 2**16),
        gap=rng.random(5).astype(np.float16),
        others=others,
        position=whole(others.sum(), 33),
        activation=whole(others.sum(), 256),
        activation_counts=whole(128, 2**32),
        pre_activation_counts=whole(116, 2**20),
        raises=whole(20, 2**18),
        raises_logit=rng.standard_normal(20).astype(np.float16),
        lowers=whole(20, 2**18),
        lowers_logit=rng.standard_normal(20).astype(np.float16),
        tokens=tokens,
        token_count=whole(12, 2**30),
        sources=np.zeros(2, int),
        source=np.empty(0, int),
        source_count=np.empty(0, int),
        neighbour=whole(20, 2**17),
        cosine=whole(20, 2**15) - 2**14,
    )
    shape = PageShape(features=2, groups=7, logits=10, neighbours=10)
    data = joined(packed(vars(page)))
    again = Page.unpack(data, shape)
    for name in page.__dataclass_fields__:
        assert getattr(again, name).tolist() == getattr(page, name).tolist(), name
    with pytest.raises(ValueError, match="a page is 1 bytes too long"):
        Page.unpack(data + b"x", shape)
    for wrong in ({"features": 1}, {"logits": 9}, {"neighbours": 11}, {"groups": 6}):
        with pytest.raises(ValueError, match="elements in place of"):
            Page.unpack(data, replace(shape, **wrong))


def test_what_inflates_to_more_than_it_should_is_refused_before_it_does() -> None:
    """A gigabyte of zeros is a megabyte of file: it must never be in memory."""
    zeros = bytes(2**28)
    bomb = zlib.compress(zeros)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    plane = deflater.compress(zeros) + deflater.flush()
    tracemalloc.start()
    with pytest.raises(ValueError, match="is not the 24,584 bytes"):
        decode_block(bomb)
    for count in (7, 2**31):
        head = np.array([count, len(plane)], "<u4").tobytes()
        with pytest.raises(ValueError, match=r"(should be|cannot hold)"):
            unpack(head + plane, "u1")
        with pytest.raises(ValueError, match="elements in place of 5"):
            unpack(head + plane, "u1", count=5)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_an_array_comes_back_and_not_if_it_was_cut_off() -> None:
    data = pack(np.arange(1000), "<u2")
    assert unpack(data, "<u2", count=1000)[0].tolist() == list(range(1000))
    for length in (3, 11, 40, len(data) - 1):
        with pytest.raises((ValueError, zlib.error)):
            unpack(data[:length], "<u2")
