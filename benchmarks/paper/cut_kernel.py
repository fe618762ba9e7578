"""TopK's selection on CUDA: the k-th largest of each row by bisection, a row held in registers."""

# pyright: reportMissingImports=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _cuts(values, k, found, rows, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    value = tl.load(values + row * width + at, mask=at < width, other=0.0)
    # Of numbers that are 0 or above, bits read as integers have the same order.
    bits = value.to(tl.int32, bitcast=True)
    wanted = tl.load(k + row // rows)
    low = wanted * 0
    high = tl.max(bits, 0)
    for _ in range(31):
        middle = low + (high - low + 1) // 2
        enough = tl.sum((bits >= middle).to(tl.int32), 0) >= wanted
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, tl.maximum(middle - 1, low))
    tl.store(found + row, low.to(tl.float32, bitcast=True))


def cuts_on_cuda(z: Tensor, k: Tensor) -> Tensor:
    """As `benchmarks.paper.kind_gradients.cuts`."""
    kinds, batch, width = z.shape
    z = z.contiguous()
    found = torch.empty(kinds, batch, dtype=torch.float32, device=z.device)
    _cuts[(kinds * batch,)](z, k, found, batch, width, block=triton.next_power_of_2(width))
    return found
