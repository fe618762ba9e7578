"""Many small SAEs of one architecture, trained together as batched products.

As `benchmarks.paper.arms`, which is JumpReLU's alone and has one batch for all; here an SAE
(`Kind`) is JumpReLU, Gated, TopK or ReLU at a site, an L0, a learning rate and a seed of its own.
Losses, Adam, revival and the steering of lambda are those of `training` (a test compares them step
by step). Changes to JumpReLU that are tried against dead features (`Cure`) are here alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.arms import RECIPE, Stacked
from benchmarks.paper.kind_gradients import GRADIENTS, Batches, StepInput
from benchmarks.paper.peer_kinds import (
    PEER_RECIPES,
    Peer,
    first_coefficient,
    peer_rate_share,
    peer_start,
    unit,
)
from benchmarks.pareto_peers import Length as Times
from sae_core.config import Architecture
from training.assembly import rule, sparsity_control
from training.losses.base import AutogradLoss, Limits, steered
from training.optim import BETA2, EPS, rate_share, share_of
from training.recipes import RECIPES, Rule
from training.train_config import SHORT_RUN, TrainConfig, short_run
from training.trained_form import THRESHOLD_FLOOR, initial_parameters

ARCHITECTURES: tuple[Architecture, ...] = ("jumprelu", "gated", "topk", "standard")
_LIMITS = {"jumprelu": Limits(most=0.1, bound=1.0)}
_RESAMPLED = (0.2, 0.3, 0.4, 0.5)
"""Shares of the run after which dead features are made anew, while the rate is constant."""


@dataclass(frozen=True, kw_only=True)
class Cure:
    """What is changed for JumpReLU against dead features; the defaults change nothing."""

    frequency: float = 0.0
    """w_0 of the loss's frequency term; 0: none."""
    b_enc: float = 1.0
    """Share of its learning rate that b_enc has."""
    wide: float = 1.0
    """Times the bandwidth at the start, falling to once in the first half of the run."""
    warmup: float = 1.0
    """Times the penalty's warm-up: the L0 comes down to its target more slowly."""
    resample: bool = False
    """Whether dead features are made anew, from what is reconstructed worst."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One SAE."""

    architecture: Architecture | Peer
    site: str
    target: int
    lr: float
    seed: int
    epsilon: float = SHORT_RUN["bandwidth"]
    cure: Cure = field(default_factory=Cure)

    @property
    def form(self) -> Architecture:
        """What the trained SAE is: peers' are JumpReLU SAEs."""
        return "jumprelu" if self.architecture in PEER_RECIPES else self.architecture  # pyright: ignore


@dataclass(frozen=True, kw_only=True)
class Length:
    """Of every SAE's training, and its width."""

    d_sae: int
    batch: int
    steps: int

    def config(self, kind: Kind) -> TrainConfig:
        """What the trainer would be told of one; names that it needs and this does not are made
        up.
        """
        return short_run(
            model="-",
            corpus=("-",),
            sites=(kind.site,),
            architectures=(kind.form,),
            out="-",
            d_sae=self.d_sae,
            batch=self.batch,
            tokens=self.batch * self.steps,
            l0_targets=(kind.target,),
            lrs=(kind.lr,),
            bandwidth=kind.epsilon,
            seed=kind.seed,
            **RECIPE,
        )

    @property
    def times(self) -> Times:
        """As peers count them."""
        return Times(steps=self.steps, batch=self.batch)


Moments = Mapping[str, tuple[float, Float[Tensor, " d_model"], float]]
"""By site: C, the mean of the raw activations, and the mean of their norms."""


@dataclass
class Trained:
    """SAEs in training: `[kinds, ...]` each."""

    kinds: Sequence[Kind]
    parameters: Stacked
    first: Stacked
    second: Stacked
    constant: Stacked
    moving: Stacked
    """multiplier, l0 `[kinds]`; tokens_since_fired `[kinds, d_sae]`."""
    rule: Rule
    scales: list[float]


