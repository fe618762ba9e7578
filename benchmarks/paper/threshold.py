"""Section 6: theta made plain, on features of a bundle and on a short run of our own.

Histograms of pre-activations for the paper's figure 1; how the loss's slope appears as samples
grow; how near trained thresholds are to their rest; and what thresholds do during a run. All in
units of training.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.arms import Arm, Group, Size, train
from benchmarks.paper.bandwidth import EPSILONS, MIDDLE, TARGETS, sae_of
from benchmarks.paper.demo import Demo, bare_units, units_of
from benchmarks.paper.feature_tokens import BLOCKS, FeatureTokens, SaeTokens, marginal
from benchmarks.paper.gradients import estimated, reference
from benchmarks.paper.kernels import STEP
from sae_core.corpus import TokenRow
from sae_core.threshold_lab import TrainingUnits
from sae_core.threshold_place import place_of

FEWEST_IN_WINDOW = 1_000
"""Tokens in a feature's window from which on its cost is known well enough to be counted."""
FEWEST_ROUNDED = 500
"""The same on the fewer tokens on which an SAE is compared with itself rounded."""
BINS_BELOW, BINS_ABOVE = 30, 50
PLACES = ("valley", "slope", "bulk")
SAMPLES = (1, 100, 10_000)
GRID = 61
DRAWS, DRAW_SIZES = 200, (1, 10, 100, 1_000, 10_000, 100_000)
FEWEST_DRAWS = 10
"""Below which nothing is said of how they scatter."""
RUN_SITE, RUN_TARGET = "resid_post/4", 32
LOOKS = 40
FOLLOWED = 12
REST_LOOKS, REST_TOKENS, REST_BLOCKS = 10, 2**16, 16


def rest(each: SaeTokens) -> dict[str, Any]:
    """How near an SAE's features are to their rest, of those whose cost is known well enough;
    ValueError where there are none.
    """
    seen = (each.sums.weight.sum(0) * each.units.bandwidth).round()
    known = (seen >= FEWEST_IN_WINDOW).nonzero()[:, 0]
    if not len(known):
        raise ValueError(
            f"no feature of {each.name} has {FEWEST_IN_WINDOW} of {each.tokens:,} tokens in its "
            "window: take more --tokens."
        )
    ratio, error = each.sums.ratio
    return {
        "site": each.site,
        "tokens": each.tokens,
        "d_sae": len(seen),
        "lambda": each.sums.resting_penalty,
        "bandwidth": each.units.bandwidth,
        "fewest_in_window": FEWEST_IN_WINDOW,
        "features": known,
        "ratio": ratio[known],
        "error": error[known],
    }


def spread(ratio: np.ndarray, error: np.ndarray) -> float:
    """Standard deviation over features, the noise of measuring taken off."""
    return float(np.sqrt(max(ratio.var() - (error**2).mean(), 0)))


@torch.no_grad()
def rounding(demo: Demo, rows: Sequence[TokenRow]) -> dict[str, Any]:
    """Of every SAE of a bundle: how rounding its matrices to float8 moves features from their rest.

    ValueError for an SAE that is in float8 already.
    """
    result: dict[str, Any] = {}
    for name in demo.sae_names:
        sae = demo.sae(name)
        site = str(sae.cfg.site)
        x = demo.activations(rows, [site])[site]
        units = units_of(sae, x)
        before = marginal(sae, x, units, BLOCKS)
        for matrix in (sae.W_enc, sae.W_dec):
            rounded = matrix.to(torch.float8_e4m3fn).float()
            if torch.equal(rounded, matrix):
                raise ValueError(f"{name} is in float8 already: give a bundle where it is not.")
            matrix.copy_(rounded)
        after = marginal(sae, x, units, BLOCKS)
        fewest = torch.minimum(before.weight.sum(0), after.weight.sum(0)) * units.bandwidth
        known = fewest >= FEWEST_ROUNDED
        pairs = [[value[known].cpu().numpy() for value in sums.ratio] for sums in (before, after)]
        result[name] = {
            "site": site,
            "tokens": before.block_tokens * BLOCKS,
            "d_sae": len(known),
            "fewest_in_window": FEWEST_ROUNDED,
            "features": int(known.sum()),
            "spread": [spread(*pair) for pair in pairs],
        }
    return result


def single_features(each: SaeTokens) -> dict[str, Any]:
    """The figures of single features of an SAE."""
    features = each.features.tolist()
    return {
        "sae": each.name,
        "figure": _histograms(each.sample, features),
        "slope": _slopes(each.sample, features, each.units, each.sums.resting_penalty),
    }


def _histograms(sample: FeatureTokens, features: list[int]) -> list[dict[str, Any]]:
    """The most frequent feature of each of `PLACES`, as the app's lab names them, whose count of
    tokens in every bin around the threshold is on an edge of the histogram.
    """
    shown: dict[str, dict[str, Any]] = {}
    order = (sample.z > sample.threshold[:, None]).float().mean(1).argsort(descending=True)
    for k in order.tolist():
        z, at = sample.z[k], float(sample.threshold[k])
        width = (float(z.max()) - at) / BINS_ABOVE
        edges = torch.arange(-BINS_BELOW, BINS_ABOVE + 1, device=z.device) * width + at
        counts = torch.histc(z, len(edges) - 1, float(edges[0]), float(edges[-1])).long().tolist()
        place = place_of(counts, BINS_BELOW)
        if place in PLACES and place not in shown:
            shown[place] = {
                "place": place,
                "feature": features[k],
                "threshold": at,
                "width": width,
                "counts": counts,
                "below": int((z < edges[0]).sum()),
                "tokens": len(z),
                "active": int((z > at).sum()),
            }
    return [shown[place] for place in PLACES if place in shown]


