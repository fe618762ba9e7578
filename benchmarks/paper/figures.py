"""The pages' figures, each a function of the results that gives an SVG's text."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.paper.bandwidth import SITES, TARGETS
from benchmarks.paper.kernel_errors import BATCHES, error_curve, kernels_of
from benchmarks.paper.plots import Panel, drawing
from benchmarks.paper.shown_elsewhere import figure as elsewhere
from benchmarks.paper.shown_frequencies import FIGURES as OF_FREQUENT
from benchmarks.paper.shown_text import KERNEL_NAMES, Results
from benchmarks.paper.sweep import cells


def activation(held: Results) -> str:
    """The paper's figure 1 with features of the demo."""
    panels = []
    for each in held["threshold"]["figure"]:
        at, width, counts = each["threshold"], each["width"], each["counts"]
        below = next(k for k in range(len(counts)) if at - k * width <= -2 * width)
        start = max(0, 30 - below)  # thresholds are on the edge before bin 30
        edges = [at + (k - 30) * width for k in range(start, len(counts) + 1)]
        roots = [math.sqrt(c) for c in counts[start:]]
        panel = Panel(
            f"Feature {each['feature']}: the threshold is {_PLACES[each['place']]}",
            (edges[0], edges[-1]),
            (0, max(roots[k] for k in range(len(roots)) if k >= 2) * 1.15),
            "pre-activation",
            "root of the count",
            height=165,
        )
        panel.bars(edges, roots, 0)
        panel.upright(at, "threshold")
        panels.append(panel)
    at = held["threshold"]["figure"][0]["threshold"]
    span = 3 * at
    panel = Panel("What comes out", (-at, span), (-0.1 * at, span), "pre-activation", "activation")
    panel.line([(-at, 0), (0, 0), (span, span)], 1, "ReLU")
    panel.line([(-at, 0), (at, 0), (span, span - at)], 2, "ReLU, bias lower by theta")
    panel.line([(-at, 0), (at, 0), (at, at), (span, span)], 0, "JumpReLU")
    panel.upright(at, "theta")
    return drawing([*panels, panel], "Pre-activations and three activation functions", "a")


_PLACES = {"valley": "in a valley", "slope": "on a slope", "bulk": "in the bulk"}


def slope(held: Results) -> str:
    """The mean loss over the threshold for 1, 100, 10,000 and all tokens."""
    data = held["threshold"]["slope"]
    panels = []
    for name, curve in data["curves"].items():
        tokens = data["tokens"] if name == "all" else int(name)
        low, high = min(curve), max(curve)
        room = 0.1 * (high - low) or 1e-6
        unit = 10 ** math.floor(math.log10(max(abs(low), abs(high), 1e-12)))
        panel = Panel(
            f"{tokens:,} token{'s' if tokens > 1 else ''}",
            (data["grid"][0], data["grid"][-1]),
            ((low - room) / unit, (high + room) / unit),
            "threshold",
            f"loss, in {unit:.0e}",
            height=135,
        )
        # Between thresholds on the grid nothing is known of one token: draw its step as one.
        points = list(zip(data["grid"], [v / unit for v in curve], strict=True))
        panel.line(_stairs(points) if tokens == 1 else points, 0)
        panel.upright(data["threshold"])
        panels.append(panel)
    return drawing(panels, "The mean loss over the threshold as tokens grow in number", "s")


def _stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stairs = [points[0]]
    for (_, before), (x, y) in pairwise(points):
        stairs += [(x, before), (x, y)]
    return stairs


def rest(held: Results) -> str:
    """How the marginal cost of reconstruction compares with lambda, of every feature."""
    panels = []
    for each in held["threshold"]["rest"].values():
        ratio, error = np.array(each["ratio"]), np.array(each["error"])
        edges = np.linspace(0.75, 1.25, 41)
        counts = np.histogram(np.clip(ratio, 0.7501, 1.2499), edges)[0]
        # What noise alone would give: each feature at rest, with its own standard error.
        drawn = np.clip(1 + np.outer(_NORMAL, error), 0.7501, 1.2499)
        noise = np.histogram(drawn, edges)[0] / len(_NORMAL)
        panel = Panel(
            f"{each['site']}: {len(ratio):,} features",
            (0.75, 1.25),
            (0, 1.15 * float(max(counts.max(), noise.max()))),
            "marginal cost over lambda",
            "features",
            height=180,
        )
        panel.bars(edges.tolist(), counts.tolist(), 0)
        middles = (edges[1:] + edges[:-1]) / 2
        panel.line(list(zip(middles, noise, strict=True)), 1, "noise of measuring alone")
        panel.upright(1.0, "at rest")
        panels.append(panel)
    return drawing(panels, "Marginal cost of reconstruction over lambda", "r")


_NORMAL = np.random.default_rng(0).standard_normal(200)


