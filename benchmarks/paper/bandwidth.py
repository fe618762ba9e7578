"""Section 3: SAEs trained with bandwidths over two decades, and what the rules would have taken.

A group is what is trained in one pass: all bandwidths with three settings beside them, at one site
with one seed. Groups are in order of worth, and results are kept after each.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.arms import RECIPE, Arm, Group, Size, parameters_of, take_step, train
from benchmarks.paper.feature_tokens import feature_tokens, spread_features
from benchmarks.paper.quality import Quality
from benchmarks.paper.rules import all_rules
from sae_core.config import SAEConfig, Site
from sae_core.sae import JumpReLUSAE
from training.trained_form import folded

SITES = ("resid_post/4", "mlp_out/4", "attn_out/4")
TARGETS = (16, 32, 64)
SEEDS = (0, 1, 2)
EPSILONS = tuple(0.001 * 10 ** (k / 3) for k in range(7))
"""Raw bandwidths, in units of the scaled input."""
RELATIVE = tuple(0.03 * 10 ** (k / 3) for k in range(7))
"""Bandwidths in deviations of each feature's pre-activations."""
MIDDLE = 3
"""Of the bandwidths: 0.01, from whose SAE the rules are taken."""
NOISE = (0.4, 0.5)
"""Shares of the run between which thresholds are watched: the learning rate is constant."""
NOISE_LOOKS = 10
RULE_TOKENS, RULE_FEATURES = 2**18, 128


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one group trains."""

    group: str
    """raw, relative, kernels or others."""
    site: str
    seed: int
    arms: tuple[Arm, ...]


def plan() -> list[Pass]:
    """The groups, each of three times as many arms as there are bandwidths."""
    passes = [p for seed in SEEDS for site in SITES for p in sweep_of(site, seed)]
    others = [p for seed in SEEDS for site in SITES[:2] for p in _kernels(site, seed)]
    # First seeds of both studies first.
    order = {p.group: k for k, p in enumerate([*passes, *others])}
    return sorted([*passes, *others], key=lambda p: (p.seed, order[p.group]))


def sweep_of(site: str, seed: int) -> Iterator[Pass]:
    """All bandwidths at all targets: raw ones, and those in each feature's deviations."""
    for relative, values in ((False, EPSILONS), (True, RELATIVE)):
        arms = tuple(
            Arm(target=target, epsilon=e, relative=relative) for target in TARGETS for e in values
        )
        yield Pass(group="relative" if relative else "raw", site=site, seed=seed, arms=arms)


def recipe() -> dict[str, Any]:
    """The recipe as results keep it."""
    return {k: v if isinstance(v, float) else vars(v) for k, v in RECIPE.items()}


def _kernels(site: str, seed: int) -> Iterator[Pass]:
    def arms(**settings: Any) -> list[Arm]:
        return [Arm(**{"target": 32, "epsilon": e} | settings) for e in EPSILONS]

    smooth = [
        a for kernel in ("triangular", "epanechnikov", "gaussian") for a in arms(kernel=kernel)
    ]
    yield Pass(group="kernels", site=site, seed=seed, arms=tuple(smooth))
    other = arms(kernel="fourth_order") + arms(own_jump=True) + arms(lr=0.01)
    yield Pass(group="others", site=site, seed=seed, arms=tuple(other))


Part = tuple[list[dict[str, Any]], dict[str, Any] | None]
"""Of a group: a row for each SAE, and the rules' bandwidths where they are taken."""


def carry_out(
    each: Pass,
    raw: dict[str, Float[Tensor, "tokens d_model"]],
    quality: Quality,
    size: Size,
    step: Callable[..., None] = take_step,
) -> Part:
    """Train a group on the raw activations of its site, and measure."""
    started = time.monotonic()
    watch = _Watch(size.steps)
    x = raw[each.site]
    group = train(each.arms, size, each.seed, x, step, watch)
    noise = watch.noise
    rows = []
    for k, arm in enumerate(each.arms):
        sae = sae_of(group, k, each.site)
        rows.append(
            {
                "group": each.group,
                "site": each.site,
                "seed": each.seed,
                **asdict(arm),
                **quality.of(sae.to(x.device), each.site),
                "in_window": float(group.moving["in_window"][k]),
                "threshold": float(group.parameters["threshold"][k].median()),
                "deviation": float(group.moving["variance"][k].sqrt().median()),
                "threshold_noise": float(noise[k]),
            }
        )
    rules = None
    if each.group == "raw" and each.seed == 0:
        targets = {
            str(arm.target): rules_of(group, k, x, size.batch)
            for k, arm in enumerate(each.arms)
            if arm.epsilon == EPSILONS[MIDDLE]
        }
        rules = {"site": each.site, "targets": targets}
    print(f"{each.site} {each.group} seed {each.seed}: {time.monotonic() - started:.1f} s")
    return rows, rules


class _Watch:
    """Looks at the thresholds while the learning rate is constant."""

    def __init__(self, steps: int) -> None:
        low, high = (round(share * steps) for share in NOISE)
        self._at = {low + round(k * (high - low) / NOISE_LOOKS) for k in range(NOISE_LOOKS + 1)}
        self._looks: list[Tensor] = []

    def __call__(self, at: int, group: Group, _share: float) -> None:
        if at in self._at:
            self._looks.append(group.parameters["threshold"].clone())

    @property
    def noise(self) -> Float[Tensor, " arms"]:
        """How far thresholds move to and fro between looks, as a share of themselves: the median
        over features of the root mean square of second differences over sqrt(6), in which a steady
        motion cancels.
        """
        looks = torch.stack(self._looks)
        second = looks[2:] - 2 * looks[1:-1] + looks[:-2]
        return ((second.square().mean(0) / 6).sqrt() / looks[-1]).median(1).values


def sae_of(group: Group, arm: int, site: str) -> JumpReLUSAE:
    """One arm as an SAE that takes raw activations."""
    parameters = parameters_of(group, arm)
    width, d_sae = parameters["W_enc"].shape
    cfg = SAEConfig(architecture="jumprelu", d_model=width, d_sae=d_sae, site=Site.parse(site))
    sae = folded(parameters, group.scale, cfg)
    assert isinstance(sae, JumpReLUSAE)
    return sae


def rules_of(
    group: Group, arm: int, raw: Float[Tensor, "tokens d_model"], batch: int
) -> dict[str, Any]:
    """Median and quartiles over features of each rule's bandwidth, for one batch of tokens; and of
    that bandwidth over the feature's deviation. Empty where no feature is of a common frequency.
    """
    sae = sae_of(group, arm, "resid_post/0").to(raw.device)
    x = raw[:RULE_TOKENS]
    frequency = torch.cat([(sae.encode(part.float()) > 0) for part in x[:65_536].split(8_192)])
    chosen = spread_features(frequency.float().mean(0), RULE_FEATURES)
    if not len(chosen):
        return {}
    sample = feature_tokens(sae, x, chosen, group.scale)
    deviation = sample.z.std(1)
    values = all_rules(sample, group.penalty(arm, 1.0), 0.0025, batch)
    shares = torch.tensor([0.25, 0.5, 0.75], device=raw.device)
    return {
        name: {
            "raw": each.quantile(shares).tolist(),
            "relative": (each / deviation).quantile(shares).tolist(),
        }
        for name, each in values.items()
    }
