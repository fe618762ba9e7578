"""Arrays of numbers as few bytes: byte planes, each deflated.

The first bytes of all elements, then all second bytes, and so on, little-endian: what numbers near
each other have in common then stands together. Written are, as uint32, the number of elements and
the deflated length of each plane, then the planes (raw deflate, RFC 1951).
"""

import zlib
from functools import lru_cache

import numpy as np

MOST_INFLATED = 1032
"""Times its length that deflated data can grow at most."""
_LEVEL = 4
"""Of deflate: the highest takes three times as long for a quarter of a percent."""


def pack(array: np.ndarray, dtype: str) -> bytes:
    """Bytes of the flattened `array` as `dtype` (numpy's name, little-endian)."""
    flat = np.ascontiguousarray(array, dtype).reshape(-1)
    planes = np.ascontiguousarray(flat.view(np.uint8).reshape(len(flat), flat.itemsize).T)
    # High bytes of counts and ids are mostly zeros throughout.
    deflated = [
        _deflate(plane.data) if some else _zeros(len(flat))
        for plane, some in zip(planes, planes.max(1, initial=0).tolist(), strict=True)
    ]
    head = np.array([len(flat), *map(len, deflated)], "<u4")
    return b"".join([head.tobytes(), *deflated])


def unpack(
    data: bytes, dtype: str, at: int = 0, count: int | None = None
) -> tuple[np.ndarray, int]:
    """The array that begins at byte `at`, flat, and where the next one begins.

    `count`: how many elements it must have; None takes any number. Raises ValueError or zlib.error
    if the bytes are no such array; no more memory is used than `count` asks for, or than as many
    bytes can honestly be inflated to.
    """
    size = np.dtype(dtype).itemsize
    number, *lengths = np.frombuffer(data, "<u4", 1 + size, at).tolist()
    if count is not None and number != count:
        raise ValueError(f"an array has {number:,} elements in place of {count:,}")
    at += 4 * (1 + size)
    if number > MOST_INFLATED * (len(data) - at):
        raise ValueError(f"{len(data) - at:,} bytes cannot hold {number:,} elements")
    planes = np.empty((size, number), np.uint8)
    for plane, length in zip(planes, lengths, strict=True):
        plane[:] = np.frombuffer(inflate(data[at : at + length], number, -zlib.MAX_WBITS), np.uint8)
        at += length
    return np.ascontiguousarray(planes.T).view(dtype).reshape(-1), at


def skip(data: bytes, dtype: str, at: int = 0) -> int:
    """Where the array after the one that begins at byte `at` begins, without unpacking that one."""
    size = np.dtype(dtype).itemsize
    lengths = np.frombuffer(data, "<u4", size, at + 4)
    return at + 4 * (1 + size) + int(lengths.sum(dtype=np.int64))


def inflate(data: bytes, most: int, window: int = zlib.MAX_WBITS) -> bytes:
    """`data` decompressed (`window` as zlib takes it); ValueError, before more memory is used, if
    that is longer than `most` bytes or the data is cut off.
    """
    inflater = zlib.decompressobj(window)
    inflated = inflater.decompress(data, most + 1)
    if len(inflated) > most or not inflater.eof:
        raise ValueError(f"compressed data is not the {most:,} bytes that it should be")
    return inflated


@lru_cache(2**10)
def _zeros(count: int) -> bytes:
    return _deflate(bytes(count))


def _deflate(data: bytes | memoryview) -> bytes:
    return zlib.compress(data, _LEVEL, -zlib.MAX_WBITS)
