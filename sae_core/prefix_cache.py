"""Caches of a text's keys and values, of which the first serve any number of rows.

Importing it imports transformers, so those who need it import it when they do.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def keeps_keys(model: Any) -> bool:
    """Whether a model's cache is one of keys and values, a pair for every layer."""
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def whole_cache(model: Any) -> DynamicCache:
    """An empty cache that will keep all keys and values, those of layers with a sliding window,
    too. ValueError for a model whose own cache holds other things (states of linear attention) or
    shares them between layers.
    """
    if not keeps_keys(model):
        raise ValueError(
            f"{type(model).__name__} does not keep keys and values of every layer, without which "
            "no arms can be run."
        )
    return DynamicCache()


def keys_of(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values `[1, heads, pos, width]` of each block."""
    pairs = []
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        pairs.append((layer.keys, layer.values))
    return pairs


def prefix_cache(keys: Sequence[tuple[Tensor, Tensor]], length: int) -> Cache:
    """A cache of the first `length` of each block's keys and values `[1, heads, pos, width]`."""
    return Cache(layers=[_Prefix(*pair, length) for pair in keys])


class _Prefix(DynamicLayer):
    """One block's. It keeps nothing that it is given, and has all keys even where a window hides
    some: the mask, which is made for that many, hides them.
    """

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys[..., :length, :], values[..., :length, :]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The prefix before these, for every row."""
        assert self.keys is not None
        assert self.values is not None
        rows = (len(key_states), -1, -1, -1)
        keys = torch.cat([self.keys.expand(rows), key_states], dim=-2)
        return keys, torch.cat([self.values.expand(rows), value_states], dim=-2)
