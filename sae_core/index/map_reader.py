"""What a map of features is, and reading that of an index and the source of each feature."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_core.index.arrays import unpack
from sae_core.index.context_reader import ContextReader
from sae_core.index.feature_pages import FEATURES, top_places
from sae_core.index.index_checks import page_shape, pages_of
from sae_core.index.schema import MAP

PLACES = "<u2"
"""Dtype of places in a file."""
_PAGES = 256
"""Pages read together."""


@dataclass(frozen=True)
class FeatureMap:
    """Where features are, and how that was found."""

    places: np.ndarray
    """uint16 `[d_sae, 2]`: x to the right and y upwards, in 65,535ths of a square that holds all of
    them; both have the same scale."""
    settings: dict[str, Any]
    """`method` ("umap" or "pca") and `version` of what computed it. UMAP: `neighbours`, `min_dist`,
    `metric`, `rounds`, `start`, `seed`. PCA: `variance`, the share of each axis. Both: `kept`, the
    share of a feature's 10 nearest decoder directions that are among the 10 nearest on the map, and
    `by_chance`, what that would be at random; null where there are too few features."""


def read_map(meta: Mapping[str, Any], packed: Mapping[str, bytes]) -> FeatureMap | None:
    """The map among an index's arrays, None where it has none; ValueError if it can be no map."""
    if (MAP in meta) != (MAP in packed):
        raise ValueError("its map is half there")
    if MAP not in meta:
        return None
    settings = meta[MAP]
    method = settings.get("method") if isinstance(settings, dict) else None
    if method not in ("umap", "pca"):
        raise ValueError("its map is of no known method")
    if not isinstance(settings.get("version"), str):
        raise ValueError("its map is of no version")
    numbers = ("neighbours", "min_dist", "rounds", "seed") if method == "umap" else ()
    for name in numbers:
        if type(settings.get(name)) not in (int, float):
            raise ValueError(f"its map's {name} is {str(settings.get(name))[:40]}")
    variance = settings.get("variance") if method == "pca" else [0, 0]
    if not isinstance(variance, list) or len(variance) != 2 or not all(map(_is_share, variance)):
        raise ValueError(f"its map's variance is {str(variance)[:40]}")
    shares = [settings.get(name, "missing") for name in ("kept", "by_chance")]
    if shares != [None, None] and not all(map(_is_share, shares)):
        raise ValueError(f"its map's kept and by_chance are {str(shares)[:40]}")
    places, _ = unpack(packed[MAP], PLACES, 0, 2 * meta["d_sae"])
    return FeatureMap(places.reshape(-1, 2), settings)


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def main_sources(
    rows: Callable[[str, Any], list[tuple[Any, ...]]],
    contexts: ContextReader,
    meta: Mapping[str, Any],
) -> np.ndarray:
    """The source, by its number, that most of each feature's strongest contexts are from, int32
    `[d_sae]`; of equals the one with the lowest number, -1 for features without contexts. `rows`
    answers a query.
    """
    found = np.full(meta["d_sae"], -1, np.int32)
    statement = "SELECT page, data FROM pages WHERE page >= ? AND page < ? ORDER BY page"
    for first in range(0, pages_of(meta["d_sae"]), _PAGES):
        counts, places = [], []
        for page, data in rows(statement, [first, first + _PAGES]):
            count, place = top_places(data, page_shape(meta, page))
            counts.append(count)
            places.append(place)
        of_feature = np.concatenate(counts)
        source = contexts.sources(np.concatenate(places))
        # Contexts of each feature and source, then for each feature the source with the most.
        number = len(meta["sources"])
        owner = np.repeat(np.arange(len(of_feature)), of_feature)
        of_both = np.bincount(owner * number + source, minlength=len(of_feature) * number)
        most = of_both.reshape(len(of_feature), number).argmax(1)
        some = slice(first * FEATURES, first * FEATURES + len(of_feature))
        found[some] = np.where(of_feature > 0, most, -1)
    return found
