"""What the pages show of the results, by the name that stands in their marks."""

from collections.abc import Callable
from functools import partial

import numpy as np

from app.web.charts import CURVES
from benchmarks.paper import (
    shown_bandwidth,
    shown_comparison,
    shown_doubts,
    shown_elsewhere,
    shown_frequencies,
    shown_frequent,
    shown_kernels,
    shown_proofs,
    shown_verdicts,
)
from benchmarks.paper.shown_text import UNMEASURED, Results, digits, share, table
from benchmarks.paper.threshold import spread
from benchmarks.pareto_tables import at_site, in_short, sites_of, value_at

Show = Callable[[Results], str]


def _machine(study: str, held: Results) -> str:
    data = held[study]
    machine = data["machine"]
    threads = machine.get("threads", 0)
    device = machine["device"] or f"CPU, {threads} thread{'s' * (threads > 1)}"
    beside = [name for name in data["settings"].get("studies", []) if name != study]
    shared = f" with {' and '.join(beside)}" if beside else ""
    return f"{device}, PyTorch {machine['torch']}, {data['seconds']:,.0f} s{shared}"


def _rounding(held: Results) -> str:
    data = held["rounding"]["saes"].values()
    rows = [
        [
            each["site"],
            f"{each['features']:,} of {each['d_sae']:,}",
            *(share(s) for s in each["spread"]),
            share(float(np.sqrt(max(each["spread"][1] ** 2 - each["spread"][0] ** 2, 0)))),
        ]
        for each in data
    ]
    header = ["site", "features", "spread beyond noise", "in float8", "of it by rounding"]
    return table(header, rows)


def _when(held: Results) -> str:
    machine = held["run"]["machine"]
    return f"{machine['device']}, PyTorch {machine['torch']}, {machine['date']}"


def _tokens(study: str, part: str, held: Results) -> str:
    each = next(iter(held[study][part].values()))
    return f"{each['tokens']:,}"


def _figure(key: str, number: int, held: Results) -> str:
    figure = held["threshold"]["figure"]
    if number >= len(figure):  # too few tokens tell a threshold's place
        return UNMEASURED
    each = figure[number]
    if key == "frequency":
        return share(each["active"] / each["tokens"])
    if key == "threshold":
        return digits(each[key])
    if key == "link":
        address = f"http://127.0.0.1:7860/features?sae={held['threshold']['sae']}"
        return f"[feature {each['feature']}]({address}&feature={each['feature']})"
    return str(each[key])


def _slope(key: str, held: Results) -> str:
    data = held["threshold"]["slope"]
    if key in ("feature", "threshold"):
        return digits(data[key]) if key == "threshold" else str(data[key])
    if key == "in_window":
        return share(data[key] / data["tokens"])
    if key == "terms":  # lambda times the density: each of the two terms that cancel at rest
        rest = held["threshold"]["rest"][held["threshold"]["sae"]]
        return (
            f"{1e6 * rest['lambda'] * data['in_window'] / data['tokens'] / rest['bandwidth']:,.0f}"
        )
    return f"{1e6 * data[key]:.0f}"


def _draws(held: Results) -> str:
    rows = [
        [
            f"{each['size']:,}",
            f"{each['draws']:,}",
            share(each["zero"]),
            f"{1e6 * each['mean']:,.0f}",
            f"{1e6 * each['deviation']:,.0f}",
        ]
        for each in held["threshold"]["slope"]["draws"]
    ]
    return table(["tokens", "draws", "no gradient at all", "mean", "standard deviation"], rows)


def _rest_table(held: Results) -> str:
    generator = np.random.default_rng(0)
    rows = []
    for each in held["threshold"]["rest"].values():
        ratio, error = np.array(each["ratio"]), np.array(each["error"])
        count = len(ratio)
        samples = [generator.integers(0, count, count) for _ in range(500)]
        drawn = [spread(ratio[chosen], error[chosen]) for chosen in samples]
        low, high = np.quantile(drawn, [0.025, 0.975])
        quantiles = np.quantile(ratio, [0.05, 0.25, 0.5, 0.75, 0.95])
        rows.append(
            [
                each["site"],
                digits(each["lambda"]),
                f"{count:,} of {each['d_sae']:,}",
                ", ".join(f"{q:.2f}" for q in quantiles),
                share(float(np.median(error))),
                share(float((abs(ratio - 1) <= 2 * error).mean())),
                f"{share(spread(ratio, error))} ({100 * low:.1f} to {100 * high:.1f})",
            ]
        )
    return table(
        [
            "site",
            "lambda",
            "features",
            "cost over lambda: 5, 25, 50, 75, 95 %",
            "median standard error",
            "within two of them of 1",
            "spread beyond noise",
        ],
        rows,
    )


