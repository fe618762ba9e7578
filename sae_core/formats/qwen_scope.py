"""Qwen-Scope: TopK SAEs of the residual stream, one `layer0.sae.pt` a layer.

`W_enc [F, d]`, `W_dec [d, F]`, `b_enc`, `b_dec`; nothing is taken off the input. k is in the
repository's name alone, `SAE-Res-Qwen3-1.7B-Base-W32K-L0_50`, so that a file by itself cannot be
read, nor would one that is written say what it is.
"""

from pathlib import Path

from sae_core.formats.origin import Origin
from sae_core.formats.plan import Plan, matrix_shape
from sae_core.formats.torch_file import TorchFile

_NAMES = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}


def plan(path: Path, origin: Origin) -> Plan:
    """How to read a file; ValueError if no name above it says k."""
    if origin.k is None:
        raise ValueError(
            f"{path} does not say its k: keep it in a folder that is named as its repository is, "
            "as in SAE-Res-Qwen3-1.7B-Base-W32K-L0_50."
        )
    weights = TorchFile(path)
    d_sae, d_model = matrix_shape(weights, "W_enc")
    cfg = origin.configure(path, {}, architecture="topk", d_model=d_model, d_sae=d_sae, k=origin.k)
    return Plan(cfg=cfg, weights=weights, names=_NAMES, transposed=frozenset({"W_enc", "W_dec"}))
