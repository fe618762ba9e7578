"""What the index keeps per feature beyond its table row: packed, 64 features to a page.

A page is the arrays of `Page` in the order of `_FIELDS`, each written by `arrays.pack`.
docs/format.md says what they mean.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from sae_core.index.arrays import pack, skip, unpack

FEATURES = 64
"""Features per page."""
DOUBLING_BINS = 64
"""Bins of a feature's histogram of activations."""
WINDOW_BINS = 56
"""Bins around the threshold in a feature's histogram of pre-activations; one more on either side
counts what is beyond them."""

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
class PageShape:
    """What the lengths of a page's arrays follow from."""

    features: int
    groups: int
    """Groups of contexts of each feature, near misses last."""
    logits: int
    """Entries of each list of logits."""
    neighbours: int

    def count(self, name: str, before: Mapping[str, np.ndarray]) -> int:
        """Elements of the array `name`, given those that stand before it."""
        match name:
            case "contexts":
                return self.features * self.groups
            case "place" | "others":
                return _sum(before["contexts"])
            case "value":
                return _sum(before["contexts"]) - self._near(before)
            case "gap":
                return self._near(before)
            case "position" | "activation":
                return _sum(before["others"])
            case "activation_counts":
                return self.features * DOUBLING_BINS
            case "pre_activation_counts":
                return self.features * (WINDOW_BINS + 2)
            case "tokens" | "sources":
                return self.features
            case "token_count":
                return _sum(before["tokens"])
            case "source" | "source_count":
                return _sum(before["sources"])
            case "neighbour" | "cosine":
                return self.features * self.neighbours
        assert name.startswith(("raises", "lowers"))
        return self.features * self.logits

    def _near(self, before: Mapping[str, np.ndarray]) -> int:
        return _sum(before["contexts"][self.groups - 1 :: self.groups])


def _sum(counts: np.ndarray) -> int:
    return int(counts.sum(dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class Page:
    """Arrays of up to 64 consecutive features; G is their number."""

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

    @classmethod
    def unpack(cls, data: bytes, shape: PageShape) -> "Page":
        """From what `joined` gives; ValueError or zlib.error if that is no page of this shape."""
        arrays: dict[str, np.ndarray] = {}
        at = 0
        for name, dtype in _FIELDS.items():
            arrays[name], at = unpack(data, dtype, at, shape.count(name, arrays))
        if at != len(data):
            raise ValueError(f"a page is {len(data) - at:,} bytes too long")
        return cls(**arrays)


assert [field.name for field in fields(Page)] == list(_FIELDS)


def packed(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Some of a page's arrays by their names, as they stand in it."""
    return {name: pack(array, _FIELDS[name]) for name, array in arrays.items()}


def joined(arrays: Mapping[str, bytes]) -> bytes:
    """The page whose `packed` arrays these are, all of them."""
    return b"".join(arrays[name] for name in _FIELDS)


def listed_counts_and_places(
    data: bytes, shape: PageShape
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a page's bytes only `tokens`, `token_count`, and the place of the peak of each feature's
    strongest context, -1 for none; ValueError or zlib.error as `unpack`.
    """
    strongest, at = _strongest(data, shape)
    for name, dtype in itertools.takewhile(lambda each: each[0] != "tokens", _FIELDS.items()):
        if name not in ("contexts", "place"):
            at = skip(data, dtype, at)
    tokens, at = unpack(data, _FIELDS["tokens"], at, shape.features)
    counts, _ = unpack(data, _FIELDS["token_count"], at, _sum(tokens))
    return tokens, counts, strongest


def strongest_places(data: bytes, shape: PageShape) -> np.ndarray:
    """Of a page's bytes only the place of the peak of each feature's strongest context, -1 for
    none.
    """
    return _strongest(data, shape)[0]


def top_places(data: bytes, shape: PageShape) -> tuple[np.ndarray, np.ndarray]:
    """Of a page's bytes only how many strongest contexts each feature has, and the places of their
    peaks, feature after feature.
    """
    contexts, at = unpack(data, _FIELDS["contexts"], 0, shape.features * shape.groups)
    place, _ = unpack(data, _FIELDS["place"], at, _sum(contexts))
    is_top = np.arange(len(contexts)) % shape.groups == 0
    return contexts[is_top].astype(np.int64), place[np.repeat(is_top, contexts)].astype(np.int64)


def _strongest(data: bytes, shape: PageShape) -> tuple[np.ndarray, int]:
    contexts, at = unpack(data, _FIELDS["contexts"], 0, shape.features * shape.groups)
    place, at = unpack(data, _FIELDS["place"], at, _sum(contexts))
    by_feature = contexts.reshape(-1, shape.groups).astype(np.int64)
    first = np.cumsum(by_feature.sum(1)) - by_feature.sum(1)
    # One place more: the last features may have no contexts.
    strongest = np.append(place.astype(np.int64), -1)[np.minimum(first, len(place))]
    return np.where(by_feature[:, 0] > 0, strongest, -1), at
