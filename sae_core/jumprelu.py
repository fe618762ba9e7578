"""JumpReLU and Heaviside step with straight-through gradients for the threshold.

Forward (z = pre_acts, strict inequality):

    jumprelu(z) = z * H(z - threshold)        step(z) = H(z - threshold)

Backward, with a kernel K of bandwidth e (Rajamanoharan et al., "Jumping Ahead", arXiv 2407.14435):

    d jumprelu / dz = H(z - threshold)      d jumprelu / d threshold = -(threshold / e) K(u)
    d step / dz     = 0                     d step / d threshold     = -(1 / e) K(u)

where u = (z - threshold) / e. Averaged over tokens, these are kernel density estimates of the exact
gradients of the *expected* outputs, which unlike the sample's own are not zero almost everywhere.

Every kernel integrates to 1 and has the rectangle's standard deviation, 1/sqrt(12), so that one
bandwidth means one smoothing width. This file is the reference for all faster implementations.
"""

import math
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Kernel = Literal["rectangle", "triangular", "epanechnikov", "gaussian"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)

_SD = 1 / math.sqrt(12)
_TRIANGLE_HALF_WIDTH = _SD * math.sqrt(6)
_EPANECHNIKOV_HALF_WIDTH = _SD * math.sqrt(5)


def kernel_density(u: Tensor, kernel: Kernel = "rectangle") -> Tensor:
    """K(u): a density of standard deviation 1/sqrt(12), in u's shape and dtype.

    Raises ValueError for an unknown kernel.
    """
    if kernel == "rectangle":
        return (u.abs() < 0.5).to(u.dtype)
    if kernel == "triangular":
        w = _TRIANGLE_HALF_WIDTH
        return (1 - u.abs() / w).clamp(min=0) / w
    if kernel == "epanechnikov":
        w = _EPANECHNIKOV_HALF_WIDTH
        return 0.75 / w * (1 - (u / w).square()).clamp(min=0)
    if kernel == "gaussian":
        return torch.exp(-0.5 * (u / _SD).square()) / (_SD * math.sqrt(2 * math.pi))
    raise ValueError(f"unknown kernel {kernel!r}: use one of {', '.join(KERNELS)}.")


def half_width(kernel: Kernel = "rectangle") -> float:
    """|u| beyond which K(u) is 0; for the gaussian, 1e-14 of its peak.

    Raises ValueError for an unknown kernel.
    """
    widths = {
        "rectangle": 0.5,
        "triangular": _TRIANGLE_HALF_WIDTH,
        "epanechnikov": _EPANECHNIKOV_HALF_WIDTH,
        "gaussian": 8 * _SD,
    }
    if kernel not in widths:
        raise ValueError(f"unknown kernel {kernel!r}: use one of {', '.join(KERNELS)}.")
    return widths[kernel]


def _threshold_gradient(
    z: Tensor, threshold: Tensor, height: Tensor | float, grad: Tensor, ctx: Any
) -> Tensor:
    """-(height / e) K(u), summed over tokens; `height` is how far the output jumps."""
    k = kernel_density((z - threshold) / ctx.bandwidth, ctx.kernel)
    return (-(height / ctx.bandwidth) * k * grad).sum_to_size(threshold.shape)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(z: Tensor, threshold: Tensor, bandwidth: float, kernel: Kernel) -> Tensor:
        return z * (z > threshold)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, threshold, ctx.bandwidth, ctx.kernel = inputs
        ctx.save_for_backward(z, threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        z, threshold = ctx.saved_tensors
        dz = dthreshold = None
        if ctx.needs_input_grad[0]:
            dz = grad * (z > threshold)
        if ctx.needs_input_grad[1]:
            dthreshold = _threshold_gradient(z, threshold, threshold, grad, ctx)
        return dz, dthreshold, None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(z: Tensor, threshold: Tensor, bandwidth: float, kernel: Kernel) -> Tensor:
        return (z > threshold).to(z.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, threshold, ctx.bandwidth, ctx.kernel = inputs
        ctx.save_for_backward(z, threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        z, threshold = ctx.saved_tensors
        dz = torch.zeros_like(z) if ctx.needs_input_grad[0] else None
        dthreshold = None
        if ctx.needs_input_grad[1]:
            dthreshold = _threshold_gradient(z, threshold, 1.0, grad, ctx)
        return dz, dthreshold, None, None


def _check(bandwidth: float, kernel: str) -> None:
    if not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth} but must be above 0.")
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}: use one of {', '.join(KERNELS)}.")


def jumprelu(
    pre_acts: Float[Tensor, "*batch d_sae"],
    threshold: Float[Tensor, " d_sae"],
    bandwidth: float,
    kernel: Kernel = "rectangle",
) -> Float[Tensor, "*batch d_sae"]:
    """`pre_acts` where they exceed `threshold`, else 0; gradients as in the module's docstring.

    `bandwidth` is in the units of `pre_acts`. Raises ValueError for a bandwidth of 0 or less and
    for an unknown kernel.
    """
    _check(bandwidth, kernel)
    return _JumpReLU.apply(pre_acts, threshold, bandwidth, kernel)  # pyright: ignore[reportReturnType]


def step(
    pre_acts: Float[Tensor, "*batch d_sae"],
    threshold: Float[Tensor, " d_sae"],
    bandwidth: float,
    kernel: Kernel = "rectangle",
) -> Float[Tensor, "*batch d_sae"]:
    """1 where `pre_acts` exceed `threshold`, else 0; its sum over features is L0.

    Fed with pre-activations, not with activations, so that the kernel's window is two-sided.
    Raises as `jumprelu`.
    """
    _check(bandwidth, kernel)
    return _Step.apply(pre_acts, threshold, bandwidth, kernel)  # pyright: ignore[reportReturnType]
