"""The update of both matrices from the entries: `decoder`, then `encoder`."""

# pyright: reportMissingImports=false, reportIndexIssue=false

import math

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from training.kernels.decoder import update_decoder
from training.kernels.encoder import update_encoder
from training.kernels.entries import Entries, Gathered, Objective, Residual, Weights
from training.kernels.order import decoder_launch, longest_first
from training.optim import BETA2, EPS, Control
from training.step import Setting

_CONSTANTS = {"BETA2": BETA2, "LOG2_BETA2": math.log2(BETA2), "EPS": EPS}


def first_moment(beta1: float) -> dict[str, float]:
    """What kernels are compiled for, of a first moment; 0: without one."""
    return {"BETA1": beta1, "LOG2_BETA1": math.log2(beta1) if beta1 else 0.0}


# Numbers of a slice, and entries on their way at once.
_ENCODER = {"BLOCK": 256, "UNROLL": 4, "num_warps": 1}
_GROUPS = 1024
"""Programs that share the features of one slice."""


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
    order = longest_first(entries.column_start)
    gathered = torch.empty(4, d_sae, device=centred.device)
    d_z = torch.empty_like(entries.z)
    copy = weights.enc_products.dtype != torch.float32
    constants = {**_CONSTANTS, **first_moment(weights.beta1)}
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
        weights.v_dec if weights.m_dec is None else weights.m_dec,
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
        **constants,
        **decoder_launch(d_model),
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
        weights.v_enc if weights.m_enc is None else weights.m_enc,
        weights.enc_products,
        weights.touched,
        control,
        gathered,
        through_encoder,
        d_model,
        d_sae,
        room,
        COPY=copy,
        **constants,
        **_ENCODER,
    )
    b_enc, d_threshold, active, in_window = gathered.unbind()
    return Gathered(b_enc, d_threshold, active, in_window, through_encoder)
