"""From pre-activations to the list of entries that matter, in Triton.

The pre-activations are read once: `_mark` leaves a bit for each, 32 tokens of a feature to a word,
set if the entry is active or near. `_count` and `_list` read the words, 1/16 of the bytes, and make
the list by feature, tokens ascending. Each active entry is then given a place in its token's list;
places are drawn in whatever order programs run, so `_rank` puts each token's entries in the order
of features: what comes out, and all that is summed in its order, is the same every time.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false

from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from training.kernels.entries import SLACK, Entries, Lists, Objective, starts
from training.kernels.order import longest_first

# Features of a program; a word of each.
_MARK = {"BLOCK": 512, "num_warps": 4}
# Words of a column: 1,024 tokens.
_SEGMENT = 32
_COUNT = {"SEGMENT": _SEGMENT, "BLOCK": 32, "num_warps": 4}
# Besides, words taken at once.
_LIST = {"SEGMENT": _SEGMENT, "ROWS": 4, "BLOCK": 32, "num_warps": 1}
_SCATTER = {"BLOCK": 512, "num_warps": 4}
_RANK = {"BLOCK": 64, "num_warps": 4}
_SHARES = 8
"""Programs of a token's list: a list of average length keeps one of them busy."""


@triton.jit
def _mark(z, b_enc, threshold, words, batch, d_sae, reach, slack, BLOCK: tl.constexpr):
    """Bits of 32 tokens of BLOCK features: set if the entry is active or near."""
    group = tl.program_id(1)
    f = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = f < d_sae
    b = tl.load(b_enc + f, mask=inside, other=0.0)
    theta = tl.load(threshold + f, mask=inside, other=0.0)
    cut = theta - reach - b - slack * (tl.abs(b) + theta + reach)
    bits = tl.zeros([BLOCK], tl.int32)
    for i in tl.static_range(32):
        token = (group * 32 + i).to(tl.int64)
        x = tl.load(z + token * d_sae + f, mask=inside & (token < batch), other=float("-inf"))
        bits |= tl.where(x.to(tl.float32) > cut, (1 << i) if i < 31 else -(1 << 31), 0)
    tl.store(words + group.to(tl.int64) * d_sae + f, bits, mask=inside)


@triton.jit
def _popcount(words):
    """Bits set in each of 32-bit `words`."""
    w = words.to(tl.uint32, bitcast=True)
    w = w - ((w >> 1) & 0x55555555)
    w = (w & 0x33333333) + ((w >> 2) & 0x33333333)
    w = (w + (w >> 4)) & 0x0F0F0F0F
    w = w + (w >> 8)
    return ((w + (w >> 16)) & 0x3F).to(tl.int32)


@triton.jit
def _place(bit):
    """The place of the one bit set in each of 32-bit words: the exponent of its power of two."""
    power = bit.to(tl.uint32, bitcast=True).to(tl.float32)
    return (power.to(tl.int32, bitcast=True) >> 23) - 127


@triton.jit
def _count(
    words, counts, d_sae, words_per_column, segments, SEGMENT: tl.constexpr, BLOCK: tl.constexpr
):
    """Entries of BLOCK features in one segment of tokens."""
    f = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    segment = tl.program_id(1)
    row = (segment * SEGMENT + tl.arange(0, SEGMENT))[:, None]
    bits = tl.load(
        words + row.to(tl.int64) * d_sae + f[None, :],
        mask=(row < words_per_column) & (f < d_sae)[None, :],
        other=0,
    )
    tl.store(counts + f * segments + segment, tl.sum(_popcount(bits), axis=0), mask=f < d_sae)


