"""Exact counts of (feature, token) pairs without a table of all of them."""

from itertools import pairwise

import torch
from torch import Tensor

from sae_core.index.selection import rank_in_group

BUFFER = 16_000_000
"""Pairs buffered before they are sorted and counted, 128 MB."""
_AT_ONCE = 2**24
"""Counts added up together."""


class PairCounts:
    """Counts occurrences of int64 keys; only keys that occur take memory."""

    def __init__(self, device: torch.device) -> None:
        self._keys = torch.empty(0, dtype=torch.int64, device=device)
        self._counts = torch.empty(0, dtype=torch.int64, device=device)
        self._buffer: list[Tensor] = []
        self._buffered = 0

    def add(self, keys: Tensor) -> None:
        """Count each of `keys` once more."""
        self._buffer.append(keys)
        self._buffered += len(keys)
        # Growing with the table keeps the sorting linear in the length of the stream.
        if self._buffered > max(BUFFER, len(self._keys)):
            self._merge()

    def result(self) -> tuple[Tensor, Tensor]:
        """All keys, ascending, and their counts."""
        self._merge()
        return self._keys, self._counts

    def clear(self) -> None:
        """Forget all counts."""
        self._keys, self._counts = (each.new_empty(0) for each in (self._keys, self._counts))
        self._buffer, self._buffered = [], 0

    def absorb(self, state: dict[str, Tensor]) -> None:
        """Add what another one has counted."""
        self._merge()
        device = self._keys.device
        self._add(state["keys"].to(device), state["counts"].to(device))

    def _merge(self) -> None:
        if not self._buffer:
            return
        keys, counts = torch.unique(torch.cat(self._buffer), return_counts=True)
        self._buffer, self._buffered = [], 0
        self._add(keys, counts)

    def _add(self, keys: Tensor, counts: Tensor) -> None:
        """Add counts of ascending keys, a range of keys after another: sorting takes several times
        the memory of what is sorted.
        """
        if not len(keys):
            return
        if not len(self._keys):
            self._keys, self._counts = keys, counts
            return
        most = torch.maximum(self._keys[-1], keys[-1])
        parts = -(-(len(self._keys) + len(keys)) // _AT_ONCE)
        edges = most // parts * torch.arange(1, parts, device=keys.device)
        mine, theirs = (
            [0, *torch.searchsorted(each, edges).tolist(), len(each)] for each in (self._keys, keys)
        )
        sums = []
        for (a, b), (c, d) in zip(pairwise(mine), pairwise(theirs), strict=True):
            some = torch.cat([self._keys[a:b], keys[c:d]])
            both, place = torch.unique(some, return_inverse=True)
            total = torch.zeros_like(both)
            total.scatter_add_(0, place, torch.cat([self._counts[a:b], counts[c:d]]))
            sums.append((both, total))
        self._keys, self._counts = (torch.cat(column) for column in zip(*sums, strict=True))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        keys, counts = self.result()
        return {"keys": keys, "counts": counts}

    def load(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        device = self._keys.device
        self._keys, self._counts = state["keys"].to(device), state["counts"].to(device)
        self._buffer, self._buffered = [], 0


def top_pairs(
    keys: Tensor, counts: Tensor, n_values: int, k: int, at_least: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Per feature the `k` most frequent values among those counted `at_least` times.

    `keys` are `feature * n_values + value`. Returns feature, value, count, sorted by feature, then
    falling count, then value.
    """
    enough = counts >= at_least
    keys, counts = keys[enough], counts[enough]
    feature, value = keys // n_values, keys % n_values
    # Sorted by key already, so two stable sorts do.
    order = counts.argsort(descending=True, stable=True)
    order = order[feature[order].argsort(stable=True)]
    feature, value, counts = feature[order], value[order], counts[order]
    keep = rank_in_group(feature) < k
    return feature[keep], value[keep], counts[keep]
