"""What the pages show of the kernels' study."""

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.paper.kernel_errors import BATCHES, best, biases, kernels_of
from benchmarks.paper.shown_text import KERNEL_NAMES, Results, digits, share, table
from benchmarks.paper.sweep import against_rectangle

BIAS_AT = (0.01, 0.1)
GROWS = (0.01, 0.02)
"""Bandwidths between which the power of the bias is taken."""


def _errors(tokens: int, held: Results) -> str:
    rows = []
    for name, shown in KERNEL_NAMES.items():
        cells = [shown]
        for _, result in kernels_of(held["kernels"]):
            b = best(result, name, tokens)
            ratio = (
                ""
                if name == "rectangle"
                else f"{b.ratio[0]:.2f} ({b.ratio[1]:.2f} to {b.ratio[2]:.2f})"
            )
            cells += [digits(b.epsilon, 2), share(b.error), share(b.bias), ratio]
        rows.append(cells)
    header = ["kernel"]
    for site, _ in kernels_of(held["kernels"]):
        header += [
            f"{site}: best bandwidth",
            "error",
            "of it bias",
            "squared error over rectangle's",
        ]
    return table(header, rows)


def _bias(held: Results) -> str:
    rows = []
    for name, shown in KERNEL_NAMES.items():
        cells = [shown]
        for _, result in kernels_of(held["kernels"]):
            found = biases(result, name, BIAS_AT, GROWS)
            cells += [_interval(*each) for each in found.at]
            cells.append(_power(*found.power))
        rows.append(cells)
    header = ["kernel"]
    for site, _ in kernels_of(held["kernels"]):
        header += [f"{site}: bias at 0.01", "at 0.1", "grows with the power"]
    return table(header, rows)


def _interval(value: float, low: float, high: float) -> str:
    places = 0 if value >= 0.1 else 1
    return f"{share(value)} ({100 * low:.{places}f} to {100 * high:.{places}f})"


def _power(value: float, low: float, high: float) -> str:
    """With its interval; no bias at the narrower bandwidth is no bound from above."""
    shown = f"{value:.1f}" if np.isfinite(value) else "-"
    if not np.isfinite(low):
        return shown
    return (
        f"{shown} ({low:.1f} to {high:.1f})" if np.isfinite(high) else f"{shown} (above {low:.1f})"
    )


def _trained(held: Results) -> str:
    settings = [(KERNEL_NAMES[k], {"kernel": k}) for k in list(KERNEL_NAMES)[1:5]]
    settings += [("own jump", {"own_jump": True}), ("rectangle at twice the rate", {"lr": 0.01})]
    rows = []
    for shown, setting in settings:
        cells = [shown]
        for site in ("resid_post/4", "mlp_out/4"):
            result = against_rectangle(held["bandwidth"], site, **setting)
            if result is not None:
                epsilon, ratio = result
                cells += [
                    digits(epsilon, 2),
                    " and ".join(f"{100 * (r - 1):+.2f} %" for r in ratio),
                ]
        rows.append(cells)
    header = ["kernel"]
    for site in ("resid_post/4", "mlp_out/4"):
        header += [f"{site}: best bandwidth", "FVU against the rectangle's, by seed"]
    return table(header, rows)


def _reference(held: Results) -> str:
    noise = []
    for _, result in kernels_of(held["kernels"]):
        unit = result["lambda"] * np.array(result["density"])
        noise.append(
            float(np.sqrt((np.array(result["gradient_error"]) ** 2).sum() / (unit**2).sum()))
        )
    return " and ".join(share(n) for n in noise)


SHOWN: dict[str, Callable[[Results], str]] = {
    "kernels.errors": partial(_errors, BATCHES[0]),
    "kernels.errors_ten": partial(_errors, BATCHES[1]),
    "kernels.bias": _bias,
    "kernels.trained": _trained,
    "kernels.reference": _reference,
    "kernels.features": lambda held: str(
        len(next(iter(held["kernels"]["saes"].values()))["features"])
    ),
}