@triton.jit
def _list(
    z,
    b_enc,
    threshold,
    words,
    start,
    owner,
    token,
    value,
    slot,
    row_counts,
    d_sae,
    words_per_column,
    segments,
    room,
    SEGMENT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The entries of BLOCK features in one segment of tokens, and a slot for each active one."""
    f = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    segment = tl.program_id(1)
    inside = f < d_sae
    position = tl.load(start + f * segments + segment, mask=inside, other=0)
    b = tl.load(b_enc + f, mask=inside, other=0.0)[None, :]
    theta = tl.load(threshold + f, mask=inside, other=0.0)[None, :]
    for first in range(segment * SEGMENT, segment * SEGMENT + SEGMENT, ROWS):
        row = (first + tl.arange(0, ROWS))[:, None]
        left = tl.load(
            words + row.to(tl.int64) * d_sae + f[None, :],
            mask=(row < words_per_column) & inside[None, :],
            other=0,
        )
        n = _popcount(left)
        at = position[None, :] + tl.cumsum(n, axis=0) - n
        for _ in range(tl.max(tl.max(n, axis=1), axis=0)):
            listed = (left != 0) & (at < room)
            t = row * 32 + _place(left & (0 - left))
            x = tl.load(z + t.to(tl.int64) * d_sae + f[None, :], mask=listed, other=0.0)
            x = x.to(tl.float32) + b
            active = listed & (x > theta)
            tl.store(owner + at, tl.broadcast_to(f[None, :], [ROWS, BLOCK]), mask=listed)
            tl.store(token + at, t, mask=listed)
            tl.store(value + at, x, mask=listed)
            mine = tl.atomic_add(row_counts + t, 1, mask=active, sem="relaxed")
            tl.store(slot + at, tl.where(active, mine, -1), mask=listed)
            left = left & (left - 1)
            at += 1
        position += tl.sum(n, axis=0)


@triton.jit
def _scatter(
    total,
    owner,
    token,
    value,
    slot,
    row_start,
    feature,
    act,
    room,
    PLACES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The active ones of BLOCK entries, each to its slot in its token's list: activations, or with
    PLACES where the entries are in the list by feature.
    """
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    listed = entry < tl.minimum(tl.load(total), room)
    mine = tl.load(slot + entry, mask=listed, other=-1)
    active = mine >= 0
    t = tl.load(token + entry, mask=active, other=0)
    at = tl.load(row_start + t, mask=active, other=0) + mine
    tl.store(feature + at, tl.load(owner + entry, mask=active, other=0), mask=active)
    kept = entry
    if not PLACES:
        kept = tl.load(value + entry, mask=active, other=0.0)
    tl.store(act + at, kept.to(act.dtype.element_ty), mask=active)


@triton.jit
def _rank(row_start, feature, act, ranked_feature, ranked_act, BLOCK: tl.constexpr):
    """A share of one token's active entries, each placed by how many features come before."""
    token = tl.program_id(0)
    first = tl.load(row_start + token)
    end = tl.load(row_start + token + 1)
    for i in range(first + tl.program_id(1) * BLOCK, end, tl.num_programs(1) * BLOCK):
        here = i + tl.arange(0, BLOCK)
        mine = tl.load(feature + here, mask=here < end, other=0)
        before = tl.zeros([BLOCK, BLOCK], tl.int32)
        for j in range(first, end, BLOCK):
            there = j + tl.arange(0, BLOCK)
            other = tl.load(feature + there, mask=there < end, other=2147483647)
            before += (other[None, :] < mine[:, None]).to(tl.int32)
        at = first + tl.sum(before, axis=1)
        tl.store(ranked_feature + at, mine, mask=here < end)
        a = tl.load(act + here, mask=here < end, other=0.0)
        tl.store(ranked_act + at, a, mask=here < end)


def select(
    z: Float[Tensor, "batch d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    threshold: Float[Tensor, " d_sae"],
    objective: Objective,
    room: int,
) -> Entries:
    """As `plain.select`; entries beyond `room` are left out of the lists but counted."""
    # Nobody looks at what is not used of the lists.
    lists = _lists(z, b_enc, threshold, objective.reach, room, z.dtype, torch.empty)
    return Entries(
        row_start=lists.row_start,
        feature=lists.feature,
        act=lists.kept,
        column_start=lists.column_start,
        token=lists.token,
        z=lists.value,
    )


def above(
    z: Float[Tensor, "batch d_sae"],
    bias: Float[Tensor, " d_sae"],
    threshold: Float[Tensor, " d_sae"],
    room: int,
) -> Lists:
    """As `plain_lists.above`; entries beyond `room` are left out of the lists but counted."""
    lists = _lists(z, bias, threshold, 0.0, room, torch.int32, torch.zeros)
    return Lists(
        row_start=lists.row_start,
        feature=lists.feature,
        place=lists.kept,
        column_start=lists.column_start,
        owner=lists.owner,
        token=lists.token,
        z=lists.value,
        order=longest_first(lists.column_start),
    )


class _BothLists(NamedTuple):
    row_start: Tensor
    feature: Tensor
    kept: Tensor
    """By token: activations, or as integers places in the lists by feature."""
    column_start: Tensor
    owner: Tensor
    token: Tensor
    value: Tensor


def _lists(
    z: Tensor,
    bias: Tensor,
    threshold: Tensor,
    reach: float,
    room: int,
    kept: torch.dtype,
    new: Callable[..., Tensor],
) -> _BothLists:
    """Both lists; `kept`: format of what is kept of an entry by token; `new` makes them."""
    batch, d_sae = z.shape
    assert batch * d_sae < 2**31, "the number of entries must fit into 32 bits"
    words_per_column = triton.cdiv(batch, 32)
    segments = triton.cdiv(words_per_column, _SEGMENT)

    def features(launch: dict[str, int]) -> int:
        return triton.cdiv(d_sae, launch["BLOCK"])

    def listed(dtype: torch.dtype = torch.int32) -> Tensor:
        return new(room, dtype=dtype, device=z.device)

    words = torch.empty(words_per_column * d_sae, dtype=torch.int32, device=z.device)
    _mark[features(_MARK), words_per_column](
        z, bias, threshold, words, batch, d_sae, reach, SLACK, **_MARK
    )
    counts = torch.zeros(d_sae * segments + 1 + batch + 1, dtype=torch.int32, device=z.device)
    in_segment, in_row = counts.split([d_sae * segments + 1, batch + 1])
    _count[features(_COUNT), segments](
        words, in_segment[1:], d_sae, words_per_column, segments, **_COUNT
    )
    start = starts(in_segment)
    owner, token, slot = listed(), listed(), listed()
    value = listed(torch.float32)
    _list[features(_LIST), segments](
        z,
        bias,
        threshold,
        words,
        start,
        owner,
        token,
        value,
        slot,
        in_row[1:],
        d_sae,
        words_per_column,
        segments,
        room,
        **_LIST,
    )
    row_start = starts(in_row)
    feature, ranked_feature = listed(), listed()
    unranked, ranked = listed(kept), listed(kept)
    _scatter[(triton.cdiv(room, _SCATTER["BLOCK"]),)](
        start[-1:],
        owner,
        token,
        value,
        slot,
        row_start,
        feature,
        unranked,
        room,
        PLACES=kept == torch.int32,
        **_SCATTER,
    )
    _rank[batch, _SHARES](row_start, feature, unranked, ranked_feature, ranked, **_RANK)
    return _BothLists(
        row_start=row_start,
        feature=ranked_feature,
        kept=ranked,
        column_start=start[::segments].contiguous(),
        owner=owner,
        token=token,
        value=value,
    )
