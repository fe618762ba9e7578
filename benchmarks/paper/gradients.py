"""A threshold's gradient: what a kernel estimates, and the true one by finite differences.

All estimators are means over tokens of K((z - t) / e) / e times a coefficient:

    straight-through    2 t d . (x - recon) - lambda       that of training
    own jump            2 z q - z^2 ||d||^2 - lambda       by how much this token's loss jumps

Both are right at z = t only on average over the two sides: at the threshold, d . (x - recon) is q
just below it and q - t ||d||^2 just above it. So the first one's error has a part that grows with e
itself: with p the density of z at the threshold and p' its slope, e / 8 times the jump of the slope
of p times the coefficient, which is -2 t (p + t p') for the rectangle. The second's coefficient is
smooth in z, so that its error grows with e^2 as a density's does.

The true gradient is that of the expected loss, E[(lambda - worth) H(z - t)] + what does not depend
on t, taken by central differences with two steps and Richardson's extrapolation, on all tokens.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.feature_tokens import BLOCKS, FeatureTokens
from benchmarks.paper.shapes import SHAPES, density


@dataclass(frozen=True)
class Reference:
    """The true gradient and the density of pre-activations, by block: `[features, BLOCKS]`."""

    gradient: Tensor
    density: Tensor


def in_blocks(values: Float[Tensor, "features tokens"]) -> Float[Tensor, "features blocks"]:
    """Means over blocks of neighbouring tokens, the last tokens left out."""
    size = values.shape[1] // BLOCKS
    return values[:, : size * BLOCKS].reshape(len(values), BLOCKS, size).mean(2)


def reference(sample: FeatureTokens, penalty: float, step: float) -> Reference:
    """By differences over `step` and twice of it on both sides."""
    worth = sample.worth
    at = sample.threshold[:, None]

    def difference(h: float) -> tuple[Tensor, Tensor]:
        # What changes between t - h and t + h: tokens in between are no longer active.
        between = ((sample.z > at - h) & (sample.z <= at + h)).float() / (2 * h)
        return in_blocks(between * (worth - penalty)), in_blocks(between)

    narrow, wide = difference(step), difference(2 * step)
    both = [(4 * n - w) / 3 for n, w in zip(narrow, wide, strict=True)]
    return Reference(*both)


def estimated(
    sample: FeatureTokens, penalty: float, bandwidth: float, kernel: str, *, own_jump: bool = False
) -> tuple[Tensor, Tensor]:
    """The estimator's mean by block `[features, BLOCKS]`, and its variance for a single token
    `[features]`.
    """
    at, norm = sample.threshold[:, None], sample.square_norm[:, None]
    weight = density((sample.z - at) / bandwidth, SHAPES[kernel]) / bandwidth
    if own_jump:
        each = weight * (sample.worth - penalty)
    else:
        left = sample.pull - sample.z * norm * (sample.z > at)
        each = weight * (2 * at * left - penalty)
    mean = in_blocks(each)
    return mean, in_blocks(each.square()).mean(1) - mean.mean(1).square()


def bias_of(mean: Tensor, true: Reference) -> tuple[Tensor, Tensor]:
    """An estimator's bias and its standard error, `[features]`; the tokens are the same ones, so
    that what scatters in both alike cancels.
    """
    gap = mean - true.gradient
    return gap.mean(1), gap.std(1) / BLOCKS**0.5
