"""How the work on features' rows is put out: longest first, and so many warps a row, in Triton."""

# pyright: reportMissingImports=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from training.kernels.decoder import row_blocks

_LENGTHS = {"BLOCK": 1024, "num_warps": 4}
_A_THREAD = 72
"""Numbers of a decoder's row that a thread holds, and as many of its gradient: 2,304 are a warp's,
which then adds up without waiting for others."""


def decoder_launch(d_model: int) -> dict[str, int]:
    """Of a kernel in which a program takes a whole row of the decoder."""
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


def longest_first(column_start: Int[Tensor, " d_sae_1"]) -> Int[Tensor, " d_sae"]:
    """Features in the order of their number of entries (a byte: sorting takes one pass over it)."""
    d_sae = len(column_start) - 1
    lengths = torch.empty(d_sae, dtype=torch.uint8, device=column_start.device)
    _lengths[(triton.cdiv(d_sae, _LENGTHS["BLOCK"]),)](column_start, lengths, d_sae, **_LENGTHS)
    return lengths.sort(descending=True, stable=True).indices
