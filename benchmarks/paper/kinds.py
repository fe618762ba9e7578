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
from jaxtyping import Bool, Float
from torch import Tensor

from benchmarks.paper.arms import RECIPE, Stacked
from sae_core.config import Architecture
from training.assembly import rule, sparsity_control
from training.losses.base import AutogradLoss, Limits, steered
from training.losses.topk_loss import AUX_WEIGHT
from training.optim import BETA2, EPS, rate_share, share_of
from training.recipes import RECIPES, Rule
from training.train_config import SHORT_RUN, TrainConfig, short_run
from training.trained_form import THRESHOLD_FLOOR, initial_parameters

ARCHITECTURES: tuple[Architecture, ...] = ("jumprelu", "gated", "topk", "standard")
CLIPPED = tuple(name for name in ARCHITECTURES if RECIPES[name].rule.clip is not None)
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

    architecture: Architecture
    site: str
    target: int
    lr: float
    seed: int
    epsilon: float = SHORT_RUN["bandwidth"]
    cure: Cure = field(default_factory=Cure)


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
            architectures=(kind.architecture,),
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


Moments = Mapping[str, tuple[float, Float[Tensor, " d_model"]]]
"""By site: C, and the mean of the raw activations."""


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
    starts, control = [], []
    for kind in kinds:
        cfg = length.config(kind)
        scale, mean = moments[kind.site]
        recipe = RECIPES[architecture]
        starts.append(
            initial_parameters(
                len(mean), length.d_sae, 0.0, kind.seed, device, recipe, mean / scale
            )
        )
        control.append(sparsity_control(cfg, cfg.plans[0]))
    stacked = {n: torch.stack([s[n].detach() for s in starts]) for n in starts[0]}

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    cfg = length.config(kinds[0])
    common = rule(cfg, cfg.plans[0])
    warmup = max(1.0, cfg.in_steps(cfg.sparsity_warmup))
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
            "epsilon": column([kind.epsilon for kind in kinds]),
            "coefficient": column([c for c, _ in control]),
            "gain": column([g for _, g in control]),
            "warmup": column([warmup * cure.warmup for cure in cures]),
            "crowding": column([1 / cure.frequency if cure.frequency else 0.0 for cure in cures]),
            "b_enc": column([cure.b_enc for cure in cures]),
            "dead_tokens": torch.full((count,), float(common.dead_tokens), device=device),
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
        scales=[moments[kind.site][0] for kind in kinds],
    )


Batches = Float[Tensor, "kinds batch d_model"]
Features = Float[Tensor, "kinds batch d_sae"]


@dataclass
class _Step:
    """What the gradients of all architectures are made from."""

    p: Stacked
    c: Stacked
    moving: Stacked
    x: Batches
    strength: Float[Tensor, " kinds"]
    step: Tensor
    products: torch.dtype

    def __post_init__(self) -> None:
        self.W_enc = self.p["W_enc"].to(self.products)
        self.W_dec = self.p["W_dec"].to(self.products)
        self.centred = (self.x - self.p["b_dec"][:, None]).to(self.products)

    def project(self) -> Features:
        return torch.bmm(self.centred, self.W_enc).float()

    def error(self, acts: Features) -> Batches:
        recon = torch.bmm(acts.to(self.products), self.W_dec).float()
        return recon + self.p["b_dec"][:, None] - self.x

    def by_acts(self, by_recon: Batches) -> Features:
        return torch.bmm(by_recon.to(self.products), self.W_dec.transpose(1, 2)).float()

    def by_decoder(self, acts: Features, by_recon: Batches) -> Tensor:
        acts = acts.to(self.products).transpose(1, 2)
        return torch.bmm(acts, by_recon.to(self.products)).float()

    def by_encoder(self, by_projection: Features) -> Tensor:
        return torch.bmm(self.centred.transpose(1, 2), by_projection.to(self.products)).float()

    def by_b_dec(self, by_recon: Float[Tensor, "kinds d_model"], by_projection: Tensor) -> Tensor:
        """`by_projection` is summed over tokens: the encoder reads (x - b_dec) @ W_enc."""
        return by_recon - (self.p["W_enc"] * by_projection[:, None]).sum(2)

    def weight(self, l0: Float[Tensor, " kinds"]) -> Float[Tensor, " kinds"]:
        """`training.losses.base.surrogate_weight`, of every kind."""
        most = AutogradLoss.limits.most
        e = (l0 / self.c["target"] - 1).clamp(-most, most)
        return self.c["coefficient"] * self.strength * (e + self.moving["multiplier"]).exp()