def run(held: Results) -> str:
    """Thresholds and their marginal costs during a run."""
    data = held["run"]
    steps = data["steps"]
    quantiles = np.array(data["quantiles"])
    followed = np.array(data["followed"])
    top = 1.05 * float(max(quantiles.max(), followed.max()))
    low = 0.9 * float(min(quantiles[1:].min(), followed[1:].min()))
    first = Panel("Thresholds", (0, steps[-1]), (low, top), "step", "theta", height=210)
    first.band(*_both(steps, quantiles[:, 0], quantiles[:, 4]), 0)
    for k in range(followed.shape[1]):
        first.line(list(zip(steps, followed[:, k], strict=True)), 1, "twelve features" * (k == 0))
    first.line(list(zip(steps, quantiles[:, 2], strict=True)), 0, "median, 5 to 95 %")
    rests = [r for r in data["rest"] if r["step"] > 1]
    at = [r["step"] for r in rests]
    costs = np.array([np.array(r["cost"]) / r["resting_penalty"] for r in rests])
    second = Panel(
        "Marginal cost over the common lambda", (0, steps[-1]), (0.6, 1.5), "step", "ratio"
    )
    second.band(*_both(at, costs[:, 0], costs[:, 4]), 0)
    second.band(*_both(at, costs[:, 1], costs[:, 3]), 0)
    second.line(list(zip(at, costs[:, 2], strict=True)), 0, "median, quartiles, 5 to 95 %")
    second.level(1.0)
    return drawing([first, second], "Thresholds during a run and how near they are to rest", "t")


def _both(x: Sequence[float], low: Any, high: Any) -> tuple[Any, Any]:
    return list(zip(x, low, strict=True)), list(zip(x, high, strict=True))


def bias(held: Results) -> str:
    """The bias of the threshold's gradient over the bandwidth."""
    panels = []
    for site, result in kernels_of(held["kernels"]):
        panel = _errors_panel(f"{site}: bias", result)
        for k, (name, shown) in enumerate(KERNEL_NAMES.items()):
            curve = error_curve(result, name, math.inf)
            panel.line(_points(result, curve), k, shown)
        panels.append(panel)
    return drawing(panels, "Bias of the threshold's gradient over the bandwidth", "b")


def error(held: Results) -> str:
    """Its error in a batch over the bandwidth."""
    panels = []
    for site, result in kernels_of(held["kernels"]):
        panel = _errors_panel(f"{site}: error in a batch of {BATCHES[0]:,}", result)
        for k, (name, shown) in enumerate(KERNEL_NAMES.items()):
            panel.line(_points(result, error_curve(result, name, BATCHES[0])), k, shown)
        panels.append(panel)
    return drawing(panels, "Error of the threshold's gradient over the bandwidth", "e")


def _errors_panel(title: str, result: dict[str, Any]) -> Panel:
    return Panel(
        title,
        (result["epsilons"][0], result["epsilons"][-1]),
        (0.005, 2),
        "bandwidth",
        "over the sparsity term",
        log_x=True,
        log_y=True,
        height=210,
    )


def _points(result: dict[str, Any], curve: Any) -> list[tuple[float, float]]:
    return [(e, max(float(v), 1e-4)) for e, v in zip(result["epsilons"], curve, strict=True)]


def sweep(held: Results) -> str:
    """FVU over the bandwidth, beside the best one's, of all sites and targets."""
    data = held["bandwidth"]
    by_cell = cells(data["rows"], relative=False)
    rules = {each["site"]: each["targets"] for each in data["rules"]}
    panels = []
    for site in SITES:
        panel = Panel(
            site,
            (0.001, 0.1),
            (-1.5, 11),
            "bandwidth",
            "FVU above the best, %",
            log_x=True,
            height=190,
        )
        for k, target in enumerate(TARGETS):
            cell = by_cell[site, target]
            above = 100 * (cell.values / cell.mean[cell.best] - 1)
            x = cell.epsilons.tolist()
            panel.band(*_both(x, above.min(0), above.max(0)), k)
            panel.line(
                list(zip(x, 100 * (cell.mean / cell.mean[cell.best] - 1), strict=True)),
                k,
                f"L0 {target}",
            )
        chosen = next((v for v in rules[site].values() if v), None)
        taken = rules[site].get("32") or rules[site].get("32.0") or chosen
        if taken:
            panel.upright(taken["silverman"]["raw"][1], "Silverman")
            panel.upright(taken["gradient"]["raw"][1], "gradient", row=1)
        panels.append(panel)
    return drawing(panels, "FVU over the bandwidth", "w")


FIGURES: dict[str, Callable[[Results], str]] = {
    "threshold-activation": activation,
    "threshold-slope": slope,
    "threshold-rest": rest,
    "threshold-run": run,
    "kernels-bias": bias,
    "kernels-error": error,
    "bandwidth-fvu": sweep,
    "bandwidth-elsewhere": elsewhere,
    **OF_FREQUENT,
}
"""By the name of the file, without `paper-` and `.svg`."""