def begin(kinds: Sequence[Kind], length: Length, moments: Moments) -> Trained:
    """Before the first step; ValueError for kinds of several architectures."""
    architecture = kinds[0].architecture
    if any(kind.architecture != architecture for kind in kinds):
        raise ValueError("SAEs that are trained together must be of one architecture.")
    device = next(iter(moments.values()))[1].device
    starts, control, scales = [], [], []
    peer = PEER_RECIPES.get(architecture)
    d_model = len(next(iter(moments.values()))[1])
    windows = [k.epsilon * (unit(architecture, d_model) if peer else 1.0) for k in kinds]
    for kind, window in zip(kinds, windows, strict=True):
        cfg = length.config(kind)
        scale, mean, norm = moments[kind.site]
        coefficient, gain = sparsity_control(cfg, cfg.plans[0])
        if peer:
            start = peer_start(architecture, d_model, length.d_sae, kind.seed, window, device)
            coefficient = first_coefficient(architecture, d_model, kind.target)
            scale = norm / d_model**0.5 if architecture == "saelens" else scale
        else:
            recipe = RECIPES[kind.form]
            start = initial_parameters(
                d_model, length.d_sae, 0.0, kind.seed, device, recipe, mean / scale
            )
        starts.append(start)
        control.append((coefficient, gain))
        scales.append(scale)
    stacked = {n: torch.stack([s[n].detach() for s in starts]) for n in starts[0]}

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    cfg = length.config(kinds[0])
    common = peer.rule if peer else rule(cfg, cfg.plans[0])
    in_steps = length.times.sparsity_warmup if peer else cfg.in_steps(cfg.sparsity_warmup)
    warmup = max(1.0, in_steps)
    floor = peer.floor if peer else THRESHOLD_FLOOR
    cures = [kind.cure for kind in kinds]
    count = len(kinds)
    return Trained(
        kinds=kinds,
        parameters=stacked,
        first={n: torch.zeros_like(p) for n, p in stacked.items()},
        second={n: torch.zeros_like(p) for n, p in stacked.items()},
        constant={
            "lr": column([kind.lr for kind in kinds]),
            "target": column([kind.target for kind in kinds]),
            "epsilon": column(windows),
            "coefficient": column([c for c, _ in control]),
            "gain": column([g for _, g in control]),
            "warmup": column([warmup * cure.warmup for cure in cures]),
            "crowding": column([1 / cure.frequency if cure.frequency else 0.0 for cure in cures]),
            "b_enc": column([cure.b_enc for cure in cures]),
            "dead_tokens": torch.full((count,), float(common.dead_tokens), device=device),
            "floor": torch.full((count,), floor, device=device),
            "wide": column([cure.wide for cure in cures]),
            "half": torch.full((count,), length.steps / 2, device=device),
            "aux_after": torch.full((count,), float(cfg.dead_after), device=device),
            "mean": torch.stack([moments[k.site][1] / moments[k.site][0] for k in kinds]),
        },
        moving={
            "multiplier": torch.zeros(count, device=device),
            "l0": torch.zeros(count, device=device),
            "tokens_since_fired": torch.zeros(count, length.d_sae, device=device),
        },
        rule=replace(common, dead_tokens=inf),  # a constant above: one step for runs of any length
        scales=scales,
    )


@torch.no_grad()
def take_step(
    p: Stacked,
    first: Stacked,
    second: Stacked,
    c: Stacked,
    moving: Stacked,
    x: Batches,
    control: Float[Tensor, " 3"],
    *,
    architecture: Architecture | Peer,
    rule: Rule,
    products: torch.dtype,
) -> None:
    """Move everything by one batch of scaled activations, in place."""
    share, correction, step = control.unbind()
    batch = x.shape[1]
    strength = ((step - 1) / c["warmup"]).clamp(max=1)
    gradients, fires = GRADIENTS[architecture](StepInput(p, c, moving, x, strength, step, products))
    if rule.unit_norm:
        rows, gradient = p["W_dec"], gradients["W_dec"]
        gradients["W_dec"] = gradient - (gradient * rows).sum(2, keepdim=True) * rows
    if rule.clip is not None:
        squares = torch.stack([g.square().flatten(1).sum(1) for g in gradients.values()])
        factor = (rule.clip / squares.sum(0).sqrt().clamp(min=EPS)).clamp(max=1)
        gradients = {n: g * _along(factor, g) for n, g in gradients.items()}
    active = fires.sum(1)
    since = torch.where(active > 0, 0.0, moving["tokens_since_fired"] + batch)
    for name, parameter in p.items():
        g = gradients[name]
        v = BETA2 * second[name] + (1 - BETA2) * g.square()
        m = rule.beta1 * first[name] + (1 - rule.beta1) * g
        lr = c["lr"] * share * share_of(name, parameter[0], rule)
        if name == "b_enc":
            lr = lr * c["b_enc"]
        moved = m / (1 - rule.beta1**step) / ((v / correction).sqrt() + EPS)
        new = parameter - _along(lr, parameter) * moved
        if name == "W_dec" and rule.unit_norm:
            new = new / new.norm(dim=2, keepdim=True)
        if name == "threshold":
            floor = c["floor"][:, None]
            new = torch.maximum(new, floor)
            lower = new * (1 - rule.revive * lr[:, None])
            dead = since >= c["dead_tokens"][:, None]
            new = torch.where(dead, torch.maximum(lower, floor), new)
        second[name].copy_(v)
        first[name].copy_(m)
        parameter.copy_(new)
    l0 = active.sum(1) / batch
    limits = _LIMITS.get(architecture, AutogradLoss.limits)
    moving["multiplier"].copy_(
        steered(moving["multiplier"], l0, c["target"], c["gain"], strength, limits)
    )
    moving["tokens_since_fired"].copy_(since)
    moving["l0"].copy_(l0)


