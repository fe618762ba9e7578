"""Decoder rows added up for each token, from the list of its active features alone.

On a GPU with Triton one kernel reads the rows from where they are, many times as fast as PyTorch's
own operation, which is used elsewhere.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

_ENTRIES, _NUMBERS = 4, 256
"""Entries that one program adds up at a time, and how many numbers of each row it takes."""


def listed_sums(
    rows: Float[Tensor, "d_sae d_out"],
    feature: Int[Tensor, " n"],
    token: Int[Tensor, " n"],
    value: Float[Tensor, " n"],
    tokens: int,
) -> Float[Tensor, "tokens d_out"]:
    """`out[t]`: the sum of `value * rows[feature]` over the entries of token t.

    Of entries sorted by feature, those of a token are added up in an order that follows from the
    list alone.
    """
    token, order = token.sort(stable=True)
    feature, value = feature[order], value[order]
    bounds = torch.searchsorted(token, torch.arange(tokens + 1, device=token.device))
    kernel = _kernel() if rows.is_cuda and rows.dtype == torch.float32 else None
    if kernel is None or not tokens:
        return functional.embedding_bag(
            feature, rows, bounds[:-1], mode="sum", per_sample_weights=value.to(rows.dtype)
        )
    width = rows.shape[1]
    out = torch.empty(tokens, width, device=rows.device)
    # Programs of one slice of all tokens follow each other: the slice stays in the cache.
    grid = (tokens, -(-width // _NUMBERS))
    kernel[grid](
        rows.contiguous(), feature, value, bounds, out, width, ENTRIES=_ENTRIES, NUMBERS=_NUMBERS
    )
    return out


@cache
def _kernel() -> Any:
    """The kernel, None where there is no Triton."""
    try:
        from sae_core.index.listed_sums_kernel import sums
    except ImportError:
        return None
    return sums
