"""The reconstruction from the active entries, and its error, in Triton.

A program sums up a slice of one token's reconstruction. Programs go through all tokens before the
next slice, so that a slice of W_dec (65,536 x 256 in bfloat16: 34 MB) is read from memory once and
then found in the cache.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from training.kernels.entries import Entries, Residual

# Numbers of a slice, and rows of W_dec on their way at once.
_DECODE = {"BLOCK": 256, "UNROLL": 16, "num_warps": 1}
_CENTRE = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def _centre(raw, scale, b_dec, out, d_model, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < d_model
    x = tl.load(raw + token * d_model + d, mask=inside, other=0.0).to(tl.float32)
    x = tl.div_rn(x, tl.load(scale)) - tl.load(b_dec + d, mask=inside, other=0.0)
    tl.store(out + token * d_model + d, x.to(out.dtype.element_ty), mask=inside)


def centre(
    raw: Float[Tensor, "batch d_model"],
    scale: Float[Tensor, ""],
    b_dec: Float[Tensor, " d_model"],
    products: torch.dtype,
) -> Float[Tensor, "batch d_model"]:
    """As `plain.centre`."""
    batch, d_model = raw.shape
    out = torch.empty(batch, d_model, dtype=products, device=raw.device)
    slices = triton.cdiv(d_model, _CENTRE["BLOCK"])
    _centre[batch, slices](raw, scale, b_dec, out, d_model, **_CENTRE)
    return out


@triton.jit
def _decode(
    start,
    feature,
    act,
    W_dec,
    b_dec,
    raw,
    scale,
    mean,
    gradient,
    sums,
    batch,
    d_model,
    room,
    BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    d = part * BLOCK + tl.arange(0, BLOCK)
    inside = d < d_model
    first = tl.load(start + token)
    end = tl.minimum(tl.load(start + token + 1), room)
    recon = tl.zeros([BLOCK], tl.float32)
    for i in range(first, end, UNROLL):
        for j in tl.static_range(UNROLL):
            listed = i + j < end
            f = tl.load(feature + i + j, mask=listed, other=0).to(tl.int64)
            a = tl.load(act + i + j, mask=listed, other=0.0).to(tl.float32)
            row = tl.load(W_dec + f * d_model + d, mask=inside & listed, other=0.0)
            recon += a * row.to(tl.float32)
    x = tl.load(raw + token * d_model + d, mask=inside, other=0.0).to(tl.float32)
    x = tl.div_rn(x, tl.load(scale))
    error = recon + tl.load(b_dec + d, mask=inside, other=0.0) - x
    away = x - tl.load(mean + d, mask=inside, other=0.0)
    scaled = (2.0 / batch) * error
    tl.store(gradient + token * d_model + d, scaled.to(gradient.dtype.element_ty), mask=inside)
    mine = sums + 2 * (part * batch + token)
    tl.store(mine, tl.sum(error * error, axis=0))
    tl.store(mine + 1, tl.sum(away * away, axis=0))


def decode(
    entries: Entries,
    W_dec: Float[Tensor, "d_sae d_model"],
    b_dec: Float[Tensor, " d_model"],
    raw: Float[Tensor, "batch d_model"],
    scale: Float[Tensor, ""],
    mean: Float[Tensor, " d_model"],
) -> Residual:
    """As `plain.decode`."""
    batch, d_model = raw.shape
    slices = triton.cdiv(d_model, _DECODE["BLOCK"])
    gradient = torch.empty(batch, d_model, dtype=W_dec.dtype, device=raw.device)
    sums = torch.empty(slices * batch, 2, dtype=torch.float32, device=raw.device)
    _decode[batch, slices](
        entries.row_start,
        entries.feature,
        entries.act,
        W_dec,
        b_dec,
        raw,
        scale,
        mean,
        gradient,
        sums,
        batch,
        d_model,
        len(entries.feature),
        **_DECODE,
    )
    return Residual(gradient, sums)
