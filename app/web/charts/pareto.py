"""Sparsity against quality: `plot`, of one site and one metric.

A plot has a box of its own size with its text in it, so that the same drawing stands in a page and,
with `standalone`, as a picture file of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from app.web.charts.colours import STANDALONE_STYLE
from app.web.charts.scale import Scale
from app.web.numbers import number
from sae_core.definitions import HIGH_FREQUENCY

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

_STYLE: Final = (
    STANDALONE_STYLE
    + """
text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.name { fill: var(--ink); font-weight: 600; font-size: 12px; }
.grid { stroke: var(--line); }
.own { stroke: var(--ink); }
"""
    + " ".join(f".c{i} {{ color: var(--c{i}); }}" for i in range(len(CURVES)))
)

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A curve's points, (L0, value), ascending in L0."""

    curve: str
    points: Sequence[Point]
    seeds: Sequence[Point] = ()
    """The same point with several seeds, drawn as small rings."""


@dataclass(frozen=True)
class Mark:
    """A point of an SAE that is none of the curves'."""

    name: str
    point: Point


def plot(
    lines: Sequence[Line],
    *,
    title: str,
    y_name: str,
    own: Mark | None = None,
    standalone: bool = False,
) -> Markup:
    """Lines over L0 on logarithmic scales, `own` as a cross; empty if no line has a point."""
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup()
    every = [point for line in lines for point in (*line.points, *line.seeds)]
    every += [own.point] if own else []
    x, y = Scale.padded([p[0] for p in every], 1.12), Scale.padded([p[1] for p in every], 1.08)

    def at(point: Point) -> Point:
        across = _LEFT + x.at(point[0]) / 100 * (WIDTH - _LEFT - _RIGHT)
        return across, HEIGHT - _BOTTOM - y.at(point[1]) / 100 * (HEIGHT - _TOP - _BOTTOM)

    parts = [_axes(x, y, at, y_name, title)]
    rows = len(lines) + (own is not None)
    parts += [_line(line, at, _legend_base(row, rows)) for row, line in enumerate(lines)]
    if own:
        parts.append(_own(own, at, _legend_base(rows - 1, rows)))
    xmlns = f' xmlns="http://www.w3.org/2000/svg" width="{WIDTH}"' if standalone else ""
    style = f"<style>{_STYLE}</style>" if standalone else ""
    return Markup(
        '<svg{} class="pareto" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>'
    ).format(
        Markup(xmlns),
        WIDTH,
        HEIGHT,
        _summary(title, y_name, lines, own),
        Markup(style),
        Markup("").join(parts),
    )


def lines_of(data: Mapping[str, Any], site: str, metric: str) -> list[Line]:
    """A metric's lines at a site, from a comparison's curves."""
    lines = []
    for curve in data["curves"]:
        if curve["site"] != site:
            continue
        points, seeds = (
            sorted((p["l0"], p[metric]) for p in curve[kind] if p[metric] is not None)
            for kind in ("points", "seeds")
        )
        lines.append(Line(curve["curve"], points, seeds))
    return sorted(lines, key=lambda line: list(CURVES).index(line.curve))


def _line(line: Line, at: Callable[[Point], Point], base: int) -> Markup:
    path = "M" + "L".join("{:.1f} {:.1f}".format(*at(point)) for point in line.points)
    dots = [
        Markup(
            '<circle cx="{}" cy="{}" r="3" fill="currentColor"><title>{}</title></circle>'
        ).format(*_written(at(point)), _tip(CURVES[line.curve], point))
        for point in line.points
    ]
    rings = [
        Markup('<circle cx="{}" cy="{}" r="4.5" fill="none" stroke="currentColor"/>').format(
            *_written(at(point))
        )
        for point in line.seeds
    ]
    legend = Markup(
        f'<path d="M{_LEFT + 8} {base - 4}h18" stroke="currentColor" stroke-width="2"/>'
        f'<text x="{_LEFT + 32}" y="{base}">{{}}</text>'
    ).format(CURVES[line.curve])
    return Markup(
        '<g class="c{}"><path d="{}" fill="none" stroke="currentColor" stroke-width="1.8"/>'
        "{}{}{}</g>"
    ).format(
        list(CURVES).index(line.curve), path, Markup("").join(dots), Markup("").join(rings), legend
    )


def _own(own: Mark, at: Callable[[Point], Point], base: int) -> Markup:
    """A cross with the SAE's name in the legend."""
    across, down = at(own.point)

    def cross(x: float, y: float) -> str:
        return f"M{x - 5:.1f} {y - 5:.1f}l10 10m-10 0l10 -10"

    return Markup(
        '<g class="own" fill="none" stroke-width="2"><path d="{}"><title>{}</title></path>'
        '<path d="{}"/><text class="name" stroke="none" x="{}" y="{}">{}</text></g>'
    ).format(
        cross(across, down),
        _tip(own.name, own.point),
        cross(_LEFT + 17, base - 4),
        _LEFT + 32,
        base,
        own.name,
    )


def _legend_base(row: int, rows: int) -> int:
    """Lower left: quality falls with sparsity, so the lines run from the upper left down."""
    return HEIGHT - _BOTTOM - 8 - 15 * (rows - 1 - row)


def _axes(x: Scale, y: Scale, at: Callable[[Point], Point], y_name: str, title: str) -> Markup:
    powers = [2.0**k for k in range(-4, 16) if x.low <= 2.0**k <= x.high]
    parts = [Markup('<text class="name" x="{}" y="14">{}</text>').format(_LEFT, title)]
    for value in powers:
        across, _ = at((value, y.low))
        parts.append(
            Markup(
                f'<path class="grid" d="M{across:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>'
                f'<text x="{across:.1f}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">'
                f"{value:g}</text>"
            )
        )
    for value, text in y.fine_ticks:
        _, down = at((x.low, value))
        parts.append(
            Markup(
                f'<path class="grid" d="M{_LEFT} {down:.1f}H{WIDTH - _RIGHT}"/>'
                f'<text x="{_LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{text}</text>'
            )
        )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(
        Markup(
            f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
            "features active per token (L0)</text>"
            f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">'
            "{}</text>"
        ).format(y_name)
    )
    return Markup("").join(parts)


def _written(point: Point) -> tuple[str, str]:
    return f"{point[0]:.1f}", f"{point[1]:.1f}"


def _tip(name: str, point: Point) -> str:
    return f"{name}: L0 {number(point[0])}, {number(point[1])}"


def _summary(title: str, y_name: str, lines: Sequence[Line], own: Mark | None) -> str:
    ends = [
        f"{CURVES[line.curve]} {number(line.points[0][1])} at an L0 of "
        f"{number(line.points[0][0])} to {number(line.points[-1][1])} at "
        f"{number(line.points[-1][0])}"
        for line in lines
    ]
    ends += [f"{own.name} {number(own.point[1])} at {number(own.point[0])}"] if own else []
    return f"{title}: {y_name} over L0. {'; '.join(ends)}"
