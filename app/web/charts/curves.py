"""Line charts, bands and named bars over training, without scripts: `curves`, `band`, `bars`.

Lines are drawn in a stretched box of 100 x 100 units and every word beside them is HTML, so that
text keeps its size at any width. A scale is logarithmic where values span much.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from app.web.charts.scale import Scale
from app.web.numbers import count, number

MOST_POINTS: Final = 300
"""Points of a line; longer ones are thinned."""
COLOURS: Final = 8
"""Colours of lines; further lines have them again, dashed."""


@dataclass(frozen=True)
class Series:
    """One line: its name, the place of its colour, and its points (y may be missing)."""

    name: str
    colour: int
    points: Sequence[tuple[float, float | None]]
    target: float | None = None
    """Where a thin line is drawn for it to reach."""


def colour_class(i: int) -> str:
    """The class of the line in place `i`."""
    return f"c{i % COLOURS}" + (" dashed" if i >= COLOURS else "")


def curves(
    series: Sequence[Series], *, title: str, definition: str, from_zero: bool = False
) -> Markup:
    """Lines over tokens; empty if none of them has a value."""
    lines = {one.name: _thinned(one.points) for one in series}
    values = [y for points in lines.values() for _, y in points]
    if not values:
        return Markup()
    values += [one.target for one in series if one.target is not None]
    scale = Scale.of(values, from_zero)
    last_x = max(x for points in lines.values() for x, _ in points)
    drawn = []
    for one in series:
        points = lines[one.name]
        if not points:
            continue
        kind = colour_class(one.colour)
        if one.target is not None:
            y = 100 - scale.at(one.target)
            drawn.append(Markup(f'<path class="target {kind}" d="M0 {y:.2f}H100"/>'))
        path = _path([(100 * x / last_x, scale.at(y)) for x, y in points])
        tip = f"{one.name}: {number(points[-1][1])} at the end"
        drawn.append(
            Markup('<path class="line {}" d="{}"><title>{}</title></path>').format(kind, path, tip)
        )
    ends = "; ".join(f"{name} {number(p[-1][1])}" for name, p in lines.items() if p)
    return _figure(title, definition, f"{title} at the end: {ends}", drawn, scale, last_x)


def band(
    points: Sequence[tuple[float, Sequence[float]]], *, title: str, definition: str, colour: int
) -> Markup:
    """Quantiles over tokens, an odd number of them, ascending: nested bands and a median."""
    points = points[:: max(1, len(points) // MOST_POINTS)]
    if not points:
        return Markup()
    scale = Scale.of([value for _, quantiles in points for value in quantiles])
    last_x, middle = points[-1][0], len(points[0][1]) // 2

    def line(i: int) -> list[tuple[float, float]]:
        return [(100 * x / last_x, scale.at(quantiles[i])) for x, quantiles in points]

    kind = f"c{colour % COLOURS}"
    drawn = []
    for i in range(middle):
        outline = _path(line(i)) + _path(line(-1 - i)[::-1]).replace("M", "L", 1) + "Z"
        drawn.append(Markup(f'<path class="band {kind}" d="{outline}"/>'))
    drawn.append(Markup(f'<path class="line {kind}" d="{_path(line(middle))}"/>'))
    summary = f"{title}: median {number(points[-1][1][middle])} at the end"
    return _figure(title, definition, summary, drawn, scale, last_x)


def bars(
    counts: Sequence[int], names: Sequence[str], *, title: str, definition: str, colour: int
) -> Markup:
    """A histogram whose bars have names, some of them empty; heights are log10(1 + count)."""
    heights = [math.log10(1 + value) for value in counts]
    tallest, width = max(heights, default=0) or 1.0, 100 / len(counts)
    drawn = []
    for i, (value, height, name) in enumerate(zip(counts, heights, names, strict=True)):
        tall = 96 * height / tallest
        tip = f"{name}: {value:,}" if name else f"{value:,}"
        rect = Markup(
            f'<rect class="bar c{colour % COLOURS}" x="{(i + 0.08) * width:.2f}" '
            f'y="{100 - tall:.2f}" width="{0.84 * width:.2f}" height="{tall:.2f}">'
        )
        drawn.append(rect + Markup("<title>{}</title></rect>").format(tip))
    shown = [
        Markup('<span style="left:{}%">{}</span>').format(f"{(i + 0.5) * width:.2f}", name)
        for i, name in enumerate(names)
        if name
    ]
    summary = f"{title}: {', '.join(f'{value:,}' for value in counts)} features"
    return Markup(
        '<figure>{}<div class="frame"><div class="plot">{}</div>'
        '<div class="x" aria-hidden="true">{}</div></div></figure>'
    ).format(_caption(title, definition), _svg(summary, drawn), _joined(shown))


def _thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """The points that have a value, at most `MOST_POINTS` and the last."""
    measured = [(x, y) for x, y in points if y is not None]
    every = max(1, math.ceil(len(measured) / MOST_POINTS))
    kept = measured[::every]
    return kept if not measured or kept[-1] == measured[-1] else [*kept, measured[-1]]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.2f} {100 - y:.2f}" for x, y in points)


def _figure(
    title: str, definition: str, summary: str, drawn: list[Markup], scale: Scale, last_x: float
) -> Markup:
    ticks = [(scale.at(value), text) for value, text in scale.ticks]
    grid = [Markup(f'<path class="grid" d="M0 {100 - at:.2f}H100"/>') for at, _ in ticks]
    y = [Markup(f'<span style="bottom:{at:.2f}%">{text}</span>') for at, text in ticks]
    x = [
        Markup(f'<span style="left:{100 * share:.0f}%">{count(share * last_x)}</span>')
        for share in (0, 0.5, 1)
    ]
    return Markup(
        '<figure>{}<div class="frame"><div class="y" aria-hidden="true">{}</div>'
        '<div class="plot">{}</div><div class="x" aria-hidden="true">{}</div></div></figure>'
    ).format(_caption(title, definition), _joined(y), _svg(summary, [*grid, *drawn]), _joined(x))


def _caption(title: str, definition: str) -> Markup:
    return Markup("<figcaption><b>{}</b> {}</figcaption>").format(title, definition)


def _svg(summary: str, drawn: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(summary, _joined(drawn))


def _joined(parts: Sequence[Markup]) -> Markup:
    return Markup("").join(parts)
