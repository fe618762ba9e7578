"""Sums over lists of entries for losses that autograd differentiates, in Triton.

What `decoder` and `encoder` do in one pass with the update is done here without it, for rules that
must know all gradients first (clipping) or move every row (a first moment): the gradients of both
matrices are written to memory, rows without entries as zeros.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from training.kernels.entries import Lists
from training.kernels.order import decoder_launch

# Numbers of a slice, and entries on their way at once.
_ENCODER = {"BLOCK": 256, "UNROLL": 8, "num_warps": 1}
_SUMS = {"BLOCK": 64, "num_warps": 1}
_GROUPS = {"BLOCK": 64, "num_warps": 4}


@triton.jit
def _decoder(
    order,
    start,
    token,
    act,
    d_act,
    rows,
    W_dec,
    along,
    d_W,
    d_model,
    room,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
    WEIGHTS: tl.constexpr,
    ALONG: tl.constexpr,
):
    """One feature: <rows[t], W_dec[f]> of its entries, and with WEIGHTS the sum of act_t rows[t],
    with ALONG a multiple of W_dec[f] more. A row is held as in `decoder.update_decoder`.
    """
    f = tl.load(order + tl.program_id(0)).to(tl.int64)
    first = tl.load(start + f)
    end = tl.minimum(tl.load(start + f + 1), room)
    some = first < end
    row = f * d_model
    h = tl.arange(0, HEAD)
    t = HEAD + tl.arange(0, TAIL)
    in_h = h < d_model
    in_t = t < d_model
    w_h = tl.load(W_dec + row + h, mask=in_h & some, other=0.0, eviction_policy="evict_first")
    w_t = tl.load(W_dec + row + t, mask=in_t & some, other=0.0, eviction_policy="evict_first")
    dw_h = tl.zeros([HEAD], tl.float32)
    dw_t = tl.zeros([TAIL], tl.float32)
    at = tl.load(token + first, mask=some, other=0).to(tl.int64) * d_model
    next_h = tl.load(rows + at + h, mask=in_h & some, other=0.0)
    next_t = tl.load(rows + at + t, mask=in_t & some, other=0.0)
    at = tl.load(token + first + 1, mask=first + 1 < end, other=0).to(tl.int64) * d_model
    for i in range(first, end):
        # The next entry's numbers are on their way while this one's are added up.
        g_h = next_h.to(tl.float32)
        g_t = next_t.to(tl.float32)
        more = i + 1 < end
        next_h = tl.load(rows + at + h, mask=in_h & more, other=0.0)
        next_t = tl.load(rows + at + t, mask=in_t & more, other=0.0)
        at = tl.load(token + i + 2, mask=i + 2 < end, other=0).to(tl.int64) * d_model
        tl.store(d_act + i, tl.sum(g_h * w_h, axis=0) + tl.sum(g_t * w_t, axis=0))
        if WEIGHTS:
            a = tl.load(act + i).to(tl.float32)
            dw_h += a * g_h
            dw_t += a * g_t
    if WEIGHTS:
        if ALONG:
            # A feature without entries has no part in any sum, and no gradient along its row.
            share = tl.load(along + f)
            dw_h += share * w_h
            dw_t += share * w_t
        tl.store(d_W + row + h, dw_h, mask=in_h)
        tl.store(d_W + row + t, dw_t, mask=in_t)


def decoder_gradients(
    lists: Lists,
    act: Float[Tensor, " room"] | None,
    rows: Float[Tensor, "batch d_model"],
    W_dec: Float[Tensor, "d_sae d_model"],
    along: Float[Tensor, " d_sae"] | None = None,
) -> tuple[Float[Tensor, " room"], Float[Tensor, "d_sae d_model"] | None]:
    """As `plain_lists.decoder_gradients`; `along` must be 0 for features without entries."""
    d_sae, d_model = W_dec.shape
    d_act = torch.zeros_like(lists.z)
    d_W = None if act is None else torch.empty_like(W_dec)
    _decoder[(d_sae,)](
        lists.order,
        lists.column_start,
        lists.token,
        d_act if act is None else act,
        d_act,
        rows,
        W_dec,
        d_act if along is None else along,
        d_act if d_W is None else d_W,
        d_model,
        len(lists.token),
        WEIGHTS=act is not None,
        ALONG=along is not None,
        **decoder_launch(d_model),
    )
    return d_act, d_W


@triton.jit
def _encoder(
    order,
    start,
    token,
    d_z,
    centred,
    out,
    d_model,
    room,
    BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """A slice of one feature's row; all features before the next slice."""
    f = tl.load(order + tl.program_id(0)).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < d_model
    first = tl.load(start + f)
    end = tl.minimum(tl.load(start + f + 1), room)
    total = tl.zeros([BLOCK], tl.float32)
    for i in range(first, end, UNROLL):
        for j in tl.static_range(UNROLL):
            listed = i + j < end
            slope = tl.load(d_z + i + j, mask=listed, other=0.0)
            slope = slope.to(centred.dtype.element_ty).to(tl.float32)
            t = tl.load(token + i + j, mask=listed, other=0).to(tl.int64)
            c = tl.load(centred + t * d_model + d, mask=inside & listed, other=0.0)
            total += slope * c.to(tl.float32)
    tl.store(out + f * d_model + d, total, mask=inside)


