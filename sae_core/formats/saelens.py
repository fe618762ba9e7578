"""SAELens' folder layout, which is also ours: `cfg.json` and `sae_weights.safetensors`.

The keys are those of SAELens 6; what Jumpscope adds stands under `metadata.jumpscope`, which
SAELens carries along unread. docs/format.md specifies both.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae_core.config import SAEConfig
from sae_core.files import atomic_folder, atomic_write, keep_others, sha256
from sae_core.formats.folding import norms_into_activations, scale_activations, subtract_b_dec
from sae_core.formats.origin import Origin
from sae_core.formats.plan import Plan
from sae_core.formats.saelens_config import CONFIG_FILE, Described, describe, write_config
from sae_core.formats.safetensors_file import SafetensorsFile
from sae_core.placement import in_float64
from sae_core.sae import SAE, JumpReLUSAE, tensor_shapes

WEIGHTS_FILE = "sae_weights.safetensors"
_OF_BATCH = "topk_threshold"
# Rounding these to bfloat16 costs no measurable quality; biases and thresholds stay float32.
_MATRICES = ("W_enc", "W_dec", "W_skip")
_MOST_ROUNDED = 0.05
"""Largest norm of a matrix's rounding errors over its own: three bits of mantissa make 0.026, and
more is lost of numbers that a float8 has no room for."""
_OF_A_FEATURE = {"W_enc": 0, "W_dec": 1}
"""Along which dimension a feature's numbers lie."""
_MOST_OF_A_FEATURE = 0.25
"""The same of a feature alone, whose numbers may be far smaller than the others'."""
_TOGETHER = 4096
"""Features whose errors are taken together."""


def save_sae(sae: SAE, folder: Path | str, dtype: torch.dtype = torch.float32) -> SAEConfig:
    """Write `sae` to `folder` and return the configuration as written.

    An SAE that is there is replaced, and stays whole if this fails; other files of the folder, an
    index say, are kept. `dtype` (float32, bfloat16 or float8_e4m3fn) is that of the matrices on
    disk; vectors are float32. The hash of the weights file is added to the metadata as
    `content_hash`. ValueError for a matrix that has no place in a float8, or of
    which a feature has none.
    """
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        path = write_weights(sae, temporary, dtype)
        cfg = _with_metadata(sae.cfg, content_hash=sha256(path))
        write_config(cfg, temporary / CONFIG_FILE)
        if folder.is_dir():
            keep_others(folder, temporary)
    return cfg


def write_weights(sae: SAE, folder: Path, dtype: torch.dtype) -> Path:
    """Write `sae_weights.safetensors` and return its path."""
    tensors = {
        name: _stored(name, getattr(sae, name).detach().cpu(), dtype)
        for name in tensor_shapes(sae.cfg)
    }
    if sae.cfg.skip:
        tensors["W_skip"] = tensors["W_skip"].T  # SAELens has [d_out, d_in]
    path = folder / WEIGHTS_FILE
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, {"format": "pt"})
    path.chmod(0o644)  # safetensors lets only the owner read
    return path


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of an SAE as it is written."""
    if name not in _MATRICES:
        return tensor.float()
    stored = tensor.to(dtype)
    if dtype == torch.float8_e4m3fn:
        _check_rounding(name, tensor, stored)
    return stored


def _check_rounding(name: str, tensor: Tensor, stored: Tensor) -> None:
    """ValueError where float8 keeps too little of a matrix, or of one of its features."""
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} holds values that are not finite.")
    along = _OF_A_FEATURE.get(name)
    lost, norms = (_norms(each, along or 0) for each in (stored.float().sub_(tensor), tensor))
    fits = lost.norm() <= _MOST_ROUNDED * norms.norm()
    if along is not None:
        fits &= (lost <= _MOST_OF_A_FEATURE * norms).all()
    if not fits:  # NaN where a number is above the largest
        raise ValueError(
            f"{name} has numbers too large or too small for float8_e4m3fn, which ends at 448 "
            "and has steps of 1/512 near 0: save it in bfloat16 (train --save-dtype, which trains "
            "nothing again; convert --dtype)."
        )


def _norms(matrix: Tensor, along: int) -> Tensor:
    """Of each column (`along` 0) or row (1). In float64, some at a time: the squares of what is
    below 1e-23 have no place in float32.
    """
    parts = matrix.split(_TOGETHER, dim=1 - along)
    return torch.cat([in_float64(part).norm(dim=along) for part in parts])


def update_metadata(folder: Path | str, **metadata: Any) -> SAEConfig:
    """Add entries to the metadata of a saved SAE (measured numbers, say), leaving its weights."""
    folder = Path(folder)
    cfg = _with_metadata(load_config(folder), **metadata)
    with atomic_write(folder / CONFIG_FILE) as temporary:
        write_config(cfg, temporary)
    return cfg


def load_config(folder: Path | str) -> SAEConfig:
    """The configuration of a saved SAE, without its weights."""
    return describe(Path(folder), Origin()).cfg


def load_sae(folder: Path | str, device: str | torch.device = "cpu") -> SAE:
    """Read an SAE written by Jumpscope or SAELens; weights become float32 on `device`.

    Raises ValueError with one sentence for a missing or damaged file, an unknown architecture,
    wrong names or shapes, and values that are not finite.
    """
    return plan(Path(folder), Origin()).carry_out(device)


def plan(path: Path, origin: Origin) -> Plan:
    """How to read a folder, or the `sae_weights.safetensors` in one."""
    folder = path if path.is_dir() else path.parent
    described = describe(folder, origin)
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise ValueError(f"{folder} has no {WEIGHTS_FILE}: it is not a whole SAE folder.")
    weights = SafetensorsFile(file)
    names = {name: name for name in tensor_shapes(described.cfg)}
    if "log_threshold" in weights.headers and "threshold" in names:
        names["threshold"] = "log_threshold"  # training files of its early versions
    if described.of_batch:
        names["threshold"] = _OF_BATCH
        if _OF_BATCH in weights.headers and not weights.number(_OF_BATCH) > 0:
            raise ValueError(
                f"{file} was saved before its threshold was estimated: train it further, or use a "
                "later checkpoint."
            )
    return Plan(
        cfg=described.cfg,
        weights=weights,
        names=names,
        transposed=frozenset({"W_skip"}),
        unused=_ones(weights),
        fold=lambda sae: _fold(sae, described, "log_threshold" in names.values()),
    )


def _fold(sae: SAE, described: Described, log_threshold: bool) -> None:
    if log_threshold and isinstance(sae, JumpReLUSAE):
        sae.threshold.data.exp_()
    if described.by_decoder_norm:
        norms_into_activations(sae)
    if described.subtract_b_dec:
        subtract_b_dec(sae)
    if described.scale is not None:
        scale_activations(sae, described.scale)


def _ones(weights: SafetensorsFile) -> frozenset[str]:
    """`scaling_factor`, a vector that old versions wrote and that is 1 unless it was trained."""
    name = "scaling_factor"
    if name not in weights.headers:
        return frozenset()
    with safe_open(weights.path, framework="pt") as file:
        factors = file.get_tensor(name).float()  # a float8 has no arithmetic
    if not torch.allclose(factors, torch.ones_like(factors)):
        raise ValueError(
            f"{weights.path} has trained scaling factors: fold them into W_dec with SAELens first."
        )
    return frozenset({name})


def _with_metadata(cfg: SAEConfig, **metadata: Any) -> SAEConfig:
    return replace(cfg, metadata={**cfg.metadata, **metadata})
