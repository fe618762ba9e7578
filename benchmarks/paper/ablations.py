"""Very frequent features cut out of an SAE: portions, sets of like size, and arms without them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from benchmarks.paper.demo import Demo
from benchmarks.paper.held_out import HeldOut, interval
from sae_core.corpus import TokenRow, batches
from sae_core.head import hidden_states
from sae_core.metrics import ReconstructionStats, affected, token_comparison
from sae_core.sae import SAE
from sae_core.sites import rewrite

BOUND = 0.1
ORDINARY = (0.001, BOUND)
"""Frequencies of the features that they are compared with."""
BUDGET = 1 / 16
"""Share of all activity, or mass, that a draw has, or less where its group has less."""
DRAWS = 3


@dataclass(frozen=True)
class Portions:
    """Of every feature on the sample."""

    frequency: Float[Tensor, " d_sae"]
    mass: Float[Tensor, " d_sae"]
    """Mean over tokens of the activation times the norm of the decoder row."""
    mean: Float[Tensor, " d_sae"]
    fvu: float

    @property
    def very(self) -> Bool[Tensor, " d_sae"]:
        """Which are very frequent."""
        return self.frequency > BOUND

    @property
    def ordinary(self) -> Bool[Tensor, " d_sae"]:
        """Which they are compared with."""
        return (self.frequency >= ORDINARY[0]) & ~self.very


@torch.no_grad()
def portions(sae: SAE, held: HeldOut) -> Portions:
    """Frequencies, masses, means, and FVU, on the whole sample."""
    stats = ReconstructionStats(sae.cfg.d_model, sae.cfg.d_sae, held.x.device)
    total = torch.zeros(sae.cfg.d_sae, dtype=torch.float64, device=held.x.device)
    for part in held.parts():
        x = held.x[part].float()
        acts = sae.encode(x)
        stats.update(x, sae.decode(acts), acts)
        total += acts.sum(0).double()
    mean = (total / stats.tokens).float()
    return Portions(
        frequency=stats.frequency().float(),
        mass=mean * sae.W_dec.norm(dim=1),
        mean=mean,
        fvu=stats.result()["fvu"],
    )


@torch.no_grad()
def fvu_without(
    sae: SAE, held: HeldOut, without: Bool[Tensor, " d_sae"], at: Float[Tensor, " d_sae"]
) -> float:
    """FVU where these features' activations are held at `at`."""
    stats = ReconstructionStats(sae.cfg.d_model, sae.cfg.d_sae, held.x.device)
    for part in held.parts():
        x = held.x[part].float()
        acts = torch.where(without, at, sae.encode(x))
        stats.update(x, sae.decode(acts), acts)
    return stats.result()["fvu"]


def drawn_sets(
    weight: Float[Tensor, " d_sae"],
    among: Bool[Tensor, " d_sae"],
    budget: float,
    generator: torch.Generator,
) -> list[Int[Tensor, " n"]]:
    """`DRAWS` sets of random features whose weights sum up to about `budget`, at least one each: in
    a random order, those up to where the sum is nearest to it.
    """
    features = among.nonzero()[:, 0].cpu()
    if not len(features):
        return []
    sets = []
    for _ in range(DRAWS):
        order = features[torch.randperm(len(features), generator=generator)]
        sums = weight.cpu()[order].double().cumsum(0)
        sets.append(order[: int((sums - budget).abs().argmin()) + 1].to(weight.device))
    return sets


@dataclass(frozen=True)
class Ablated:
    """What arms do to predictions, `[arms, rows]` each."""

    loss: Tensor
    """Sum over a row's predictions of the loss minus the model's own, nats."""
    kl: Tensor
    predictions: Tensor
    """How many each row has, `[rows]`."""

    def of(self, arms: Sequence[int]) -> dict[str, Any]:
        """The mean over arms, in nats per token, with intervals over rows."""
        chosen = list(arms)
        count = self.predictions
        return {
            "loss": interval(self.loss[chosen].mean(0), count),
            "kl": interval(self.kl[chosen].mean(0), count),
        }

    def ends(self, arms: Sequence[int]) -> dict[str, float]:
        """The least and the largest KL of single arms, nats per token."""
        each = self.kl[list(arms)].sum(1) / self.predictions.sum()
        return {"kl_least": float(each.min()), "kl_most": float(each.max())}


