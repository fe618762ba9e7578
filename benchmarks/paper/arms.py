"""Many small JumpReLU SAEs at one site, trained together as batched products.

The loss, its gradients, Adam, the revival and the multiplier are those of `training` (a test
compares them step by step); here they work on tensors with one more dimension, `arms`, so that some
twenty SAEs cost little more than their matrix products. Beyond the trainer, each arm has a kernel
and a bandwidth of its own, may have a bandwidth for each feature (`relative`: in units of the
standard deviation of its pre-activations, a moving average), and may give its thresholds the jump
of each token's own loss (`benchmarks.paper.gradients`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.shapes import density, numbers
from training.assembly import rule, sparsity_control
from training.losses import steered
from training.losses.base import Limits
from training.optim import BETA2, EPS, rate_share, sparsity_share
from training.recipes import Rule
from training.train_config import SHORT_RUN, TrainConfig, short_run
from training.trained_form import THRESHOLD_FLOOR, initial_parameters

LOSS = replace(SHORT_RUN["loss"], beta1=0.9, target_coefficient=1.0)
RECIPE: dict[str, Any] = {"lr_warmup": 0.1, "lr_decay": 0.5, "loss": LOSS}
"""Changes to `short_run`, as in `benchmarks.pareto`."""
LIMITS = Limits(most=0.1, bound=1.0)
"""Of JumpReLU's multiplier."""
FOLLOWS = 0.01
"""Share of a new batch in the moving variance of pre-activations."""

Stacked = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One SAE of a group."""

    target: float
    epsilon: float
    """Bandwidth in units of the scaled input, or of each feature's deviation."""
    relative: bool = False
    kernel: str = "rectangle"
    own_jump: bool = False
    lr: float = 5e-3


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of every SAE of a study, and of its training."""

    d_sae: int
    batch: int
    steps: int

    def config(self, arms: Sequence[Arm], seed: int) -> TrainConfig:
        """What the trainer would be told; names that it needs and this does not are made up."""
        return short_run(
            model="-",
            corpus=("-",),
            sites=("resid_post/0",),
            out="-",
            d_sae=self.d_sae,
            batch=self.batch,
            tokens=self.batch * self.steps,
            l0_targets=tuple(dict.fromkeys(arm.target for arm in arms)),
            lrs=tuple(dict.fromkeys(arm.lr for arm in arms)),
            seed=seed,
            **RECIPE,
        )


@dataclass
class Group:
    """The arms' state: `[arms, ...]` each."""

    parameters: Stacked
    first: Stacked
    second: Stacked
    constant: Stacked
    """lr, target, epsilon, relative, own_jump of each arm and the numbers of its kernel."""
    moving: Stacked
    """multiplier `[arms]`; variance, tokens_since_fired `[arms, d_sae]`; l0, in_window, of the last
    batch."""
    rule: Rule
    coefficient: float
    gain: float
    scale: float

    def penalty(self, arm: int, share: float) -> float:
        """Lambda: what one more active feature per token costs an arm now."""
        target, l0 = (float(self.constant["target"][arm]), float(self.moving["l0"][arm]))
        m = float(self.moving["multiplier"][arm])
        return self.coefficient * share * (2 * (l0 / target - 1) + m) / target


def begin(
    arms: Sequence[Arm], size: Size, seed: int, scale: float, mean: Float[Tensor, " d_model"]
) -> Group:
    """Before the first step. `scale`: C; `mean`: of the raw activations."""
    cfg = size.config(arms, seed)
    plan = cfg.plans[0]
    device = mean.device
    start = initial_parameters(
        len(mean), size.d_sae, cfg.threshold_init, seed, device, mean=mean / scale
    )
    count = len(arms)
    stacked = {n: p.detach().expand(count, *p.shape).contiguous() for n, p in start.items()}

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    coefficient, gain = sparsity_control(cfg, plan)
    zeros = torch.zeros(count, size.d_sae, device=device)
    return Group(
        parameters=stacked,
        first={n: torch.zeros_like(p) for n, p in stacked.items()},
        second={n: torch.zeros_like(p) for n, p in stacked.items()},
        constant={
            "lr": column([arm.lr for arm in arms]),
            "target": column([arm.target for arm in arms]),
            "epsilon": column([arm.epsilon for arm in arms]),
            "relative": column([arm.relative for arm in arms]),
            "own_jump": column([arm.own_jump for arm in arms]),
            "kernel": numbers([arm.kernel for arm in arms], device),
        },
        moving={
            "multiplier": torch.zeros(count, device=device),
            "variance": zeros.clone(),
            "tokens_since_fired": zeros.clone(),
            "l0": torch.zeros(count, device=device),
            "in_window": torch.zeros(count, device=device),
        },
        rule=rule(cfg, plan),
        coefficient=coefficient,
        gain=gain,
        scale=scale,
    )


def schedule(cfg: TrainConfig, device: torch.device) -> Float[Tensor, "steps 4"]:
    """Of each step: share of lr, share of the penalty, 1 - beta2^t, t (from 1)."""
    rows = [
        (rate_share(cfg, t), sparsity_share(cfg, t), 1 - BETA2 ** (t + 1), t + 1.0)
        for t in range(cfg.steps)
    ]
    return torch.tensor(rows, dtype=torch.float32, device=device)


