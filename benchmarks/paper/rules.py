"""Rules for a kernel's bandwidth, from kernel density estimation, for the rectangle.

A density estimated from n tokens with a rectangle of width e has variance p / (n e) and bias
e^2 p'' / 24, so that its integrated squared error is least at e = (144 / (n R))^(1/5), R being the
integral of p''^2. The rules differ in what they take for R:

    scott          that of a normal density of the sample's deviation s: e = 3.687 s n^(-1/5)
    silverman      0.9 / 1.06 of it, with min(s, quartile range / 1.34) for s
    plug_in        R estimated from the sample with a normal pilot (one stage)
    lscv           no R: the e with the least cross-validated squared error, averaged over all
                   samples of n tokens
    gradient       no density: the e with the least mean squared error of the threshold's gradient

n is the number of tokens that are averaged.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.feature_tokens import FeatureTokens
from benchmarks.paper.gradients import bias_of, estimated, reference

RULES = ("scott", "silverman", "plug_in", "lscv", "gradient")
CANDIDATES = tuple(5e-4 * 10 ** (k / 10) for k in range(28))
"""Bandwidths that are tried: 0.0005 to 0.25."""
_NORMAL = (144 * 8 * math.sqrt(math.pi) / 3) ** 0.2
_BINS, _REACH = 1_024, 8.0
_WIDTH = 2.5e-4
"""Of the bins of `lscv`."""


def scott(z: Float[Tensor, "features tokens"], n: float) -> Float[Tensor, " features"]:
    """The normal reference."""
    return _NORMAL * z.std(1) * n**-0.2


def silverman(z: Float[Tensor, "features tokens"], n: float) -> Float[Tensor, " features"]:
    """The rule of thumb."""
    few = z[:, :: max(1, z.shape[1] // 2**16)].sort(1).values
    quartiles = few[:, 3 * few.shape[1] // 4] - few[:, few.shape[1] // 4]
    return math.sqrt(12) * 0.9 * torch.minimum(z.std(1), quartiles / 1.34) * n**-0.2


def plug_in(z: Float[Tensor, "features tokens"], n: float) -> Float[Tensor, " features"]:
    """R by a kernel estimate of the density's fourth derivative, of a pilot bandwidth that is right
    for a normal density.
    """
    held = z.shape[1]
    deviation = z.std(1, keepdim=True)
    u = ((z - z.mean(1, keepdim=True)) / deviation).clamp(-_REACH, _REACH - 1e-3)
    bins = ((u + _REACH) * (_BINS / (2 * _REACH))).long()
    counts = torch.stack([torch.bincount(row, minlength=_BINS) for row in bins]).float()
    pilot = (2 * 3 / math.sqrt(2 * math.pi) * 16 * math.sqrt(math.pi) / (15 * held)) ** (1 / 7)
    centres = torch.arange(_BINS, device=z.device) * (2 * _REACH / _BINS)
    v = (centres[:, None] - centres) / pilot
    fourth = (v**4 - 6 * v**2 + 3) * torch.exp(-v.square() / 2) / math.sqrt(2 * math.pi)
    roughness = ((counts @ fourth) * counts).sum(1) / (held**2 * pilot**5)
    return (144 / (n * roughness.clamp(min=1e-9))) ** 0.2 * deviation[:, 0]


def lscv(z: Float[Tensor, "features tokens"], n: float) -> Float[Tensor, " features"]:
    """From all differences between pre-activations, as an autocorrelation of fine bins."""
    held = z.shape[1]
    low, high = float(z.min()), float(z.max())
    size = 2 ** math.ceil(math.log2(2 * ((high - low) / _WIDTH + 1)))
    bins = ((z - low) / _WIDTH).long()
    counts = torch.stack([torch.bincount(row, minlength=size) for row in bins]).float()
    spectrum = torch.fft.rfft(counts, dim=1)
    pairs = torch.fft.irfft(spectrum * spectrum.conj(), n=size, dim=1)
    pairs[:, 0] -= held  # of a token with itself
    lag = torch.arange(size, device=z.device)
    lag = torch.minimum(lag, size - lag) * _WIDTH
    scores = []
    for e in CANDIDATES:
        # The shares of bins whose middles are this far apart that lie within half of e.
        inside = ((e / 2 - lag) / _WIDTH + 0.5).clamp(0, 1) / e
        both = (1 - lag / e).clamp(min=0) / e
        mean_inside, mean_both = ((pairs * k).sum(1) / held**2 for k in (inside, both))
        scores.append(1 / (n * e) + (1 - 1 / n) * mean_both - 2 * mean_inside)
    return _candidate(torch.stack(scores))


def gradient(
    sample: FeatureTokens, penalty: float, step: float, n: float
) -> Float[Tensor, " features"]:
    """From bias and variance as they are measured on the sample; `step`: of the differences."""
    true = reference(sample, penalty, step)
    scores = []
    for e in CANDIDATES:
        mean, variance = estimated(sample, penalty, e, "rectangle")
        bias, error = bias_of(mean, true)
        scores.append((bias.square() - error.square()).clamp(min=0) + variance / n)
    return _candidate(torch.stack(scores))


def all_rules(
    sample: FeatureTokens, penalty: float, step: float, n: float
) -> dict[str, Float[Tensor, " features"]]:
    """Each rule's bandwidth for each feature."""
    z = sample.z
    by_density = {rule.__name__: rule(z, n) for rule in (scott, silverman, plug_in, lscv)}
    return by_density | {"gradient": gradient(sample, penalty, step, n)}


def _candidate(scores: Float[Tensor, "candidates features"]) -> Float[Tensor, " features"]:
    return torch.tensor(CANDIDATES, device=scores.device)[scores.argmin(0)]
