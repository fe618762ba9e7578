"""Arrays of numbers as few bytes: byte planes, each deflated.

The first bytes of all elements, then all second bytes, and so on, little-endian: what numbers near
each other have in common then stands together. Written are, as uint32, the number of elements and
the deflated length of each plane, then the planes (raw deflate, RFC 1951).
"""

import zlib

import numpy as np


def pack(array: np.ndarray, dtype: str) -> bytes:
    """Bytes of the flattened `array` as `dtype` (numpy's name, little-endian)."""
    flat = np.ascontiguousarray(array, dtype).reshape(-1)
    planes = flat.view(np.uint8).reshape(len(flat), flat.itemsize).T
    deflated = [_deflate(plane.tobytes()) for plane in planes]
    head = np.array([len(flat), *map(len, deflated)], "<u4")
    return b"".join([head.tobytes(), *deflated])


def unpack(data: bytes, dtype: str, at: int = 0) -> tuple[np.ndarray, int]:
    """The array that begins at byte `at`, flat, and where the next one begins.

    Raises ValueError or zlib.error if the bytes are no such array.
    """
    size = np.dtype(dtype).itemsize
    count, *lengths = np.frombuffer(data, "<u4", 1 + size, at).tolist()
    at += 4 * (1 + size)
    planes = np.empty((size, count), np.uint8)
    for plane, length in zip(planes, lengths, strict=True):
        plane[:] = np.frombuffer(zlib.decompress(data[at : at + length], -15), np.uint8)
        at += length
    return np.ascontiguousarray(planes.T).view(dtype).reshape(-1), at


def _deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflater.compress(data) + deflater.flush()