@torch.no_grad()
def take_step(
    p: Stacked,
    first: Stacked,
    second: Stacked,
    c: Stacked,
    moving: Stacked,
    x: Float[Tensor, "batch d_model"],
    control: Float[Tensor, " 4"],
    *,
    rule: Rule,
    coefficient: float,
    gain: float,
    products: torch.dtype,
) -> None:
    """Move everything by one batch of scaled activations, in place."""
    share, strength, correction, step = control.unbind()
    batch = len(x)
    W_enc, W_dec = p["W_enc"].to(products), p["W_dec"].to(products)
    centred = x - p["b_dec"][:, None]  # [arms, batch, d_model]
    z = torch.bmm(centred.to(products), W_enc).float() + p["b_enc"][:, None]
    threshold = p["threshold"][:, None]
    fires = (z > threshold).float()
    acts = (z * fires).to(products)
    error = torch.bmm(acts, W_dec).float() + p["b_dec"][:, None] - x
    by_recon = error * (2 / batch)
    by_acts = torch.bmm(by_recon.to(products), W_dec.transpose(1, 2)).float()

    variance = z.var(1, correction=0)
    follows = torch.where(step == 1, 1.0, FOLLOWS)
    variance = moving["variance"] + follows * (variance - moving["variance"])
    unit = torch.where(c["relative"][:, None] > 0, variance.sqrt(), 1.0)
    width = (c["epsilon"][:, None] * unit).clamp(min=1e-9)[:, None]  # [arms, 1, d_sae]
    l0 = fires.sum((1, 2)) / batch
    distance = l0 / c["target"] - 1
    slope = coefficient * strength * (2 * distance + moving["multiplier"]) / c["target"]
    u = (z - threshold) / width
    weight = density(u, [each[:, None, None] for each in c["kernel"]]) / width
    own = c["own_jump"][:, None, None]
    height = threshold + own * (z - threshold)
    half = own * z.square() * (2 * fires - 1) / batch
    by_threshold = (weight * (half - height * by_acts - slope[:, None, None] / batch)).sum(1)

    by_z = by_acts * fires
    by_b_enc = by_z.sum(1)
    gradients = {
        "W_enc": torch.bmm(centred.to(products).transpose(1, 2), by_z.to(products)).float(),
        "b_enc": by_b_enc,
        "W_dec": torch.bmm(acts.transpose(1, 2), by_recon.to(products)).float(),
        "b_dec": by_recon.sum(1) - (p["W_enc"] * by_b_enc[:, None]).sum(2),
        "threshold": by_threshold,
    }
    rows = p["W_dec"]
    gradient = gradients["W_dec"]
    gradients["W_dec"] = gradient - (gradient * rows).sum(2, keepdim=True) * rows

    since = torch.where(fires.sum(1) > 0, 0.0, moving["tokens_since_fired"] + batch)
    for name, parameter in p.items():
        g = gradients[name]
        v = BETA2 * second[name] + (1 - BETA2) * g.square()
        m = rule.beta1 * first[name] + (1 - rule.beta1) * g
        part = {"W_enc": 1.0, "W_dec": 1.0, "b_dec": rule.b_dec_rate}.get(name, rule.vector_rate)
        lr = (c["lr"] * share * part).reshape(-1, *[1] * (parameter.dim() - 1))
        moved = m / (1 - rule.beta1**step) / ((v / correction).sqrt() + EPS)
        new = parameter - lr * moved
        if name == "W_dec":
            new = new / new.norm(dim=2, keepdim=True)
        if name == "threshold":
            new = new.clamp(min=THRESHOLD_FLOOR)
            lower = new * (1 - rule.revive * lr)
            new = torch.where(since >= rule.dead_tokens, lower.clamp(min=THRESHOLD_FLOOR), new)
        second[name].copy_(v)
        first[name].copy_(m)
        parameter.copy_(new)
    target, multiplier = c["target"], moving["multiplier"]
    gains = torch.full_like(l0, gain)
    moving["multiplier"].copy_(steered(multiplier, l0, target, gains, strength, LIMITS))
    moving["variance"].copy_(variance)
    moving["tokens_since_fired"].copy_(since)
    moving["l0"].copy_(l0)
    moving["in_window"].copy_((u.abs() < 0.5).float().mean((1, 2)))


def train(
    arms: Sequence[Arm],
    size: Size,
    seed: int,
    raw: Float[Tensor, "tokens d_model"],
    step: Callable[..., None] = take_step,
    after: Callable[[int, Group, float], None] = lambda step, group, share: None,
) -> Group:
    """Train the arms on `raw` activations, each token once, in an order made by `seed`.

    `step`: `take_step` or what a compiler made of it; `after` is called after every step with its
    number (from 1), the group and the penalty's share. ValueError for too few tokens.
    """
    needed = size.batch * size.steps
    if len(raw) < needed:
        raise ValueError(f"{len(raw):,} tokens are fewer than the {needed:,} to train on.")
    held = raw[: 2**19].float()
    scale, mean = float(held.square().sum(1).mean().sqrt()), held.mean(0)
    group = begin(arms, size, seed, scale, mean)
    cfg = size.config(arms, seed)
    controls = schedule(cfg, raw.device)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(raw), generator=generator)[:needed].to(raw.device)
    products = torch.bfloat16 if raw.device.type == "cuda" else torch.float32
    for at, tokens in enumerate(order.split(size.batch)):
        step(
            group.parameters,
            group.first,
            group.second,
            group.constant,
            group.moving,
            raw[tokens].float() / scale,
            controls[at],
            rule=group.rule,
            coefficient=group.coefficient,
            gain=group.gain,
            products=products,
        )
        after(at + 1, group, sparsity_share(cfg, at))
    return group


def parameters_of(group: Group, arm: int) -> Stacked:
    """One arm's, in the form that `training.trained_form.folded` takes."""
    return {name: p[arm] for name, p in group.parameters.items()}
