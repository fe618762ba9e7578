"""JumpReLU and step: values, hand-computed gradients, and gradients against finite differences."""

import math

import pytest
import torch
from torch import Tensor

from sae_core.jumprelu import KERNELS, Kernel, jumprelu, kernel_density, step


def test_forward_is_strict_and_keeps_the_value() -> None:
    z = torch.tensor([[-1.0, 0.5, 0.5000001, 2.0]])
    threshold = torch.full((4,), 0.5)
    assert jumprelu(z, threshold, 0.1).tolist() == [[0.0, 0.0, z[0, 2].item(), 2.0]]
    assert step(z, threshold, 0.1).tolist() == [[0.0, 0.0, 1.0, 1.0]]


def test_gradients_by_hand() -> None:
    # bandwidth 0.5: the rectangle is 1 within 0.25 of the threshold.
    z = torch.tensor([[0.8, 1.1, 1.3], [0.7, 0.9, 5.0]], requires_grad=True)
    threshold = torch.tensor([1.0, 1.0, 1.0], requires_grad=True)
    weight = torch.tensor([[1.0, 10.0, 100.0], [1000.0, 2.0, 3.0]])
    (jumprelu(z, threshold, 0.5) * weight).sum().backward()
    assert z.grad is not None
    assert threshold.grad is not None
    assert z.grad.tolist() == [[0.0, 10.0, 100.0], [0.0, 0.0, 3.0]]
    # In the window: 0.8 (weight 1) of feature 0; 1.1 and 0.9 (10 and 2) of feature 1; none of 2.
    assert threshold.grad.tolist() == [-2.0, -24.0, 0.0]
    z.grad = threshold.grad = None
    (step(z, threshold, 0.5) * weight).sum().backward()
    assert z.grad is not None
    assert threshold.grad is not None
    assert not z.grad.any()
    assert threshold.grad.tolist() == [-2.0, -24.0, 0.0]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_densities_of_one_width(kernel: Kernel) -> None:
    u = torch.linspace(-4, 4, 800_001, dtype=torch.float64)
    k = kernel_density(u, kernel)
    du = 8 / 800_000
    assert float(k.sum() * du) == pytest.approx(1, abs=3e-5)
    assert float((k * u).sum() * du) == pytest.approx(0, abs=1e-9)
    assert float((k * u * u).sum() * du) == pytest.approx(1 / 12, abs=3e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("term", ["reconstruction", "l0", "both"])
def test_threshold_gradient_is_the_slope_of_the_expected_loss(kernel: Kernel, term: str) -> None:
    """The straight-through gradient estimates d E[loss] / d threshold.

    On a sample this large, a finite difference of the mean loss over a step as wide as the kernel
    is a second, independent estimate of the same slope: its own smoothing is a rectangle's.
    """
    generator = torch.Generator().manual_seed(3)
    tokens, features = 2_000_000, 3
    z = torch.randn(tokens, features, generator=generator, dtype=torch.float64)
    direction = torch.tensor([[1.0, 0.2], [0.1, 1.0], [-0.6, 0.8]], dtype=torch.float64)
    residual = 0.3 * torch.randn(tokens, 2, generator=generator, dtype=torch.float64)
    target = (z.relu() @ direction) + residual
    threshold = torch.tensor([0.4, 0.8, 0.6], dtype=torch.float64)
    bandwidth = 0.05

    def mean_loss(theta: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        if term != "l0":
            recon = jumprelu(z, theta, bandwidth, kernel) @ direction
            total = total + (target - recon).square().sum(-1).mean()
        if term != "reconstruction":
            total = total + step(z, theta, bandwidth, kernel).sum(-1).mean()
        return total

    theta = threshold.clone().requires_grad_()
    mean_loss(theta).backward()
    assert theta.grad is not None
    for i in range(features):
        shift = torch.zeros_like(threshold)
        shift[i] = bandwidth / 2
        with torch.no_grad():
            slope = (mean_loss(threshold + shift) - mean_loss(threshold - shift)) / bandwidth
        # The reconstruction's slope depends on the other active features, so noise is larger there.
        assert float(theta.grad[i]) == pytest.approx(float(slope), rel=0.04, abs=2e-3)


def test_bfloat16_and_broadcast_shapes() -> None:
    z = torch.randn(2, 3, 5, dtype=torch.bfloat16, requires_grad=True)
    threshold = torch.full((5,), 0.3, dtype=torch.bfloat16, requires_grad=True)
    jumprelu(z, threshold, 1.0).sum().backward()
    assert z.grad is not None
    assert (z.grad.shape, z.grad.dtype) == (z.shape, torch.bfloat16)
    assert threshold.grad is not None
    assert threshold.grad.shape == (5,)


@pytest.mark.parametrize("fn", [jumprelu, step])
@pytest.mark.usefixtures("unchecked_types")
def test_mistakes_are_named(fn) -> None:
    z, theta = torch.zeros(2, 3), torch.ones(3)
    with pytest.raises(ValueError, match="bandwidth is 0"):
        fn(z, theta, 0.0)
    with pytest.raises(ValueError, match="unknown kernel 'box'"):
        fn(z, theta, 0.1, "box")
    assert math.isfinite(float(fn(z, theta, 0.1).sum()))