def _slopes(
    sample: FeatureTokens, features: list[int], units: TrainingUnits, penalty: float
) -> dict[str, Any]:
    """Of the feature with the most tokens within a bandwidth of its threshold: the mean loss over
    the threshold for a few tokens and for many, and straight-through gradients of many draws.
    """
    near = (sample.z - sample.threshold[:, None]).abs() < units.bandwidth / 2
    k = int(near.sum(1).argmax())
    only = FeatureTokens(
        sample.z[k : k + 1],
        sample.pull[k : k + 1],
        sample.threshold[k : k + 1],
        sample.square_norm[k : k + 1],
    )
    at = float(only.threshold)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(only.z.shape[1], generator=generator).to(only.z.device)
    grid = torch.linspace(0.5 * at, 1.5 * at, GRID, device=only.z.device)
    saved = (penalty - only.worth)[0, order]
    z = only.z[0, order]

    def curve(tokens: slice) -> list[float]:
        # [grid]: what the loss is above that with the feature off, on these tokens.
        loss = torch.stack([(saved[tokens] * (z[tokens] > t)).mean() for t in grid])
        return (loss - loss[GRID // 2]).tolist()

    within = (z > grid[0]) & (z < grid[-1])
    first = int(within.nonzero()[0, 0])  # a single token far away has no slope to show at all
    curves = {"1": curve(slice(first, first + 1))}
    curves |= {str(n): curve(slice(0, n)) for n in SAMPLES[1:]}
    curves["all"] = curve(slice(None))
    true = reference(only, penalty, STEP * units.bandwidth)
    mean, _ = estimated(only, penalty, units.bandwidth, "rectangle")
    return {
        "feature": features[k],
        "threshold": at,
        "tokens": only.z.shape[1],
        "in_window": int(near[k].sum()),
        "grid": grid.tolist(),
        "curves": curves,
        "true": float(true.gradient.mean()),
        "true_error": float(true.gradient.std() / BLOCKS**0.5),
        "expected": float(mean.mean()),
        "draws": _draws(only, penalty, units.bandwidth, order),
    }


def _draws(
    sample: FeatureTokens, penalty: float, bandwidth: float, order: Tensor
) -> list[dict[str, Any]]:
    """Of each size: how straight-through gradients of separate draws scatter."""
    at = sample.threshold[:, None]
    weight = ((sample.z - at).abs() < bandwidth / 2).float() / bandwidth
    left = sample.pull - sample.z * sample.square_norm[:, None] * (sample.z > at)
    each = (weight * (2 * at * left - penalty))[0, order]
    rows = []
    for size in DRAW_SIZES:
        draws = min(DRAWS, len(each) // size)
        if draws < FEWEST_DRAWS:
            continue
        means = each[: draws * size].reshape(draws, size).mean(1)
        rows.append(
            {
                "size": size,
                "draws": draws,
                "zero": float((means == 0).float().mean()),
                "mean": float(means.mean()),
                "deviation": float(means.std()),
            }
        )
    return rows


def run(
    raw: Float[Tensor, "tokens d_model"],
    held_out: Float[Tensor, "tokens d_model"],
    size: Size,
    step: Callable[..., None],
) -> dict[str, Any]:
    """Thresholds of one run, and how near they are to rest, at steps on the way. The run is one of
    a group of as many arms as the sweep's, so that one compiled step serves both.
    """
    arms = [Arm(target=target, epsilon=e) for target in TARGETS for e in EPSILONS]
    arm = TARGETS.index(RUN_TARGET) * len(EPSILONS) + MIDDLE
    looks, rests = (
        [round(k * size.steps / n) or 1 for k in range(n + 1)] for n in (LOOKS, REST_LOOKS)
    )
    followed = torch.linspace(0, size.d_sae - 1, FOLLOWED).round().long()
    shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    result: dict[str, Any] = {"steps": [], "quantiles": [], "followed": [], "rest": [], "l0": []}

    def look(at: int, group: Group, share: float) -> None:
        if at in looks:
            threshold = group.parameters["threshold"][arm].cpu()
            result["steps"].append(at)
            result["l0"].append(float(group.moving["l0"][arm]))
            result["quantiles"].append(threshold.quantile(shares).tolist())
            result["followed"].append(threshold[followed].tolist())
        if at in rests:
            penalty = group.penalty(arm, share)
            result["rest"].append({"step": at, "lambda": penalty} | _rest(group, arm, penalty))

    def _rest(group: Group, arm: int, penalty: float) -> dict[str, Any]:
        sae = sae_of(group, arm, RUN_SITE).to(held_out.device)
        units = bare_units(group.scale, arms[arm].epsilon)
        sums = marginal(sae, held_out[:REST_TOKENS], units, REST_BLOCKS)
        ratio, _ = sums.ratio
        seen = sums.weight.sum(0) * units.bandwidth >= 200
        known = ratio[seen].float() * sums.resting_penalty
        return {
            "resting_penalty": sums.resting_penalty,
            "features": int(seen.sum()),
            "cost": known.cpu().quantile(shares).tolist() if len(known) else [],
        }

    train(arms, size, 0, raw, step, look)
    return result | {"site": RUN_SITE, "target": RUN_TARGET, "epsilon": EPSILONS[MIDDLE]}
