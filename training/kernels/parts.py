"""`decode` in two parts, for a reconstruction that several processes add up, in Triton.

The sum over the active entries is taken as in `decode`, and kept in float32 for the sum over
processes; the error follows from that. In one process `decode` does both at once.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from training.kernels.entries import Entries, Residual

_PART = {"BLOCK": 256, "UNROLL": 16, "num_warps": 1}
_RESIDUAL = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def _partial(
    start, feature, act, W_dec, recon, d_model, room, BLOCK: tl.constexpr, UNROLL: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < d_model
    first = tl.load(start + token)
    end = tl.minimum(tl.load(start + token + 1), room)
    total = tl.zeros([BLOCK], tl.float32)
    for i in range(first, end, UNROLL):
        for j in tl.static_range(UNROLL):
            listed = i + j < end
            f = tl.load(feature + i + j, mask=listed, other=0).to(tl.int64)
            a = tl.load(act + i + j, mask=listed, other=0.0).to(tl.float32)
            row = tl.load(W_dec + f * d_model + d, mask=inside & listed, other=0.0)
            total += a * row.to(tl.float32)
    tl.store(recon + token * d_model + d, total, mask=inside)


def partial_recon(
    entries: Entries, W_dec: Float[Tensor, "d_sae d_model"]
) -> Float[Tensor, "batch d_model"]:
    """As `shards.partial_recon`."""
    batch, d_model = len(entries.row_start) - 1, W_dec.shape[1]
    recon = torch.empty(batch, d_model, dtype=torch.float32, device=W_dec.device)
    _partial[batch, triton.cdiv(d_model, _PART["BLOCK"])](
        entries.row_start,
        entries.feature,
        entries.act,
        W_dec,
        recon,
        d_model,
        len(entries.feature),
        **_PART,
    )
    return recon


@triton.jit
def _residual(recon, b_dec, raw, scale, mean, gradient, sums, batch, d_model, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    d = part * BLOCK + tl.arange(0, BLOCK)
    inside = d < d_model
    at = token * d_model + d
    x = tl.load(raw + at, mask=inside, other=0.0).to(tl.float32)
    x = tl.div_rn(x, tl.load(scale))
    error = tl.load(recon + at, mask=inside, other=0.0)
    error += tl.load(b_dec + d, mask=inside, other=0.0) - x
    away = x - tl.load(mean + d, mask=inside, other=0.0)
    scaled = (2.0 / batch) * error
    tl.store(gradient + at, scaled.to(gradient.dtype.element_ty), mask=inside)
    mine = sums + 2 * (part * batch + token)
    tl.store(mine, tl.sum(error * error, axis=0))
    tl.store(mine + 1, tl.sum(away * away, axis=0))


def residual(
    recon: Float[Tensor, "batch d_model"],
    b_dec: Float[Tensor, " d_model"],
    raw: Float[Tensor, "batch d_model"],
    scale: Float[Tensor, ""],
    mean: Float[Tensor, " d_model"],
    products: torch.dtype,
) -> Residual:
    """As `shards.residual`."""
    batch, d_model = raw.shape
    slices = triton.cdiv(d_model, _RESIDUAL["BLOCK"])
    gradient = torch.empty(batch, d_model, dtype=products, device=raw.device)
    sums = torch.empty(slices * batch, 2, dtype=torch.float32, device=raw.device)
    _residual[batch, slices](
        recon, b_dec, raw, scale, mean, gradient, sums, batch, d_model, **_RESIDUAL
    )
    return Residual(gradient, sums)
