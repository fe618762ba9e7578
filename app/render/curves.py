"""Line charts and bands as inline SVG, without scripts: `curves`, `band`, `bars`.

As in `app.render.charts`, lines are drawn in a stretched box of 100 x 100 units and every word
beside them is HTML, so that text keeps its size at any width. A scale is logarithmic where values
span more than `LOG_SPAN`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.render.charts import linear_ticks
from app.render.numbers import count, number
from app.render.text import escape

LOG_SPAN = 20
"""Largest value over smallest (both positive) from which on a scale is logarithmic."""
SMALL = 1e-3
"""Largest value below which an axis is written with powers of ten."""
MOST_POINTS = 300
"""Points of a line; longer ones are thinned."""


@dataclass(frozen=True)
class Series:
    """One line: its name, the place of its colour, and its points (y may be missing)."""

    name: str
    colour: int
    points: Sequence[tuple[float, float | None]]
    target: float | None = None
    """Where a thin line is drawn for it to reach."""


@dataclass(frozen=True)
class Scale:
    """From values to 0..100, upwards."""

    low: float
    high: float
    logarithmic: bool

    @classmethod
    def of(cls, values: Sequence[float], from_zero: bool = False) -> "Scale":
        """One that holds all `values`."""
        positive = [value for value in values if value > 0]
        if positive and not from_zero and max(positive) > LOG_SPAN * min(positive):
            return cls(min(positive), max(positive), True)
        low, high = min(values, default=0.0), max(values, default=1.0)
        # From zero also where that wastes no more than a third of the height.
        if low > 0 and (from_zero or low < (high - low) / 2):
            low = 0.0
        return cls(low, high if high > low else low + (abs(low) or 1.0), False)

    def at(self, value: float) -> float:
        """0 at `low`, 100 at `high`; what a logarithm has no place for is at the bottom."""
        if not self.logarithmic:
            return 100 * (value - self.low) / (self.high - self.low)
        if value <= self.low:
            return 0.0
        return 100 * math.log(value / self.low) / math.log(self.high / self.low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Round values and their text."""
        if not self.logarithmic and self.high < SMALL:
            power = math.floor(math.log10(self.high))
            unit = 10.0**power
            ticks = linear_ticks(self.low / unit, self.high / unit, 4)
            return [(at * unit, f"{text}e{power}" if at else "0") for at, text in ticks]
        if not self.logarithmic:
            return linear_ticks(self.low, self.high, 4)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = (1, 2, 5) if last - first <= 2 else (1,)
        every = max(1, (last - first) // 5)
        found = [f * 10.0**e for e in range(first, last + 1, every) for f in factors]
        return [(v, number(v, 1)) for v in found if self.low <= v <= self.high]


def curves(
    series: Sequence[Series], *, title: str, definition: str, from_zero: bool = False
) -> str:
    """Lines over tokens; empty if none of them has a value."""
    lines = {one.name: _thinned(one.points) for one in series}
    values = [y for points in lines.values() for _, y in points]
    if not values:
        return ""
    values += [one.target for one in series if one.target is not None]
    scale = Scale.of(values, from_zero)
    last_x = max(x for points in lines.values() for x, _ in points)
    drawn = []
    for one in series:
        points = lines[one.name]
        if not points:
            continue
        kind = f"c{one.colour % 8}" + (" dashed" if one.colour >= 8 else "")
        if one.target is not None:
            y = 100 - scale.at(one.target)
            drawn.append(f'<path class="target {kind}" d="M0 {y:.2f}H100"/>')
        path = _path([(100 * x / last_x, scale.at(y)) for x, y in points])
        tip = f"{one.name}: {number(points[-1][1])} at the end"
        drawn.append(f'<path class="line {kind}" d="{path}"><title>{escape(tip)}</title></path>')
    ends = "; ".join(f"{name} {number(p[-1][1])}" for name, p in lines.items() if p)
    return _figure(title, definition, f"{title} at the end: {ends}", drawn, scale, last_x)


def band(
    points: Sequence[tuple[float, Sequence[float]]], *, title: str, definition: str, colour: int
) -> str:
    """Quantiles over tokens, an odd number of them, ascending: nested bands and a median."""
    points = points[:: max(1, len(points) // MOST_POINTS)]
    if not points:
        return ""
    scale = Scale.of([value for _, quantiles in points for value in quantiles])
    last_x, middle = points[-1][0], len(points[0][1]) // 2

    def line(i: int) -> list[tuple[float, float]]:
        return [(100 * x / last_x, scale.at(quantiles[i])) for x, quantiles in points]

    kind = f"c{colour % 8}"
    drawn = []
    for i in range(middle):
        outline = _path(line(i)) + _path(line(-1 - i)[::-1]).replace("M", "L", 1) + "Z"
        drawn.append(f'<path class="band {kind}" d="{outline}"/>')
    drawn.append(f'<path class="line {kind}" d="{_path(line(middle))}"/>')
    summary = f"{title}: median {number(points[-1][1][middle])} at the end"
    return _figure(title, definition, summary, drawn, scale, last_x)


def bars(
    counts: Sequence[int], names: Sequence[str], *, title: str, definition: str, colour: int
) -> str:
    """A histogram whose bars have names, some of them empty; heights are log10(1 + count)."""
    heights = [math.log10(1 + value) for value in counts]
    tallest, width = max(heights, default=0) or 1.0, 100 / len(counts)
    drawn = []
    for i, (value, height, name) in enumerate(zip(counts, heights, names, strict=True)):
        tall = 96 * height / tallest
        tip = f"{name}: {value:,}" if name else f"{value:,}"
        drawn.append(
            f'<rect class="bar c{colour % 8}" x="{(i + 0.08) * width:.2f}" y="{100 - tall:.2f}" '
            f'width="{0.84 * width:.2f}" height="{tall:.2f}">'
            f"<title>{escape(tip)}</title></rect>"
        )
    shown = "".join(
        f'<span style="left:{(i + 0.5) * width:.2f}%">{escape(name)}</span>'
        for i, name in enumerate(names)
        if name
    )
    summary = f"{title}: {', '.join(f'{value:,}' for value in counts)} features"
    return (
        f'<figure>{_caption(title, definition)}<div class="frame"><div class="plot">'
        f"{_svg(summary, drawn)}</div>"
        f'<div class="x" aria-hidden="true">{shown}</div></div></figure>'
    )


def _thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """The points that have a value, at most `MOST_POINTS` and the last."""
    known = [(x, y) for x, y in points if y is not None]
    every = max(1, math.ceil(len(known) / MOST_POINTS))
    kept = known[::every]
    return kept if not known or kept[-1] == known[-1] else [*kept, known[-1]]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.2f} {100 - y:.2f}" for x, y in points)


def _figure(
    title: str, definition: str, summary: str, drawn: list[str], scale: Scale, last_x: float
) -> str:
    ticks = [(scale.at(value), text) for value, text in scale.ticks]
    grid = "".join(f'<path class="grid" d="M0 {100 - at:.2f}H100"/>' for at, _ in ticks)
    y = "".join(f'<span style="bottom:{at:.2f}%">{text}</span>' for at, text in ticks)
    x = "".join(
        f'<span style="left:{100 * share:.0f}%">{count(share * last_x)}</span>'
        for share in (0, 0.5, 1)
    )
    return (
        f'<figure>{_caption(title, definition)}<div class="frame">'
        f'<div class="y" aria-hidden="true">{y}</div>'
        f'<div class="plot">{_svg(summary, [grid, *drawn])}</div>'
        f'<div class="x" aria-hidden="true">{x}</div></div></figure>'
    )


def _caption(title: str, definition: str) -> str:
    return f"<figcaption><b>{escape(title)}</b> {escape(definition)}</figcaption>"


def _svg(summary: str, drawn: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(summary)}">{"".join(drawn)}</svg>'
    )