def encoder_gradient(
    lists: Lists, d_z: Float[Tensor, " room"], centred: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "d_sae d_model"]:
    """As `plain_lists.encoder_gradient`."""
    d_sae, d_model = len(lists.order), centred.shape[1]
    out = torch.empty(d_sae, d_model, device=centred.device)
    _encoder[d_sae, triton.cdiv(d_model, _ENCODER["BLOCK"])](
        lists.order,
        lists.column_start,
        lists.token,
        d_z.contiguous(),
        centred,
        out,
        d_model,
        len(lists.token),
        **_ENCODER,
    )
    return out


@triton.jit
def _sums(start, values, out, room, BLOCK: tl.constexpr):
    f = tl.program_id(0)
    first = tl.load(start + f)
    end = tl.minimum(tl.load(start + f + 1), room)
    total = tl.zeros([BLOCK], tl.float32)
    for i in range(first, end, BLOCK):
        at = i + tl.arange(0, BLOCK)
        total += tl.load(values + at, mask=at < end, other=0.0)
    tl.store(out + f, tl.sum(total, axis=0))


def sums(lists: Lists, values: Float[Tensor, " room"]) -> Float[Tensor, " d_sae"]:
    """As `plain_lists.sums`."""
    d_sae = len(lists.order)
    out = torch.empty(d_sae, device=values.device)
    _sums[(d_sae,)](lists.column_start, values.contiguous(), out, len(lists.token), **_SUMS)
    return out


@triton.jit
def _maxima(z, bias, out, d_sae, groups, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    f = group[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    inside = f < d_sae
    x = tl.load(z + token * d_sae + f, mask=inside, other=float("-inf")).to(tl.float32)
    x += tl.load(bias + f, mask=inside, other=0.0)
    tl.store(out + token * groups + group, tl.max(x, axis=1), mask=group < groups)


def group_maxima(
    z: Float[Tensor, "batch d_sae"], bias: Float[Tensor, " d_sae"], size: int
) -> Float[Tensor, "batch groups"]:
    """As `plain_lists.group_maxima`, for sizes that are powers of two."""
    batch, d_sae = z.shape
    groups = triton.cdiv(d_sae, size)
    out = torch.empty(batch, groups, device=z.device)
    _maxima[batch, triton.cdiv(groups, _GROUPS["BLOCK"])](
        z, bias, out, d_sae, groups, SIZE=size, **_GROUPS
    )
    return out
