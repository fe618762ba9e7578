"""Gemma Scope's `params.npz`: a JumpReLU SAE or transcoder as five arrays.

`W_enc [d_in, d_sae]`, `b_enc`, `threshold` (each `[d_sae]`), `W_dec [d_sae, d_out]`, `b_dec
[d_out]`; some copies have `w_enc` and `w_dec`. They take raw activations, as ours do. Nothing in
the file says of which model or site: that is in the names around it (`origin.py`).
"""

import math
from pathlib import Path

import numpy as np
import torch

from sae_core.formats.npz_file import NpzFile
from sae_core.formats.origin import Origin
from sae_core.formats.plan import Plan, decoder_width, matrix_shape
from sae_core.sae import SAE

WEIGHTS_FILE = "params.npz"
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def plan(path: Path, origin: Origin) -> Plan:
    """How to read `params.npz`, or a folder that holds it."""
    path = path / WEIGHTS_FILE if path.is_dir() else path
    weights = NpzFile(path)
    lower = {name: name.replace("W_", "w_") for name in _TENSORS}
    names = {name: low if low in weights.headers else name for name, low in lower.items()}
    d_model, d_sae = matrix_shape(weights, names["W_enc"])
    d_out = decoder_width(weights, names["W_dec"], d_sae)
    cfg = origin.configure(
        path, {}, architecture="jumprelu", d_model=d_model, d_sae=d_sae, d_out=d_out
    )
    fold = _scale_embedding if origin.is_embedding else None
    return Plan(cfg=cfg, weights=weights, names=names, fold=fold)


def write(sae: SAE, folder: Path, dtype: torch.dtype) -> Path:
    """Write `params.npz`, float32; ValueError for anything but a JumpReLU SAE without a skip."""
    if sae.cfg.architecture != "jumprelu" or sae.cfg.skip:
        raise ValueError("Gemma Scope's format holds JumpReLU SAEs without a skip connection only.")
    if dtype != torch.float32:
        raise ValueError("Gemma Scope's params.npz holds float32 numbers only.")
    path = folder / WEIGHTS_FILE
    np.savez(path, **{name: getattr(sae, name).detach().cpu().numpy() for name in _TENSORS})
    return path


def _scale_embedding(sae: SAE) -> None:
    # The SAEs of the embedding were trained on rows of the embedding matrix. The model multiplies
    # these by sqrt(d_model) before its first block, and that product is what can be read there.
    root = math.sqrt(sae.cfg.d_model)
    sae.W_enc.data /= root
    sae.W_dec.data *= root
    sae.b_dec.data *= root