def _run_table(held: Results) -> str:
    data = held["run"]
    by_step = dict(zip(data["steps"], data["quantiles"], strict=True))
    rows = []
    for each in data["rest"]:
        ratio = np.array(each["cost"]) / each["resting_penalty"]
        near = by_step.get(each["step"])
        if near is None:
            continue
        rows.append(
            [
                f"{each['step']:,}",
                ", ".join(digits(near[k]) for k in (0, 2, 4)),
                f"{each['features']:,}",
                ", ".join(f"{ratio[k]:.2f}" for k in (0, 2, 4)),
            ]
        )
    return table(
        ["step", "thresholds: 5, 50, 95 %", "features seen", "cost over lambda: 5, 50, 95 %"], rows
    )


def _pareto(metric: str, held: Results) -> str:
    return "\n\n" + "\n".join(in_short(held["pareto"], metric, held["pareto_targets"])) + "\n\n"


def _lower(metric: str, name: str, held: Results) -> str:
    """At how many places JumpReLU's metric is lower than another's, beyond the seeds' spread."""
    rows = in_short(held["pareto"], metric, held["pareto_targets"])[2:]
    cells = next(row.split(" | ") for row in rows if row.startswith(f"| {CURVES[name]} |"))
    return f"{cells[2].partition(',')[0]} of {cells[1]}"


def _at_point(metric: str, held: Results) -> str:
    """A metric of all curves at the L0 of the seeds, at the middle layer's sites."""
    comparison = held["pareto"]
    point = comparison["point"]
    sites = [site for site in sites_of(comparison) if site.endswith("/4")]
    names = list(dict.fromkeys(curve["curve"] for curve in comparison["curves"]))
    rows = []
    for name in names:
        cells = []
        for site in sites:
            each = at_site(comparison, site).get(name)
            value = None if each is None else value_at(each["points"], metric, point)
            cells.append("" if value is None else share(value))
        rows.append([CURVES[name], *cells])
    return table([f"at an L0 of {point}", *sites], rows)


SHOWN: dict[str, Show] = {
    **{
        f"{study}.cost": partial(_machine, study)
        for study in ("threshold", "rounding", "kernels", "bandwidth", "frequent")
    },
    **{
        f"figure.{k}.{key}": partial(_figure, key, k)
        for k in (0, 1)
        for key in ("link", "threshold", "frequency", "place")
    },
    **{
        f"slope.{key}": partial(_slope, key)
        for key in ("feature", "threshold", "in_window", "true", "true_error", "expected", "terms")
    },
    "slope.draws": _draws,
    "rounding.table": _rounding,
    "rounding.tokens": partial(_tokens, "rounding", "saes"),
    "rest.tokens": partial(_tokens, "threshold", "rest"),
    "kernels.tokens": partial(_tokens, "kernels", "saes"),
    "run.machine": _when,
    "rest.table": _rest_table,
    "run.table": _run_table,
    "pareto.fvu": partial(_pareto, "fvu"),
    "pareto.loss": partial(_pareto, "delta_lm_loss"),
    **{
        f"pareto.lower.{metric}.{name}": partial(_lower, metric, name)
        for metric in ("fvu", "delta_lm_loss")
        for name in ("gated", "topk")
    },
    "pareto.frequent": partial(_at_point, "high_frequency"),
    "pareto.uniformity": partial(_at_point, "uniformity"),
    **shown_kernels.SHOWN,
    **shown_bandwidth.SHOWN,
    **shown_frequencies.SHOWN,
    **shown_elsewhere.SHOWN,
    **shown_frequent.SHOWN,
    **shown_proofs.SHOWN,
    **shown_comparison.SHOWN,
    **shown_verdicts.SHOWN,
    **shown_doubts.SHOWN,
}
"""Every name, and the function that gives its text."""
