"""Training matters taken into the weights, so that an SAE reads and writes raw activations.

Each function changes an SAE in place and leaves what it computes as it was, up to rounding; sums
over a width are taken in float64.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.placement import in_float64
from sae_core.sae import SAE, GatedSAE

# Columns or rows of a matrix that are in memory a second time, in float64.
_COLUMNS = 2048


def project(sae: SAE, bias: Float[Tensor, " d_model"]) -> Float[Tensor, " d_sae"]:
    """`bias @ W_enc`: by how much `bias`, added to the input, moves the pre-activations."""
    columns = sae.W_enc.data.split(_COLUMNS, dim=1)
    wide = in_float64(bias)
    return torch.cat([(wide @ in_float64(part)).float() for part in columns]).to(bias.device)


def move_input(sae: SAE, bias: Float[Tensor, " d_model"]) -> None:
    """Make `encode(x)` what `encode(x + bias)` was."""
    moved = project(sae, bias)
    if isinstance(sae, GatedSAE):
        sae.b_gate.data += moved
        # The magnitude's path sees the same projection, times exp(r_mag).
        sae.b_mag.data += moved * sae.r_mag.data.exp()
    else:
        sae.b_enc.data += moved


def subtract_b_dec(sae: SAE) -> None:
    """Make `encode(x)` what `encode(x - b_dec)` was."""
    move_input(sae, -sae.b_dec.data)


def scale_activations(sae: SAE, factor: float) -> None:
    """An SAE of activations times `factor` becomes one of the activations themselves."""
    sae.W_enc.data *= factor
    sae.W_dec.data /= factor
    sae.b_dec.data /= factor


def scale_biases(sae: SAE, factor: float) -> None:
    """An SAE of activations divided by `factor` becomes one of the activations themselves.

    Its features' activations grow by `factor`, and its matrices stay as they are.
    """
    for name, parameter in sae.named_parameters():
        if parameter.ndim == 1 and name != "r_mag":
            parameter.data *= factor


def norms_into_activations(sae: SAE) -> None:
    """Give decoder rows length 1, and activations the lengths that they had.

    Features whose decoder row is 0 are switched off. Not for SAEs with a threshold of their own.
    """
    norms = torch.linalg.vector_norm(sae.W_dec.data, dim=1)
    sae.W_dec.data /= norms.clamp(min=torch.finfo(norms.dtype).tiny)[:, None]
    sae.W_enc.data *= norms
    sae.b_enc.data *= norms