def _along(each: Float[Tensor, " kinds"], like: Tensor) -> Tensor:
    return each.reshape(-1, *[1] * (like.dim() - 1))


def moments_of(raw: Mapping[str, Float[Tensor, "tokens d_model"]]) -> dict[str, Any]:
    """What training takes from each site (`Moments`)."""
    found = {}
    for site, x in raw.items():
        held = x[: 2**19].float()
        found[site] = (
            float(held.square().sum(1).mean().sqrt()),
            held.mean(0),
            float(held.norm(dim=1).mean()),
        )
    return found


def train(
    kinds: Sequence[Kind],
    length: Length,
    raw: Mapping[str, Float[Tensor, "tokens d_model"]],
    step: Callable[..., None] = take_step,
) -> Trained:
    """Train the kinds on the raw activations of their sites: every token once, in an order made by
    the kind's seed; as often again as the run needs, each time in another.

    `step`: `take_step` or what a compiler made of it.
    """
    trained = begin(kinds, length, moments_of(raw))
    device = next(iter(raw.values())).device
    held = len(next(iter(raw.values())))
    orders = {kind.seed: _order(kind.seed, held, length, device) for kind in kinds}
    cfg, architecture = length.config(kinds[0]), kinds[0].architecture

    def share(t: int) -> float:
        if architecture in PEER_RECIPES:
            return peer_rate_share(architecture, t, length.times)
        return rate_share(cfg, t)

    controls = torch.tensor(
        [(share(t), 1 - BETA2 ** (t + 1), t + 1.0) for t in range(length.steps)],
        dtype=torch.float32,
        device=device,
    )
    sources = list(dict.fromkeys((kind.site, kind.seed) for kind in kinds))
    source = torch.tensor([sources.index((k.site, k.seed)) for k in kinds], device=device)
    scales = torch.tensor(trained.scales, device=device)[:, None, None]
    resampled = {round(share * length.steps) for share in _RESAMPLED}
    products = torch.bfloat16 if device.type == "cuda" else torch.float32
    for at in range(length.steps):
        part = slice(at * length.batch, (at + 1) * length.batch)
        each = torch.stack([raw[site][orders[seed][part]] for site, seed in sources])
        x = each[source].float() / scales
        step(
            trained.parameters,
            trained.first,
            trained.second,
            trained.constant,
            trained.moving,
            x,
            controls[at],
            architecture=architecture,
            rule=trained.rule,
            products=products,
        )
        if at + 1 in resampled:
            for k, kind in enumerate(kinds):
                if kind.cure.resample:
                    resample(trained, k, x[k])
    return trained


@lru_cache(maxsize=8)
def _order(seed: int, tokens: int, length: Length, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    needed = length.batch * length.steps
    passes = [torch.randperm(tokens, generator=generator) for _ in range(-(-needed // tokens))]
    return torch.cat(passes)[:needed].to(device)


@torch.no_grad()
def resample(trained: Trained, k: int, x: Float[Tensor, "batch d_model"]) -> int:
    """Make the dead features of one SAE anew, each from a token drawn by its squared error; how
    many. A feature's decoder row is what is left of the token, its encoder row half of that, its
    threshold the median of the living, and its moments start anew (Bricken et al., "Towards
    Monosemanticity").
    """
    p = {name: each[k] for name, each in trained.parameters.items()}
    dead = trained.moving["tokens_since_fired"][k] >= trained.constant["dead_tokens"][k]
    which = dead.nonzero()[:, 0]
    if not len(which) or bool(dead.all()):
        return 0
    z = (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    left = x - torch.where(z > p["threshold"], z, 0.0) @ p["W_dec"] - p["b_dec"]
    generator = torch.Generator().manual_seed(trained.kinds[k].seed + len(which))
    weights = left.square().sum(1).cpu()
    drawn = torch.multinomial(weights, len(which), replacement=True, generator=generator)
    rows = left[drawn.to(x.device)]
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=EPS)
    p["W_dec"][which] = rows
    p["W_enc"][:, which] = rows.T / 2
    p["b_enc"][which] = 0
    p["threshold"][which] = p["threshold"][~dead].median()
    for moments in (trained.first, trained.second):
        moments["W_dec"][k][which] = 0
        moments["W_enc"][k][:, which] = 0
        for name in ("b_enc", "threshold"):
            moments[name][k][which] = 0
    trained.moving["tokens_since_fired"][k][which] = 0
    return len(which)
