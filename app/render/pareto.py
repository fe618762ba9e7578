"""Sparsity against quality as SVG: `plot`, and the overview's section about a demo's comparison.

A plot has a box of its own size with its text in it, so that the same drawing stands in a page and,
with `standalone`, as a picture file of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.render.charts import linear_ticks
from app.render.curves import Scale
from app.render.numbers import count, fixed, number
from app.render.text import escape
from sae_core.metrics import HIGH_FREQUENCY

CURVES: Final = {
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "topk": "TopK",
    "standard": "ReLU",
    "saelens": "SAELens",
    "dictionary_learning": "dictionary_learning",
}
"""Curves by name, in the order of their colours; libraries stand for their JumpReLU trainers."""
METRICS: Final = {
    "fvu": "variance unexplained (FVU)",
    "delta_lm_loss": "delta LM loss, nats per token",
    "dead": "share of features that are dead",
    "high_frequency": f"share of features on {100 * HIGH_FREQUENCY:g} % of tokens or more",
    "uniformity": "uniformity",
}
WIDTH, HEIGHT = 440, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 26, 40

_STYLE = """
text { font: 11px system-ui, sans-serif; fill: #59616b; }
.name { fill: #1c2024; font-weight: 600; font-size: 12px; }
.grid { stroke: #e6e8ea; }
.c0 { color: #1d5bb8; } .c1 { color: #b4530a; } .c2 { color: #0f766e; }
.c3 { color: #9d174d; } .c4 { color: #6d28d9; } .c5 { color: #4d7c0f; }
@media (prefers-color-scheme: dark) {
text { fill: #9ca5af; } .name { fill: #e6e8ea; } .grid { stroke: #2a2f34; }
.c0 { color: #86b4ff; } .c1 { color: #f2a65a; } .c2 { color: #4fd1c5; }
.c3 { color: #f687b3; } .c4 { color: #b794f4; } .c5 { color: #a3d65c; }
}
""".strip()


@dataclass(frozen=True)
class Line:
    """A curve's points, (L0, value), ascending in L0."""

    curve: str
    points: Sequence[tuple[float, float]]
    seeds: Sequence[tuple[float, float]] = ()
    """The same point with several seeds, drawn as small rings."""


def plot(lines: Sequence[Line], *, title: str, y_name: str, standalone: bool = False) -> str:
    """Lines over L0 on logarithmic scales; empty if none has a point."""
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    every = [point for line in lines for point in (*line.points, *line.seeds)]
    x, y = _padded([p[0] for p in every], 1.12), _padded([p[1] for p in every], 1.08)

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across = _LEFT + x.at(point[0]) / 100 * (WIDTH - _LEFT - _RIGHT)
        return across, HEIGHT - _BOTTOM - y.at(point[1]) / 100 * (HEIGHT - _TOP - _BOTTOM)

    parts = [_axes(x, y, at, y_name, title)]
    for row, line in enumerate(lines):
        kind = f"c{list(CURVES).index(line.curve)}"
        path = "M" + "L".join("{:.1f} {:.1f}".format(*at(point)) for point in line.points)
        dots = "".join(
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="currentColor">'
            f"<title>{escape(_tip(line.curve, point))}</title></circle>"
            for point in line.points
            for across, down in [at(point)]
        )
        rings = "".join(
            '<circle cx="{:.1f}" cy="{:.1f}" r="4.5" fill="none" stroke="currentColor"/>'.format(
                *at(point)
            )
            for point in line.seeds
        )
        # Lower left: quality falls with sparsity, so the lines run from the upper left down.
        base = HEIGHT - _BOTTOM - 8 - 15 * (len(lines) - 1 - row)
        legend = (
            f'<path d="M{_LEFT + 8} {base - 4}h18" stroke="currentColor" stroke-width="2"/>'
            f'<text x="{_LEFT + 32}" y="{base}">{escape(CURVES[line.curve])}</text>'
        )
        parts.append(
            f'<g class="{kind}"><path d="{path}" fill="none" stroke="currentColor" '
            f'stroke-width="1.8"/>{dots}{rings}{legend}</g>'
        )
    own = f' xmlns="http://www.w3.org/2000/svg" width="{WIDTH}"' if standalone else ""
    style = f"<style>{_STYLE}</style>" if standalone else ""
    return (
        f'<svg{own} class="pareto" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_summary(title, y_name, lines))}">{style}{"".join(parts)}</svg>'
    )


def _padded(values: Sequence[float], room: float) -> Scale:
    """A scale with a little room beyond the values; logarithmic, unless some are not positive."""
    low, high = min(values), max(values)
    if low > 0:
        return Scale(low / room, high * room, True)
    beyond = (room - 1) * (high - low) or 1.0
    return Scale(low - beyond, high + beyond, False)


def _axes(x: Scale, y: Scale, at: Any, y_name: str, title: str) -> str:
    powers = [2.0**k for k in range(-4, 16) if x.low <= 2.0**k <= x.high]
    parts = [f'<text class="name" x="{_LEFT}" y="14">{escape(title)}</text>']
    for value in powers:
        across, _ = at((value, y.low))
        parts.append(
            f'<path class="grid" d="M{across:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>'
            f'<text x="{across:.1f}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">'
            f"{value:g}</text>"
        )
    for value, text in _ticks(y):
        _, down = at((x.low, value))
        parts.append(
            f'<path class="grid" d="M{_LEFT} {down:.1f}H{WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{text}</text>'
        )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        "features active per token (L0)</text>"
        f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_name)}</text>"
    )
    return "".join(parts)


def _ticks(y: Scale) -> list[tuple[float, str]]:
    """Round values; logarithmic ones 1, 1.5, 2, 3, 5 and 7 times a power of ten."""
    if not y.logarithmic:
        return linear_ticks(y.low, y.high, 5)
    powers = range(math.floor(math.log10(y.low)), math.ceil(math.log10(y.high)))
    factors = (1, 1.5, 2, 3, 5, 7) if len(powers) < 3 else (1,)
    values = [factor * 10.0**power for power in powers for factor in factors]
    return [(value, f"{value:g}") for value in values if y.low <= value <= y.high]


def _tip(curve: str, point: tuple[float, float]) -> str:
    return f"{CURVES[curve]}: L0 {number(point[0])}, {number(point[1])}"


def _summary(title: str, y_name: str, lines: Sequence[Line]) -> str:
    ends = "; ".join(
        f"{CURVES[line.curve]} {number(line.points[0][1])} at an L0 of "
        f"{number(line.points[0][0])} to {number(line.points[-1][1])} at "
        f"{number(line.points[-1][0])}"
        for line in lines
    )
    return f"{title}: {y_name} over L0. {ends}"


def lines_of(data: Mapping[str, Any], site: str, metric: str) -> list[Line]:
    """A metric's lines at a site, from a comparison's curves."""
    found = []
    for curve in data["curves"]:
        if curve["site"] != site:
            continue
        points, seeds = (
            sorted((p["l0"], p[metric]) for p in curve[kind] if p[metric] is not None)
            for kind in ("points", "seeds")
        )
        found.append(Line(curve["curve"], points, seeds))
    return sorted(found, key=lambda line: list(CURVES).index(line.curve))


def comparison_html(data: Mapping[str, Any] | None, sae: Mapping[str, Any]) -> str:
    """The overview's section: what other SAEs of this model measure where `sae` reads, or else at
    the comparison's first site; empty without a comparison.
    """
    if data is None or not data["curves"]:
        return ""
    sites = [curve["site"] for curve in data["curves"]]
    site = sae["reads"] if sae.get("reads") in sites else sites[0]
    plots = "".join(
        f'<div class="panel">{plot(lines_of(data, site, metric), title=site, y_name=name)}</div>'
        for metric, name in list(METRICS.items())[:2]
    )
    rows = "".join(_row(curve) for curve in data["curves"] if curve["site"] == site)
    return (
        '<section aria-labelledby="comparison-title"><h2 id="comparison-title">'
        f'Architectures compared</h2><div class="comparison">{plots}</div>'
        f'<p class="quiet">SAEs of {count(data["d_sae"])} features at {escape(site)}, each trained '
        f"on {count(data['tokens'])} tokens with a learning rate chosen for its kind. "
        "Lower and further to the left is better; rings are one point with other seeds.</p>"
        '<details><summary>As a table</summary><div class="panel scroll"><table><thead><tr>'
        '<th scope="col">kind</th><th class="n" scope="col">L0</th>'
        '<th class="n" scope="col">FVU</th><th class="n" scope="col">delta LM loss</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div></details></section>"
    )


def _row(curve: Mapping[str, Any]) -> str:
    return "".join(
        f'<tr><th scope="row">{escape(CURVES[curve["curve"]])}</th>'
        f'<td class="n">{number(point["l0"])}</td>'
        f'<td class="n">{_shown(point["fvu"])}</td>'
        f'<td class="n">{_shown(point["delta_lm_loss"])}</td></tr>'
        for point in curve["points"]
    )


def _shown(value: float | None) -> str:
    return "–" if value is None else fixed(value, 3)
