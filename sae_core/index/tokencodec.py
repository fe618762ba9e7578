"""Token ids as compressed bytes: what the contexts of an index are cut from.

Ids are replaced by their rank in the sample (0: the most frequent; ties by id). A rank below 192 is
one byte. Others are two: the high byte, from 192 on, then the low one, of `rank - 192`. Ranks too
large for that are written as the pair 255 255, and follow in order, four bytes each, after the
block's other bytes. A block is compressed with zlib.

A byte below 192 ends a code, so bytes of at least 192 in a row alternate between first and second:
that makes decoding a matter of whole-array operations.
"""

import zlib

import numpy as np

from sae_core.index.arrays import inflate

BLOCK = 4096
"""Tokens per block."""
_ONE = 192
_TWO = (256 - _ONE) * 256 - 1
"""Ranks that two bytes can say; the last pair is the escape."""
_LONGEST = 8 + (4 + 2) * BLOCK
"""Bytes of a block before it is compressed, at most."""


def ranks(token_counts: np.ndarray) -> np.ndarray:
    """Rank of every id by how often it occurs, `[vocabulary]`."""
    order = np.argsort(-token_counts.astype(np.int64), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def encode_block(rank: np.ndarray) -> bytes:
    """Compressed bytes of the ranks of up to `BLOCK` tokens."""
    rank = rank.astype(np.int64)
    rest = rank - _ONE
    escaped = rest >= _TWO
    rest = np.where(escaped, _TWO, rest)
    wide = rest >= 0
    place = np.arange(len(rank)) + np.cumsum(wide) - wide
    out = np.empty(len(rank) + int(wide.sum()), np.uint8)
    out[place] = np.where(wide, _ONE + (rest >> 8), rank)
    out[place[wide] + 1] = rest[wide] & 255
    large = rank[escaped].astype("<u4")
    head = np.array([len(rank), len(large)], "<u4")
    return zlib.compress(head.tobytes() + large.tobytes() + out.tobytes(), 9)


def decode_block(data: bytes) -> np.ndarray:
    """Ranks of a block's tokens, int64; ValueError or zlib.error if the bytes are no block."""
    raw = inflate(data, _LONGEST)
    count, n_large = (int(n) for n in np.frombuffer(raw, "<u4", 2))
    large = np.frombuffer(raw, "<u4", n_large, 8)
    code = np.frombuffer(raw, np.uint8, offset=8 + 4 * n_large).astype(np.int64)
    high = code >= _ONE
    place = np.arange(len(code))
    last_low = np.maximum.accumulate(np.where(high, -1, place))
    first_of_two = high & ((place - last_low) % 2 == 1)
    start = np.ones(len(code), bool)
    start[1:] = ~first_of_two[:-1]
    rank = code[start]
    wide = first_of_two[start]
    second = code[1:][first_of_two[:-1]]
    if len(rank) != count or len(second) != int(wide.sum()):
        raise ValueError(f"a block of {count:,} tokens is not whole")
    rank[wide] = _ONE + ((rank[wide] - _ONE) << 8) + second
    rank[rank == _ONE + _TWO] = large
    return rank
