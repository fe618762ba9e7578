"""Pre-activations of listed entries alone: a dot product of two rows each, in float32.

On a GPU with Triton one kernel reads the rows from where they are; elsewhere they are gathered. On
a CPU PyTorch's sampled product, a fifth of the time, takes entries in order.
"""

import warnings
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GATHERED = 2**25
"""Numbers gathered at once."""
_ENTRIES, _NUMBERS = 8, 256
"""Entries of one program, and how many numbers of each row it takes at once."""


def listed_dots(
    x: Float[Tensor, "tokens d_model"],
    rows: Float[Tensor, "d_sae d_model"],
    bias: Float[Tensor, " d_sae"],
    feature: Int[Tensor, " n"],
    token: Int[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """`x[token] . rows[feature] + bias[feature]`, float32 also of `x` in another dtype."""
    kernel = _kernel() if x.is_cuda else None
    if kernel is None or not len(feature):
        return _gathered(x, rows, feature, token) + bias[feature]
    out = torch.empty(len(feature), device=x.device)
    grid = (-(-len(feature) // _ENTRIES),)
    kernel[grid](
        x.contiguous(), rows, bias, feature, token, out, len(feature), x.shape[1],
        ENTRIES=_ENTRIES, NUMBERS=_NUMBERS,
    )  # fmt: skip
    return out


def sampled_dots(
    x: Float[Tensor, "tokens d_model"],
    rows: Float[Tensor, "d_sae d_model"],
    bias: Float[Tensor, " d_sae"],
    feature: Int[Tensor, " n"],
    token: Int[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """`listed_dots` of a CPU's entries in float32, which are sorted by feature, then token."""
    if not len(feature):
        return x.new_empty(0)
    bounds = torch.searchsorted(feature, torch.arange(len(rows) + 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        # Of PyTorch 2.11 and before, whatever `check_invariants` says.
        warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")
        entries = torch.sparse_csr_tensor(
            bounds, token, bias[feature], (len(rows), len(x)), check_invariants=False
        )
    return torch.sparse.sampled_addmm(entries, rows, x.T).values()


def _gathered(x: Tensor, rows: Tensor, feature: Tensor, token: Tensor) -> Tensor:
    step = max(1, _GATHERED // x.shape[1])
    parts = [
        (x[t] * rows[f]).sum(1) for f, t in zip(feature.split(step), token.split(step), strict=True)
    ]
    return torch.cat(parts) if parts else x.new_empty(0)


@cache
def _kernel() -> Any:
    """The kernel, None where there is no Triton."""
    try:
        from sae_core.index.listed_dots_kernel import dots
    except ImportError:
        return None
    return dots
