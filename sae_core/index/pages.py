"""What the index keeps per feature beyond its table row: packed, 32 features to a compressed page.

A page is a list of arrays in the order of `_FIELDS`: first the number of elements of each (uint32,
little-endian), then each array's bytes, all first bytes of its elements, then all second ones, and
so on (numbers that are near each other then compress well), the whole compressed with zlib.
docs/format.md says what each array means.
"""

import zlib
from dataclasses import dataclass, fields

import numpy as np

FEATURES = 32
"""Features per page."""

_FIELDS = {
    "contexts": "u1",
    "place": "<u4",
    "value": "<u2",
    "gap": "<f2",
    "others": "u1",
    "position": "u1",
    "activation": "u1",
    "activation_counts": "<u4",
    "pre_activation_counts": "<u4",
    "raises": "<u4",
    "raises_logit": "<f2",
    "lowers": "<u4",
    "lowers_logit": "<f2",
    "tokens": "u1",
    "token_count": "<u4",
    "sources": "u1",
    "source": "<u2",
    "source_count": "<u4",
    "neighbour": "<u4",
    "cosine": "<i2",
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """Arrays of up to 32 consecutive features; G is their number."""

    contexts: np.ndarray
    """`[G * groups]`: contexts of each group: top, intervals from the highest, near misses."""
    place: np.ndarray
    """Place in the index's tokens of each context's peak, features and groups in order."""
    value: np.ndarray
    """Activation at the peak / largest activation * 65535, as what the one before it in its group
    (65535 before the first) exceeds it by; none for near misses."""
    gap: np.ndarray
    """Threshold less pre-activation at the peak of each near miss."""
    others: np.ndarray
    """Active tokens of each context besides its peak."""
    position: np.ndarray
    """Their position in the window, 0 at `before` tokens before the peak."""
    activation: np.ndarray
    """Their activation / largest activation * 255, at least 1."""
    activation_counts: np.ndarray
    """`[G * 64]`"""
    pre_activation_counts: np.ndarray
    """`[G * 58]`"""
    raises: np.ndarray
    """`[G * k]` token ids."""
    raises_logit: np.ndarray
    lowers: np.ndarray
    lowers_logit: np.ndarray
    tokens: np.ndarray
    """`[G]`: how many tokens are listed; their ids stand in the table."""
    token_count: np.ndarray
    """Active tokens of each listed token."""
    sources: np.ndarray
    """`[G]`: how many sources are listed."""
    source: np.ndarray
    source_count: np.ndarray
    neighbour: np.ndarray
    """`[G * n]` features."""
    cosine: np.ndarray
    """`[G * n]`: cosine * 32767."""

    def pack(self) -> bytes:
        """The page's bytes."""
        arrays = [np.ascontiguousarray(getattr(self, n), d) for n, d in _FIELDS.items()]
        head = np.array([len(array) for array in arrays], "<u4").tobytes()
        planes = (_planes(array) for array in arrays)
        return zlib.compress(b"".join([head, *planes]), 9)

    @classmethod
    def unpack(cls, data: bytes) -> "Page":
        """Inverse of `pack`."""
        raw = zlib.decompress(data)
        lengths = np.frombuffer(raw, "<u4", len(_FIELDS))
        at = lengths.nbytes
        arrays = {}
        for (name, dtype), length in zip(_FIELDS.items(), lengths, strict=True):
            size = np.dtype(dtype).itemsize
            planes = np.frombuffer(raw, np.uint8, int(length) * size, at)
            arrays[name] = np.ascontiguousarray(planes.reshape(size, -1).T).view(dtype).reshape(-1)
            at += int(length) * size
        return cls(**arrays)


def _planes(array: np.ndarray) -> bytes:
    size = array.dtype.itemsize
    return np.ascontiguousarray(array.view(np.uint8).reshape(-1, size).T).tobytes()


assert [f.name for f in fields(Page)] == list(_FIELDS)
