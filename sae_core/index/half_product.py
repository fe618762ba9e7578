"""A product in float16 whose sums are float32: what screens before float32 computes."""

import threading

import torch
from jaxtyping import Float
from torch import Tensor

_SETTING = threading.Lock()
"""Held while PyTorch's setting is another one: it is the whole process's."""


def half_product(
    left: Float[Tensor, "n width"], right: Float[Tensor, "m width"]
) -> Float[Tensor, "n m"]:
    """`left @ right.T` of float16 matrices, rounded to float16 at the end alone.

    On a GPU by its matrix units; elsewhere, where float16 is slow, by float32 ones.
    """
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
