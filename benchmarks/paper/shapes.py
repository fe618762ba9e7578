"""Kernels as six numbers each, so that one compiled step serves all of them at once.

    K(u) = [|u| < width] (a0 + a1 |u| + a2 u^2) + (g0 + g2 u^2) exp(-u^2 / (2 s^2))

with s = 1/sqrt(12).
The first four are those of `sae_core.jumprelu`, of standard deviation s. `fourth_order` is the
Gaussian's fourth-order kernel, (3 - u^2/s^2) / 2 times the Gaussian: its second moment is 0, so
that a smooth density is estimated without a bias of second order, and it is negative beyond
sqrt(3) s.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_SD = 1 / math.sqrt(12)
_TRIANGLE, _PARABOLA = _SD * math.sqrt(6), _SD * math.sqrt(5)
_PEAK = 1 / (_SD * math.sqrt(2 * math.pi))

SHAPES: dict[str, tuple[float, float, float, float, float, float]] = {
    "rectangle": (0.5, 1, 0, 0, 0, 0),
    "triangular": (_TRIANGLE, 1 / _TRIANGLE, -1 / _TRIANGLE**2, 0, 0, 0),
    "epanechnikov": (_PARABOLA, 0.75 / _PARABOLA, 0, -0.75 / _PARABOLA**3, 0, 0),
    "gaussian": (0, 0, 0, 0, _PEAK, 0),
    "fourth_order": (0, 0, 0, 0, 1.5 * _PEAK, -0.5 * _PEAK / _SD**2),
}
"""width, a0, a1, a2, g0, g2 of each kernel."""


def numbers(kernels: Sequence[str], device: torch.device) -> Tensor:
    """The six numbers of some kernels, `[6, kernels]`, float32."""
    return torch.tensor([SHAPES[kernel] for kernel in kernels], device=device).T.contiguous()


def density(u: Tensor, six: Sequence[Tensor | float]) -> Tensor:
    """K(u); the six numbers broadcast over u."""
    width, a0, a1, a2, g0, g2 = six
    size, square = u.abs(), u.square()
    inside = (a0 + a1 * size + a2 * square) * (size < width)
    return inside + (g0 + g2 * square) * torch.exp(-6.0 * square)
