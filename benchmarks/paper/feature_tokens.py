"""What features do on many tokens, in the units of training: all that a threshold's gradient needs.

Of one feature and one token, with r the residual that is left without the feature: the
pre-activation z and the pull q = d . r. Switching the feature off at this token makes the squared
error larger by 2 z q - z^2 ||d||^2, its `worth`. (See `sae_core.threshold_lab`.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.paper.demo import Demo, units_of
from sae_core.corpus import TokenRow
from sae_core.placement import in_float64
from sae_core.sae import JumpReLUSAE
from sae_core.threshold_lab import TrainingUnits

CHUNK = 2**11
"""Tokens at a time, for all features: on a CPU, more would be held in memory for nothing."""
BLOCKS = 64
"""Of text, from whose scatter standard errors come."""
SPREAD = 128
"""Features of an SAE that are looked at token by token."""


@dataclass(frozen=True)
class FeatureTokens:
    """Some features on `tokens` tokens in the order of the text."""

    z: Float[Tensor, "features tokens"]
    pull: Float[Tensor, "features tokens"]
    threshold: Float[Tensor, " features"]
    square_norm: Float[Tensor, " features"]

    @property
    def worth(self) -> Float[Tensor, "features tokens"]:
        """By how much the squared error grows where the feature is switched off."""
        return self.z * (2 * self.pull - self.z * self.square_norm[:, None])


@dataclass(frozen=True)
class Marginal:
    """Sums over blocks of tokens for every feature, `[blocks, features]`, float64."""

    weight: Tensor
    """Of the kernel at the threshold over its bandwidth: tokens per unit of threshold."""
    cost: Tensor
    """That times what raising the threshold over the token costs in squared error."""
    fires: Tensor
    """Tokens on which the feature is active."""
    block_tokens: int

    @property
    def resting_penalty(self) -> float:
        """The lambda with which all features together are at rest."""
        return float(self.cost.sum() / self.weight.sum())

    @property
    def ratio(self) -> tuple[Tensor, Tensor]:
        """Each feature's mean cost at its threshold over `resting_penalty`, and its standard error
        from the scatter of the blocks (delta method); NaN where no token is in the window.
        """
        weight, cost = self.weight.sum(0), self.cost.sum(0)
        ratio = cost / weight
        blocks = len(self.weight)
        left = self.cost - ratio * self.weight  # of mean 0 over blocks
        error = (blocks / (blocks - 1) * left.square().sum(0)).sqrt() / weight
        return ratio / self.resting_penalty, error / self.resting_penalty


def _chunks(tokens: int) -> Iterator[slice]:
    for start in range(0, tokens, CHUNK):
        yield slice(start, min(start + CHUNK, tokens))


@torch.no_grad()
def feature_tokens(
    sae: JumpReLUSAE,
    x: Float[Tensor, "tokens d_model"],
    features: Int[Tensor, " features"],
    scale: float,
) -> FeatureTokens:
    """`features` of a saved SAE on raw activations; `scale`: C."""
    rows = sae.W_dec[features].float()
    square_norm = rows.square().sum(1)
    z = torch.empty(len(features), len(x), device=x.device)
    pull = torch.empty_like(z)
    for part in _chunks(len(x)):
        raw = x[part].float()
        pre_acts = sae.pre_acts(raw)
        acts = sae.activate(pre_acts)
        error = raw - sae.output(acts, raw)
        mine = acts[:, features]
        z[:, part] = pre_acts[:, features].T / scale
        pull[:, part] = (error @ rows.T + mine * square_norm).T / scale
    return FeatureTokens(z, pull, sae.threshold[features] / scale, square_norm)


@torch.no_grad()
def marginal(
    sae: JumpReLUSAE, x: Float[Tensor, "tokens d_model"], units: TrainingUnits, blocks: int
) -> Marginal:
    """Of every feature, with a rectangle of the bandwidth that the run had."""
    size = len(x) // blocks
    device = x.device
    sums = [in_float64(torch.zeros(blocks, sae.cfg.d_sae, device=device)) for _ in range(3)]
    for block in range(blocks):
        for part in _chunks(size):
            raw = x[block * size + part.start : block * size + part.stop].float()
            z = sae.pre_acts(raw)
            acts = sae.activate(z)
            pull = (raw - sae.output(acts, raw)) @ sae.W_dec.T
            weight = ((z - sae.threshold).abs() < units.bandwidth * units.scale / 2).float()
            weight /= units.bandwidth
            each = 2 * sae.threshold * pull / units.scale**2
            for total, values in zip(
                sums, (weight, weight * each, (acts > 0).float()), strict=True
            ):
                total[block] += in_float64(values.sum(0))
    return Marginal(*sums, block_tokens=size)


@torch.no_grad()
def spread_features(
    frequency: Float[Tensor, " d_sae"], count: int, low: float = 1e-3, high: float = 0.1
) -> Int[Tensor, " features"]:
    """`count` features, evenly spaced by the rank of their frequency among those that are active on
    between `low` and `high` of the tokens; fewer where there are fewer.
    """
    order = frequency.argsort()
    order = order[(frequency[order] >= low) & (frequency[order] <= high)]
    places = torch.linspace(0, len(order) - 1, min(count, len(order)), device=order.device)
    return order[places.round().long()]


@dataclass(frozen=True)
class SaeTokens:
    """An SAE of a bundle on a text: of all features their sums, of some every token."""

    name: str
    site: str
    units: TrainingUnits
    sums: Marginal
    features: Int[Tensor, " features"]
    """Those of `sample`, spread over frequencies."""
    frequency: Float[Tensor, " features"]
    sample: FeatureTokens

    @property
    def tokens(self) -> int:
        """In the blocks of `sums`."""
        return len(self.sums.weight) * self.sums.block_tokens


def sae_tokens(demo: Demo, rows: Sequence[TokenRow]) -> Iterator[SaeTokens]:
    """Of every SAE of the bundle, in its order, from one pass of the language model."""
    saes = {name: demo.sae(name) for name in demo.sae_names}
    sites = {name: str(sae.cfg.site) for name, sae in saes.items()}
    at_sites = demo.activations(rows, list(dict.fromkeys(sites.values())))
    for name, sae in saes.items():
        x = at_sites[sites[name]]
        units = units_of(sae, x)
        sums = marginal(sae, x, units, BLOCKS)
        frequency = (sums.fires.sum(0) / (BLOCKS * sums.block_tokens)).float()
        chosen = spread_features(frequency, SPREAD)
        sample = feature_tokens(sae, x, chosen, units.scale)
        yield SaeTokens(name, sites[name], units, sums, chosen, frequency[chosen], sample)
