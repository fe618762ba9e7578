"""Intruder and detection scores without a language model that explains: a classifier on the
language model's own token embeddings decides.

It sees of a token its embedding and the mean of those of up to `BEFORE` tokens before it in its
row, scaled by their covariance over all tokens. So it knows which words are there, and hardly
their order: a score says how well nearby words tell where a feature is active, which is less than
what a reader would see. What a language model or a person would say, it does not say.

Detection: the direction between the mean of `SHOWN` tokens on which a feature is active and that of
as many on which it is not, from one half of the rows; the score is the share that it tells right of
as many of either kind from the other half, the bound halfway: 50 % by chance.

Intruder: four of a feature's `STRONGEST` tokens and one of another feature's; the one named is that
with the least mean cosine to the other four: 20 % by chance. `TRIALS` of each feature.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from benchmarks.paper.held_out import HeldOut, activations_of, interval
from sae_core.sae import SAE

BEFORE = 8
SHOWN = 100
STRONGEST = 40
TRIALS = 20
LEAST = 4 * SHOWN
"""Tokens on which a feature must be active to be scored."""
RIDGE = 3.0
"""Added to the covariance, as a share of its mean eigenvalue; of 0.001, 0.03, 0.3 and 3 the one
with the highest scores on one of the demo's own SAEs."""


@torch.no_grad()
def embedded(model: Any, held: HeldOut) -> Float[Tensor, "tokens width"]:
    """Of every token what the classifier sees of it, scaled."""
    table = model.get_input_embeddings().weight.detach().float()
    own = table[held.ids]
    total, count = torch.zeros_like(own), torch.zeros(len(own), 1, device=own.device)
    for back in range(1, BEFORE + 1):
        same = (held.row[back:] == held.row[:-back])[:, None].float()
        total[back:] += own[:-back] * same
        count[back:] += same
    seen = torch.cat([own, total / count.clamp(min=1)], 1).double()
    seen -= seen.mean(0)
    covariance = seen.T @ seen / len(seen)
    values, vectors = torch.linalg.eigh(covariance)
    scale = (values.clamp(min=0) + RIDGE * values.mean()).rsqrt()
    return (seen @ (vectors * scale)).float()


@torch.no_grad()
def scores(
    sae: SAE,
    held: HeldOut,
    seen: Float[Tensor, "tokens width"],
    features: Int[Tensor, " n"],
    seed: int = 0,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Detection and intruder scores of features. The first needs `SHOWN` tokens on which a feature
    is active, and as many on which it is not, in either half of the rows, else it is NaN.
    """
    acts = activations_of(sae, held, features)
    first = held.row % 2 == 0
    generator = torch.Generator(device=acts.device).manual_seed(seed)
    return (
        _detection(acts > 0, first, seen, generator),
        _intruder(acts, seen, generator),
    )


def _detection(
    active: Bool[Tensor, "tokens n"],
    first: Bool[Tensor, " tokens"],
    seen: Float[Tensor, "tokens width"],
    generator: torch.Generator,
) -> Float[Tensor, " n"]:
    groups = [
        (here[:, None] & state).T for here in (first, ~first) for state in (active, ~active)
    ]  # [n, tokens]
    enough = torch.stack([group.sum(1) >= SHOWN for group in groups]).all(0)
    result = torch.full((active.shape[1],), torch.nan, device=seen.device)
    if not bool(enough.any()):
        return result
    on, off, test_on, test_off = (
        seen[torch.multinomial(group[enough].float(), SHOWN, generator=generator)]
        for group in groups
    )
    high, low = on.mean(1), off.mean(1)
    direction, middle = high - low, (high + low) / 2

    def told(tokens: Tensor) -> Tensor:
        return torch.einsum("nkd,nd->nk", tokens - middle[:, None], direction) > 0

    right = (told(test_on).float().mean(1) + (~told(test_off)).float().mean(1)) / 2
    result[enough] = right
    return result


def _intruder(
    acts: Float[Tensor, "tokens n"],
    seen: Float[Tensor, "tokens width"],
    generator: torch.Generator,
) -> Float[Tensor, " n"]:
    count = acts.shape[1]
    if count < 2:
        return torch.full((count,), torch.nan, device=acts.device)
    strongest = acts.topk(min(STRONGEST, len(acts)), dim=0).indices.T  # [n, STRONGEST]
    device = acts.device
    unit = torch.nn.functional.normalize(seen, dim=1)
    right = torch.zeros(count, device=device)
    every = torch.arange(count, device=device)
    for _ in range(TRIALS):
        order = torch.rand(count, strongest.shape[1], device=device, generator=generator)
        own = strongest.gather(1, order.topk(4, dim=1).indices)
        step = torch.randint(1, count, (count,), device=device, generator=generator)
        pick = torch.randint(strongest.shape[1], (count,), device=device, generator=generator)
        other = strongest[(every + step) % count, pick]
        shown = unit[torch.cat([own, other[:, None]], 1)]
        cosine = shown @ shown.transpose(1, 2)
        right += (cosine.sum(2).argmin(1) == 4).float()
    return right / TRIALS


def summary(values: Float[Tensor, " n"]) -> list[float] | None:
    """Mean over features with its interval, and their number; None without any."""
    known = values[~values.isnan()]
    return [*interval(known), len(known)] if len(known) else None
