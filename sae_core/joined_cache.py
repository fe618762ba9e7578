"""Keys and values of texts of several lengths as rows of one cache, ready for a token each.

Rows end at the same column, and what a shorter one has before its first token is hidden by a mask:

    columns   0 1 2 3 4 5 | 6
    row 0     a b c d e f | g
    row 1     . . . x y z | w

So a sliding window, which counts columns, counts every row's own tokens, and each attention that
knows padding on the left can be used. Positions are told to the model row by row. New keys are
written in place; there is room for some, and the cache is laid anew when texts come or go.

Importing it imports transformers, so those who need it import it when they do.
"""

import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from sae_core.attention import CHUNKED
from sae_core.prefix_cache import keeps_keys

ROOM: Final = 64
"""Columns for new tokens; the cache is laid anew when they are used up."""
ATTENTIONS: Final = ("eager", "sdpa", CHUNKED)
"""Those that take a mask of padding with a cache."""

Keys = list[tuple[Tensor, Tensor]]
"""Keys and values `[rows, heads, pos, width]` of each block."""


def joins(model: Any) -> bool:
    """Whether texts can be joined in this model: its cache is one of keys and values, it takes
    positions and a mask, and its attention knows padding.
    """
    taken = inspect.signature(model.forward).parameters
    return (
        keeps_keys(model)
        and {"position_ids", "attention_mask"} <= set(taken)
        and model.config.get_text_config()._attn_implementation in ATTENTIONS
    )


class JoinedCache(Cache):
    """The rows of `texts`, one group after another; those of a group are of one length. `kept` are
    groups of another cache, which come before them.
    """

    layers: list["_Joined"]

    def __init__(
        self, texts: Sequence[Keys], kept: "tuple[JoinedCache, Sequence[int]] | None" = None
    ) -> None:
        groups = [(len(keys[0][0]), keys[0][0].shape[2]) for keys in texts]
        # One block after another, so that what is copied twice is one block's.
        blocks: Iterable[tuple[tuple[Tensor, Tensor], ...]] = zip(*texts, strict=True)
        if kept is not None:
            earlier, numbers = kept
            groups = [(earlier._rows[n], earlier._lengths[n]) for n in numbers] + groups
            blocks = zip(earlier._blocks(numbers), *texts, strict=True)
        device = texts[0][0][0].device if kept is None else kept[0]._shown.device
        self._rows, self._lengths = [rows for rows, _ in groups], [n for _, n in groups]
        self._end = max(self._lengths)
        self._most = self._end + ROOM
        super().__init__(layers=[_Joined(block, self._end, self._most) for block in blocks])
        lengths = [
            n for n, rows in zip(self._lengths, self._rows, strict=True) for _ in range(rows)
        ]
        column = torch.arange(self._most, device=device)
        self._shown = column >= self._end - torch.tensor(lengths, device=device)[:, None]

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another token."""
        return self._end == self._most

    @property
    def mask(self) -> Bool[Tensor, "rows columns"]:
        """What the next token of each row may see, itself included."""
        return self._shown[:, : self._end + 1]

    def advance(self) -> None:
        """Keep the keys of the token that has been run; until then it may be run again."""
        self._end += 1
        self._lengths = [length + 1 for length in self._lengths]
        for layer in self.layers:
            layer.end = self._end

    def _blocks(self, groups: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values of these groups in each block, moved at once."""
        ends = list(itertools.accumulate(self._rows))
        numbers = [n for g in groups for n in range(ends[g] - self._rows[g], ends[g])]
        rows = torch.tensor(numbers, device=self._shown.device)
        columns = slice(self._end - max(self._lengths[g] for g in groups), self._end)
        for layer in self.layers:
            yield layer.keys[rows, :, columns], layer.values[rows, :, columns]


class _Joined(DynamicLayer):
    """One block's. Windows are the mask's matter."""

    keys: Tensor
    values: Tensor

    def __init__(self, texts: Sequence[tuple[Tensor, Tensor]], end: int, most: int) -> None:
        super().__init__()
        self.lazy_initialization(*texts[0])
        self.keys = _laid([keys for keys, _ in texts], end, most)
        self.values = _laid([values for _, values in texts], end, most)
        self.end = end

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """All that there is, with these in the next column."""
        stop = self.end + key_states.shape[2]
        self.keys[:, :, self.end : stop] = key_states
        self.values[:, :, self.end : stop] = value_states
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.end


def _laid(texts: Sequence[Tensor], end: int, most: int) -> Tensor:
    """Texts' keys or values below one another, each ending before column `end` of `most`."""
    _, heads, _, width = texts[0].shape
    # Zeros, since what is hidden is still multiplied: by 0.
    laid = texts[0].new_zeros(sum(map(len, texts)), heads, most, width)
    first = 0
    for text in texts:
        laid[first : first + len(text), :, end - text.shape[2] : end] = text
        first += len(text)
    return laid
