"""An SAE in the form it is trained in: how it starts, and how it becomes one that takes raw input.

Trained on x = raw / C, with the pre-encoder bias b_dec subtracted and, where decoder rows are not
held at norm 1, with rows of norms n. Saved as (Gemma Scope, app. A, but for n)

    W_enc' = n W_enc        W_dec' = W_dec / n        b_dec' = C b_dec
    b_enc' = C n (b_enc - b_dec @ W_enc)              threshold' = C n threshold

so that the tensors take raw activations and give raw ones, and decoder rows have norm 1. Of a Gated
SAE, b_gate becomes what b_enc does, and b_mag' = C n (b_mag - exp(r_mag) * (b_dec @ W_enc)).
"""

from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.config import SAEConfig
from sae_core.sae import SAE
from training.losses import Parameters
from training.recipes import RECIPES, Recipe
from training.shard import ALONE, Shard, features_dim

THRESHOLD_FLOOR = 1e-6
"""Thresholds stay at or above this, in units of the scaled input, so that they are positive."""

EASE = 0.85
"""JumpReLU's first thresholds over those of a `fitted_start`: with them a little lower, fewer
features were dead in the end (docs/training.md)."""


def initial_parameters(
    d_model: int,
    d_sae: int,
    threshold: float,
    seed: int,
    device: torch.device | str = "cpu",
    recipe: Recipe = RECIPES["jumprelu"],
    mean: Float[Tensor, " d_model"] | None = None,
    shard: Shard = ALONE,
) -> Parameters:
    """Float32 leaves: W_dec with He-uniform rows scaled to norm 1, W_enc its transpose, biases 0.

    `mean`: of the scaled activations, where b_dec starts if the recipe says so or `threshold` is 0,
    which stands for the `fitted_start`; `shard`: the part of the features to return.

    A threshold is a parameter itself, not its logarithm: Adam moves a parameter by about lr a step,
    which for a logarithm is lr times the threshold and freezes small ones. It is float32 because in
    bfloat16 a step of 1e-4 on a threshold of 0.04 is rounded away.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = (6 / d_model) ** 0.5
    W_dec = torch.empty(d_sae, d_model).uniform_(-bound, bound, generator=generator)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    W_enc = W_dec.T.contiguous()
    b_dec = torch.zeros(d_model)
    fitted = threshold == 0 and recipe.opener is not None
    if mean is not None and (recipe.starts_at_mean or fitted):
        b_dec = mean.detach().float().clone()
    if fitted:
        spread = 1 - float(b_dec.square().sum())
        threshold, factor = fitted_start(d_model, d_sae, spread, shrinks=recipe.shrinks)
        W_enc = W_enc * factor
    start = {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_dec": b_dec,
        **{name: torch.zeros(d_sae) for name in recipe.biases},
    }
    if "threshold" in start:
        first = EASE * threshold if fitted else threshold
        start["threshold"] = torch.full((d_sae,), max(first, THRESHOLD_FLOOR))
    elif fitted:
        start[str(recipe.opener)] -= threshold
    mine = {name: shard.mine(tensor, features_dim(name)) for name, tensor in start.items()}
    return {name: tensor.to(device).requires_grad_() for name, tensor in mine.items()}


def fitted_start(
    d_model: int, d_sae: int, spread: float, *, shrinks: bool = False
) -> tuple[float, float]:
    """A threshold, and a factor on W_dec's transpose for W_enc, that give back the input as well as
    random directions can.

    `spread`: mean squared distance of the scaled activations from b_dec; `shrinks`: whether an
    activation is what is above the threshold, and not the whole.

    Along a random direction activations are about normal with variance spread / d_model. With W_enc
    the transpose, the reconstruction's part along the input is d_sae / d_model times the mean of
    pre-activation times activation over that variance, and the threshold makes this 1. The squared
    norm of the part across the input is d_sae / d_model times the mean squared activation over that
    variance (1 where nothing shrinks), and the factor is the one that is nearest to the input.

    With all that is positive active, the part along the input would be d_sae / (2 d_model): errors,
    and gradients, many times those of later steps, which Adam's second moments remember for some
    thousand steps, dividing what they learn.
    """
    normal = NormalDist()

    def along(t: float) -> float:
        return d_sae / d_model * (normal.cdf(-t) + (0 if shrinks else t * normal.pdf(t)))

    def across(t: float) -> float:
        if not shrinks:
            return along(t)
        return d_sae / d_model * ((1 + t**2) * normal.cdf(-t) - t * normal.pdf(t))

    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if along(middle) > 1 else (low, middle)
    factor = along(low) / (along(low) ** 2 + across(low))
    return factor * low * (max(spread, 0.0) / d_model) ** 0.5, factor


def folded(parameters: Parameters, scale: float, cfg: SAEConfig) -> SAE:
    """The SAE of configuration `cfg` that does to raw activations what was trained on raw / scale.

    On the CPU, float32; the sums are made in float64.
    """
    p = {name: tensor.detach().cpu().double() for name, tensor in parameters.items()}
    norms = p["W_dec"].norm(dim=1)
    # Rows held at norm 1 stay as they are, to the bit; a row of zeros has no direction to keep.
    near_one = (norms - 1).abs() < 1e-5
    norms = torch.where(near_one | (norms == 0), 1.0, norms)
    projected = p["b_dec"] @ p["W_enc"]
    # By how much a vector of d_sae moves when b_dec is no longer subtracted from the input.
    moves = {"threshold": torch.zeros_like(projected)}
    if "r_mag" in p:
        moves["b_mag"] = p["r_mag"].exp() * projected
    sae = SAE.build(cfg)
    for name, value in p.items():
        if name == "W_enc":
            value = value * norms
        elif name == "W_dec":
            value = value / norms[:, None]
        elif name == "b_dec":
            value = scale * value
        elif name != "r_mag":
            value = scale * norms * (value - moves.get(name, projected))
        getattr(sae, name).data = value.float()
    return sae
