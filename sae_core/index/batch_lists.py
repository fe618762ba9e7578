"""A batch of tokens as the two lists that statistics are made from.

*Active* entries are all (feature, token) with an activation. *Near misses* are inactive entries
whose pre-activation exceeds a feature's bar, the least of those kept so far.

Where features depend on their own pre-activation alone, both are entries above one cut, the lower
of threshold and bar. While most features have no bar yet, and for architectures that decide by all
features of a token, the lists are made from whole arrays, of which each row's best near miss is
taken.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.index.half_product import fast_half
from sae_core.index.listed_entries import (
    Entries,
    Lists,
    PlacesAbove,
    PlainLists,
    block_size,
    feature_blocks,
    places_of,
)
from sae_core.index.screening import ScreenedLists
from sae_core.sae import SAE, JumpReLUSAE, ReLUSAE

_AT_ONCE = 2**14
"""Rows of features looked through together."""
_OPEN = 1 / 64
"""Share of features without a bar up to which entries above cuts are listed."""


@dataclass(frozen=True)
class BatchTokens:
    """The tokens that count of some rows, row after row."""

    x: Float[Tensor, "tokens d_model"]
    """float32."""
    row: Int[Tensor, " tokens"]
    """Number of its row, rising; some may be missing, as those that other processes count are."""
    column: Int[Tensor, " tokens"]
    """Place in the row, from 0; those of tokens that do not count are missing."""
    document: Int[Tensor, " tokens"]


class BatchLists:
    """Makes the lists of one SAE."""

    def __init__(self, sae: SAE, threshold: Float[Tensor, " d_sae"], near_misses: int) -> None:
        """`near_misses` is how many are kept of each feature."""
        self._sae, self._threshold, self._kept = sae, threshold, near_misses
        self.columnwise = isinstance(sae, JumpReLUSAE | ReLUSAE)
        """Whether what is active is what exceeds the threshold, with that value."""
        self._lists: Lists | None = None
        self._above = PlacesAbove()
        self._open = bool(near_misses)

    @property
    def opening(self) -> bool:
        """Whether lists are made from whole arrays until more features have a bar."""
        return self._open and self.columnwise

    def of(
        self,
        tokens: BatchTokens,
        bar: Float[Tensor, " d_sae"] | None,
        row_bar: Float[Tensor, " d_sae"] | None = None,
    ) -> tuple[Entries, Entries]:
        """Active entries, sorted by feature, then token; and near misses above `bar` (None: none
        are wanted), among which may be some that are not among the best of the batch. Those that
        are not the best of their document in this batch may be left out up to `row_bar`.
        """
        row_bar = bar if row_bar is None else row_bar
        if not self.columnwise:
            return self._from_arrays(tokens, bar, row_bar)
        if self.opening:
            assert bar is not None
            self._open = float(bar.isinf().float().mean()) > _OPEN
        if self._lists is None and not (self.opening and tokens.x.is_cuda):
            self._lists = self._chosen(tokens.x)
        if self.opening:
            return self._from_arrays(tokens, bar, row_bar)
        assert self._lists is not None
        cut = self._threshold if bar is None else torch.minimum(self._threshold, bar)
        entries = self._lists.above(tokens.x, cut)
        fired = entries.value > self._threshold[entries.feature]
        return entries[fired], entries[~fired]

    def release(self) -> None:
        """Free the copies of weights that lists are made with, until the next batch."""
        if isinstance(self._lists, ScreenedLists):
            self._lists.release()
        self._lists = None

    def _chosen(self, x: Tensor) -> Lists:
        dtype = fast_half(x.device)
        return PlainLists(self._sae) if dtype is None else ScreenedLists(self._sae, x, dtype)

    def _from_arrays(
        self, tokens: BatchTokens, bar: Tensor | None, row_bar: Tensor | None
    ) -> tuple[Entries, Entries]:
        # Arrays have a place for each row that is here, and for no other.
        row = tokens.row.unique_consecutive(return_inverse=True)[1]
        tokens = replace(tokens, row=row)
        active, near = [], []
        for features, first, part, pre, flat, acts in self._arrays(tokens):
            feature, token = flat // len(part.x), flat % len(part.x)
            value = acts[feature, token]
            active.append(Entries(feature + features.start, token + first, value))
            if bar is not None:
                assert row_bar is not None
                pre[feature, token] = -torch.inf
                misses = self._misses(part, pre, bar[features], row_bar[features])
                near.append(
                    Entries(misses.feature + features.start, misses.token + first, misses.value)
                )
        whole = Entries.cat(active)
        if not self.columnwise:
            whole = whole[(whole.feature * len(tokens.x) + whole.token).argsort()]
        missed = Entries.cat(near) if near else whole[whole.feature[:0]]
        if isinstance(self._lists, ScreenedLists):
            value = self._lists.values(tokens.x, missed.feature, missed.token)
            missed = replace(missed, value=value)
        return whole, missed

    def _arrays(
        self, tokens: BatchTokens
    ) -> Iterator[tuple[slice, int, BatchTokens, Tensor, Tensor, Tensor]]:
        """Pre-activations, the places of what is active and the activations there `[features,
        tokens]`: of some features and all tokens, or of all features and some rows; with these
        features, the first token, and the tokens. Pre-activations may be written to.
        """
        if self.columnwise:
            listed = None
            if isinstance(self._lists, ScreenedLists):
                # The numbers of later batches, so that which one a row is in changes none.
                listed = self._lists.above(tokens.x, self._threshold)
            for features, pre in feature_blocks(self._sae, tokens.x):
                if listed is None:
                    places = self._above.of(pre, self._threshold[features])
                else:
                    some = listed.of_features(features)
                    places = (some.feature - features.start) * len(tokens.x) + some.token
                    pre[some.feature - features.start, some.token] = some.value
                yield features, 0, tokens, pre, places, pre
            return
        counts = torch.bincount(tokens.row).tolist()
        step = max(1, block_size(tokens.x.device) // self._sae.cfg.d_sae)
        first = 0
        for count in _grouped(counts, step):
            some = slice(first, first + count)
            part = BatchTokens(
                tokens.x[some],
                tokens.row[some] - tokens.row[first],
                tokens.column[some],
                tokens.document[some],
            )
            pre = self._sae.pre_acts(part.x)
            acts = self._sae.activate(pre).T
            yield slice(0, self._sae.cfg.d_sae), first, part, pre.T, places_of(acts > 0), acts
            first += count

    def _misses(self, tokens: BatchTokens, pre: Tensor, bar: Tensor, row_bar: Tensor) -> Entries:
        """Of `pre [features, tokens]`, -inf where active, each row's largest if it may be kept;
        rows are numbered from 0, none missing.
        """
        largest, token_of = _largest_of_rows(tokens, pre)
        # What is not among the best documents of these rows is not among the best of all.
        starts = tokens.row.diff(prepend=tokens.row.new_full((1,), -1)) > 0
        document = tokens.document[starts].unique(return_inverse=True)[1]
        by_document = pre.new_full((len(pre), int(document.max()) + 1), -torch.inf)
        by_document.scatter_reduce_(1, document.expand(len(pre), -1), largest, "amax")
        leads = largest == by_document[:, document]
        keep = self._among_best(largest, row_bar)
        keep |= self._among_best(by_document, bar)[:, document] & leads
        place = places_of(keep)
        feature, row = place // keep.shape[1], place % keep.shape[1]
        return Entries(feature, token_of(feature, row), largest[feature, row])

    def _among_best(self, values: Tensor, bar: Tensor) -> Tensor:
        """Which `values [features, units]` exceed the feature's bar and are among the best of their
        feature here.
        """
        among = values > bar[:, None]
        if values.shape[1] > self._kept:
            last = values.topk(self._kept, dim=1).values[:, -1:]
            among &= values >= last
        return among


def _largest_of_rows(
    tokens: BatchTokens, pre: Tensor
) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """Largest of each row of tokens in `pre [features, tokens]`, `[features, rows]`; and what says
    of some (feature, row) which token that is, the first if there are several.
    """
    rows, n = int(tokens.row[-1]) + 1, len(tokens.x)
    if pre.device.type == "cpu":
        # Here only tokens that are asked for are looked for, and nothing is padded.
        ends = torch.bincount(tokens.row).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        offsets = torch.arange(int((ends - starts).max()))

        def found(feature: Tensor, row: Tensor) -> Tensor:
            parts = [feature[:0]]
            for f, r in zip(feature.split(_AT_ONCE), row.split(_AT_ONCE), strict=True):
                place = torch.minimum(starts[r, None] + offsets, ends[r, None] - 1)
                same = pre[f[:, None], place] == largest[f, r, None]
                parts.append(starts[r] + same.byte().argmax(1))
            return torch.cat(parts)

        largest = torch.from_numpy(np.maximum.reduceat(pre.numpy(), starts.numpy(), axis=1))
        return largest, found
    length = int(tokens.column.max()) + 1
    whole = pre.new_full((len(pre), rows * length), -torch.inf)
    whole[:, tokens.row * length + tokens.column] = pre
    largest, column = whole.view(len(pre), rows, length).max(2)
    where = torch.zeros(rows * length, dtype=torch.int64, device=pre.device)
    where[tokens.row * length + tokens.column] = torch.arange(n, device=pre.device)
    return largest, lambda feature, row: where[row * length + column[feature, row]]


def _grouped(counts: list[int], most: int) -> Iterator[int]:
    """Sums of neighbouring counts, each at most `most` unless it is of one count alone."""
    total = 0
    for count in counts:
        if total and total + count > most:
            yield total
            total = 0
        total += count
    if total:
        yield total