@torch.no_grad()
def ablated(
    demo: Demo,
    sae: SAE,
    rows: Sequence[TokenRow],
    arms: Sequence[tuple[Int[Tensor, " n"], Float[Tensor, " n"] | None]],
) -> Ablated:
    """Each arm holds its features' activations at 0, or at the values given, at every token that
    counts; the error is kept. After them comes one more arm: the reconstruction in its place.
    """
    assert sae.cfg.site is not None
    place = sae.cfg.site
    losses, kls, counts = [], [], []
    for batch in batches(rows, demo.tokenizer, 16):
        ids, mask = batch.input_ids.to(demo.device), batch.mask.to(demo.device)
        kept: list[Tensor] = []

        def keep(x: Tensor, y: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(x.float())
            return y

        with rewrite(demo.model, place, place, keep):
            base = hidden_states(demo.model, ids)
        acts = sae.encode(kept[0]) * mask[..., None]
        deltas = []
        for features, values in arms:
            moved = acts[..., features]
            if values is not None:
                moved = moved - values * mask[..., None]
            deltas.append(moved @ sae.W_dec[features])
        deltas.append((kept[0] - sae.decode(acts)) * mask[..., None])
        states = []
        for delta in deltas:

            def cut(_x: Tensor, y: Tensor, delta: Tensor = delta) -> Tensor:
                return (y.float() - delta).to(y.dtype)

            with rewrite(demo.model, place, place, cut):
                states.append(hidden_states(demo.model, ids))
        own, compared = token_comparison(demo.model, base, states, ids)
        predicted = affected(batch.mask).to(own.device)
        counts.append(predicted.sum(1))
        losses.append(torch.stack([_row_sums(each - own, predicted) for each, _ in compared]))
        kls.append(torch.stack([_row_sums(kl, predicted) for _, kl in compared]))
    return Ablated(torch.cat(losses, 1).cpu(), torch.cat(kls, 1).cpu(), torch.cat(counts).cpu())


def _row_sums(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, 0.0).double().sum(1)


def without(
    demo: Demo,
    sae: SAE,
    held: HeldOut,
    part: Portions,
    rows: Sequence[TokenRow],
    generator: torch.Generator,
) -> dict[str, Any]:
    """Without the very frequent features, and without draws of them and of others."""
    very, ordinary = part.very, part.ordinary
    every = very.nonzero()[:, 0]
    arms: list[tuple[Tensor, Tensor | None]] = [(every, None), (every, part.mean[very])]
    draws: dict[str, list[int]] = {}
    sizes: dict[str, dict[str, float]] = {}
    for name, weight in (("activity", part.frequency), ("mass", part.mass)):
        if not (bool(very.any()) and bool(ordinary.any())):
            break
        total = float(weight.sum())
        budget = min(BUDGET * total, *(float(weight[g].sum()) for g in (very, ordinary)))
        for group, among in (("very", very), ("ordinary", ordinary)):
            sets = drawn_sets(weight, among, budget, generator)
            key = f"{group}_by_{name}"
            draws[key] = list(range(len(arms), len(arms) + len(sets)))
            sizes[key] = {
                what: sum(float(values[each].sum()) for each in sets) / len(sets)
                for what, values in (
                    ("features", torch.ones_like(weight)),
                    ("activity", part.frequency),
                    ("mass", part.mass / part.mass.sum()),
                )
            }
            arms += [(each, None) for each in sets]
    found = ablated(demo, sae, rows, arms)
    return {
        "fvu_zero": fvu_without(sae, held, very, 0 * part.mean),
        "fvu_mean": fvu_without(sae, held, very, part.mean),
        "loss_rows": len(rows),
        "all_zero": found.of([0]),
        "all_mean": found.of([1]),
        "spliced": found.of([len(arms)]),
        "draws": {
            key: sizes[key] | found.of(each) | found.ends(each) for key, each in draws.items()
        },
    }