Gradients = tuple[Stacked, Bool[Tensor, "kinds batch d_sae"]]


def _jumprelu(s: _Step) -> Gradients:
    batch, c = s.x.shape[1], s.c
    z = s.project() + s.p["b_enc"][:, None]
    threshold = s.p["threshold"][:, None]
    fires = z > threshold
    on = fires.float()
    by_recon = s.error(z * on) * (2 / batch)
    by_acts = s.by_acts(by_recon)
    often = on.sum(1) / batch
    slope = 2 * (often.sum(1) / c["target"] - 1) + s.moving["multiplier"]
    slope = c["coefficient"] * s.strength * slope / c["target"]
    crowded = slope.clamp(min=0) * c["crowding"]
    cost = (slope[:, None] + 2 * crowded[:, None] * often)[:, None] / batch
    left = (1 - s.step / c["half"]).clamp(min=0)
    width = (c["epsilon"] * c["wide"] ** left)[:, None, None]
    near = ((z - threshold).abs() < width / 2).float() / width
    by_z = by_acts * on
    by_b_enc = by_z.sum(1)
    return {
        "W_enc": s.by_encoder(by_z),
        "b_enc": by_b_enc,
        "W_dec": s.by_decoder(z * on, by_recon),
        "b_dec": s.by_b_dec(by_recon.sum(1), by_b_enc),
        "threshold": (near * (-threshold * by_acts - cost)).sum(1),
    }, fires


def _gated(s: _Step) -> Gradients:
    batch, p = s.x.shape[1], s.p
    z = s.project()
    gate = z + p["b_gate"][:, None]
    growth = p["r_mag"].exp()[:, None]
    magnitude = (growth * z + p["b_mag"][:, None]).relu()
    acts = torch.where(gate > 0, magnitude, 0.0)
    opened = gate.relu()
    by_recon, by_gates = (s.error(each) * (2 / batch) for each in (acts, opened))
    fires = acts > 0
    weight = s.weight(fires.sum((1, 2)) / batch)[:, None]
    norms = p["W_dec"].norm(dim=2)
    by_magnitude = s.by_acts(by_recon) * fires
    by_opened = (s.by_acts(by_gates) + (weight * norms / batch)[:, None]) * (gate > 0)
    by_z = by_opened + growth * by_magnitude
    lengths = (weight * opened.sum(1) / batch / norms)[:, :, None] * p["W_dec"]
    return {
        "W_enc": s.by_encoder(by_z),
        "b_gate": by_opened.sum(1),
        "b_mag": by_magnitude.sum(1),
        "r_mag": (by_magnitude * z).sum(1) * growth[:, 0],
        "W_dec": s.by_decoder(acts, by_recon) + s.by_decoder(opened, by_gates) + lengths,
        "b_dec": s.by_b_dec((by_recon + by_gates).sum(1), by_z.sum(1)),
    }, fires


def _standard(s: _Step) -> Gradients:
    batch, p = s.x.shape[1], s.p
    acts = (s.project() + p["b_enc"][:, None]).relu()
    fires = acts > 0
    by_recon = s.error(acts) * (2 / batch)
    weight = s.weight(fires.sum((1, 2)) / batch)[:, None]
    norms = p["W_dec"].norm(dim=2)
    by_z = (s.by_acts(by_recon) + (weight * norms / batch)[:, None]) * fires
    by_b_enc = by_z.sum(1)
    lengths = (weight * acts.sum(1) / batch / norms)[:, :, None] * p["W_dec"]
    return {
        "W_enc": s.by_encoder(by_z),
        "b_enc": by_b_enc,
        "W_dec": s.by_decoder(acts, by_recon) + lengths,
        "b_dec": s.by_b_dec(by_recon.sum(1), by_b_enc),
    }, fires


