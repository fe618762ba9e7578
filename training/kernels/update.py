"""The update of both matrices from the entries: `decoder`, then `encoder`."""

# pyright: reportMissingImports=false, reportIndexIssue=false

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from training.kernels.decoder import row_blocks, update_decoder
from training.kernels.encoder import update_encoder
from training.kernels.entries import Entries, Gathered, Objective, Residual, Weights
from training.optim import BETA2, EPS, Control
from training.step import Setting

_CONSTANTS = {"BETA2": BETA2, "LOG2_BETA2": math.log2(BETA2), "EPS": EPS}
# Numbers of a slice, and entries on their way at once.
_ENCODER = {"BLOCK": 256, "UNROLL": 4, "num_warps": 1}
_GROUPS = 1024
"""Programs that share the features of one slice."""
_LENGTHS = {"BLOCK": 1024, "num_warps": 4}
_A_THREAD = 72
"""Numbers of a decoder's row that a thread holds, and as many of its gradient: 2,304 are a warp's,
which then adds up without waiting for others."""


def _decoder_launch(d_model: int) -> dict[str, int]:
    head, tail = row_blocks(d_model)
    warps = triton.next_power_of_2(triton.cdiv(head + tail, 32 * _A_THREAD))
    return {"HEAD": head, "TAIL": tail, "num_warps": warps}


@triton.jit
def _lengths(start, lengths, d_sae, BLOCK: tl.constexpr):
    """How many entries each feature has, up to 255."""
    f = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = f < d_sae
    n = tl.load(start + f + 1, mask=inside, other=0) - tl.load(start + f, mask=inside, other=0)
    tl.store(lengths + f, tl.minimum(n, 255).to(tl.uint8), mask=inside)


def _longest_first(column_start: Int[Tensor, " d_sae_1"]) -> Int[Tensor, " d_sae"]:
    """Features in the order of their number of entries (a byte: sorting takes one pass over it)."""
    d_sae = len(column_start) - 1
    lengths = torch.empty(d_sae, dtype=torch.uint8, device=column_start.device)
    _lengths[(triton.cdiv(d_sae, _LENGTHS["BLOCK"]),)](column_start, lengths, d_sae, **_LENGTHS)
    return lengths.sort(descending=True, stable=True).indices


def update_rows(
    entries: Entries,
    residual: Residual,
    centred: Float[Tensor, "batch d_model"],
    weights: Weights,
    threshold: Float[Tensor, " d_sae"],
    setting: Setting,
    objective: Objective,
    multiplier: Float[Tensor, ""],
    control: Control,
) -> Gathered:
    """As `plain.update_rows`; `Gathered` is undefined if the entries do not fit."""
    batch, d_model = centred.shape
    d_sae = len(threshold)
    room = len(entries.token)
    order = _longest_first(entries.column_start)
    gathered = torch.empty(4, d_sae, device=centred.device)
    d_z = torch.empty_like(entries.z)
    copy = weights.enc_products.dtype != torch.float32
    update_decoder[(d_sae,)](
        order,
        entries.column_start,
        entries.token,
        entries.z,
        d_z,
        entries.row_start[-1:],
        residual.gradient,
        threshold,
        weights.W_dec,
        weights.v_dec,
        weights.dec_products,
        weights.touched,
        control,
        setting.coefficient,
        setting.target,
        multiplier,
        gathered,
        batch,
        d_model,
        d_sae,
        room,
        objective.bandwidth,
        KERNEL=objective.kernel,
        TARGETED=objective.targeted,
        COPY=copy,
        **_CONSTANTS,
        **_decoder_launch(d_model),
    )
    groups = min(_GROUPS, d_sae)
    through_encoder = torch.empty(groups, d_model, device=centred.device)
    update_encoder[triton.cdiv(d_model, _ENCODER["BLOCK"]), groups](
        order,
        entries.column_start,
        entries.token,
        d_z,
        centred,
        weights.W_enc,
        weights.v_enc,
        weights.enc_products,
        weights.touched,
        control,
        gathered,
        through_encoder,
        d_model,
        d_sae,
        room,
        COPY=copy,
        **_CONSTANTS,
        **_ENCODER,
    )
    b_enc, d_threshold, active, in_window = gathered.unbind()
    return Gathered(b_enc, d_threshold, active, in_window, through_encoder)
