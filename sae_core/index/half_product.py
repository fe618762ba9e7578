"""A product of 16-bit numbers whose sums are float32: what screens before float32 computes."""

import threading

import torch
from jaxtyping import Float
from torch import Tensor

_SETTING = threading.Lock()
"""Held while PyTorch's setting is another one: it is the whole process's."""


def fast_half(device: torch.device) -> torch.dtype | None:
    """The 16-bit numbers that `device` multiplies much faster than float32; None if there are none.

    CPUs with instructions for bfloat16 take less than half the time, others many times as long.
    Those of Arm are not among them: their instructions round sums in a way of their own.
    """
    if device.type == "cuda":
        return torch.float16
    # Older versions of PyTorch cannot tell.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    fast = device.type == "cpu" and native and torch.backends.mkldnn.is_available()
    return torch.bfloat16 if fast else None


def half_product(
    left: Float[Tensor, "n width"],
    right: Float[Tensor, "m width"],
    out: Float[Tensor, "n m"] | None = None,
) -> Float[Tensor, "n m"]:
    """`left @ right.T` of float16 or bfloat16 matrices, rounded to that at the end alone; `out` is
    memory that may be taken for it.

    On a GPU by its matrix units; elsewhere, where float16 is slow, by float32 ones.
    """
    if left.dtype == torch.bfloat16:
        return torch.mm(left, right.T, out=out)
    if not left.is_cuda:
        return (left.float() @ right.float().T).half()
    options = torch.backends.cuda.matmul
    with _SETTING:
        before = options.allow_fp16_reduced_precision_reduction
        options.allow_fp16_reduced_precision_reduction = False
        try:
            return left @ right.T
        finally:
            options.allow_fp16_reduced_precision_reduction = before