def _topk(s: _Step) -> Gradients:
    batch, p = s.x.shape[1], s.p
    z = s.project() + p["b_enc"][:, None]
    positive = z.relu()
    fires = (positive >= cuts(positive, s.c["target"].int())[:, :, None]) & (z > 0)
    acts = z * fires
    error = s.error(acts)
    by_recon = error * (2 / batch)
    by_z = s.by_acts(by_recon) * fires

    dead = s.moving["tokens_since_fired"] >= s.c["aux_after"][:, None]
    silent = torch.where(dead[:, None], positive, 0.0)
    most = torch.full_like(s.c["target"], max(1, s.x.shape[2] // 2)).int()
    helps = (silent >= cuts(silent, most)[:, :, None]) & (silent > 0)
    helping = silent * helps
    residual = -error
    left = torch.bmm(helping.to(s.products), s.W_dec).float() - residual
    spread = (residual - residual.mean(1, keepdim=True)).square().sum((1, 2))
    counts = (dead.sum(1) > 0) & (spread > 0)
    share = torch.where(counts, 2 * AUX_WEIGHT / torch.where(counts, spread, 1.0), 0.0)
    by_left = left * share[:, None, None]
    by_z = by_z + s.by_acts(by_left) * helps
    by_b_enc = by_z.sum(1)
    return {
        "W_enc": s.by_encoder(by_z),
        "b_enc": by_b_enc,
        "W_dec": s.by_decoder(acts, by_recon) + s.by_decoder(helping, by_left),
        "b_dec": s.by_b_dec(by_recon.sum(1), by_b_enc),
    }, fires


_GRADIENTS: dict[str, Callable[[_Step], Gradients]] = {
    "jumprelu": _jumprelu,
    "gated": _gated,
    "topk": _topk,
    "standard": _standard,
}


@torch.library.custom_op("jumpscope_paper::cuts", mutates_args=())
def cuts(z: Tensor, k: Tensor) -> Tensor:
    """The k-th largest of each row of `z` `[kinds, batch, d_sae]`, which is 0 or above; `k`
    `[kinds]`, int32.
    """
    if z.device.type == "cuda":
        from benchmarks.paper.cut_kernel import cuts_on_cuda  # Triton is not everywhere

        return cuts_on_cuda(z, k)
    counts = [min(int(each), z.shape[2]) for each in k]
    return torch.stack([z[i].topk(n, dim=1).values[:, -1] for i, n in enumerate(counts)])


def check_cuts(device: torch.device) -> None:
    """RuntimeError where `cuts` is not what PyTorch's own selection gives on this device."""
    z = torch.rand(2, 64, 1_000, generator=torch.Generator().manual_seed(0)).sub(0.5).relu()
    found = cuts(z.to(device), torch.tensor([30, 700], dtype=torch.int32, device=device))
    right = torch.stack([z[0].topk(30).values[:, -1], z[1].topk(700).values[:, -1]])
    if not torch.equal(found.cpu(), right):
        raise RuntimeError(f"TopK's selection is wrong on {device}: use another version of Triton.")


@cuts.register_fake
def _(z: Tensor, k: Tensor) -> Tensor:
    return z.new_empty(z.shape[:2])


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
    architecture: Architecture,
    rule: Rule,
    products: torch.dtype,
) -> None:
    """Move everything by one batch of scaled activations, in place."""
    share, correction, step = control.unbind()
    batch = x.shape[1]
    strength = ((step - 1) / c["warmup"]).clamp(max=1)
    gradients, fires = _GRADIENTS[architecture](_Step(p, c, moving, x, strength, step, products))
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
            new = new.clamp(min=THRESHOLD_FLOOR)
            lower = new * (1 - rule.revive * lr[:, None])
            dead = since >= c["dead_tokens"][:, None]
            new = torch.where(dead, lower.clamp(min=THRESHOLD_FLOOR), new)
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
    """C and the mean at each site."""
    found = {}
    for site, x in raw.items():
        held = x[: 2**19].float()
        found[site] = (float(held.square().sum(1).mean().sqrt()), held.mean(0))
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
    cfg = length.config(kinds[0])
    controls = torch.tensor(
        [(rate_share(cfg, t), 1 - BETA2 ** (t + 1), t + 1.0) for t in range(length.steps)],
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
            architecture=kinds[0].architecture,
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
