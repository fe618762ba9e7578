"""Small plots as SVG: panels one above the other, 380 units wide, so that a phone shows them whole.

They bring their own background and follow the reader's light or dark setting.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH = 380
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 24, 36
COLOURS = (
    ("#1f5fbf", "#7db2ff"),
    ("#b4461f", "#ff9d73"),
    ("#1d7a46", "#6fd39b"),
    ("#7a3fb0", "#c79bff"),
    ("#8a6d00", "#e3c04f"),
    ("#00767f", "#5fd0da"),
)
"""Of lines, on a light and on a dark ground."""

Points = Sequence[tuple[float, float]]


@dataclass
class Panel:
    """One plot with its axes; what is drawn is clipped to it."""

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    height: int = 190
    legend: bool = True
    _inside: list[str] = field(default_factory=list)
    _legend: list[tuple[str, int]] = field(default_factory=list)
    _texts: list[str] = field(default_factory=list)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """From values to units of the drawing."""
        across = _share(x, self.x, self.log_x)
        up = _share(y, self.y, self.log_y)
        width, height = WIDTH - LEFT - RIGHT, self.height - TOP - BOTTOM
        return LEFT + across * width, TOP + (1 - up) * height

    def line(self, points: Points, colour: int, name: str = "", dashed: bool = False) -> None:
        """A line through points; a name puts it into the legend."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*p) for p in points))
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._inside.append(f'<polyline class="c{colour}" points="{path}"{dash}/>')
        if name:
            self._legend.append((name, colour))

    def band(self, low: Points, high: Points, colour: int) -> None:
        """The area between two lines."""
        both = [*low, *reversed(high)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*p) for p in both))
        self._inside.append(f'<polygon class="f{colour}" points="{path}"/>')

    def bars(self, edges: Sequence[float], values: Sequence[float], colour: int) -> None:
        """A histogram's outline, filled."""
        floor = self.y[0]
        points = [(edges[0], floor)]
        for left, right, value in zip(edges, edges[1:], values, strict=False):
            points += [(left, max(value, floor)), (right, max(value, floor))]
        points.append((edges[-1], floor))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*p) for p in points))
        self._inside.append(f'<polygon class="f{colour}" points="{path}"/>')

    def upright(self, x: float, text: str = "", *, dashed: bool = True, row: int = 0) -> None:
        """A vertical line with words beside its upper end."""
        at, top = self.place(x, self.y[1])
        _, bottom = self.place(x, self.y[0])
        dash = ' stroke-dasharray="3 3"' if dashed else ""
        self._inside.append(
            f'<line class="mark" x1="{at:.1f}" y1="{top:.1f}" x2="{at:.1f}" y2="{bottom:.1f}"'
            f"{dash}/>"
        )
        if text:
            right = at > WIDTH * 0.62
            anchor = ' text-anchor="end"' if right else ""
            shift = -4 if right else 4
            self._texts.append(
                f'<text x="{at + shift:.1f}" y="{top + 11 + 13 * row:.1f}"{anchor}>'
                f"{escape(text)}</text>"
            )

    def level(self, y: float) -> None:
        """A horizontal line."""
        left, at = self.place(self.x[0], y)
        right, _ = self.place(self.x[1], y)
        self._inside.append(
            f'<line class="mark" x1="{left:.1f}" y1="{at:.1f}" x2="{right:.1f}" y2="{at:.1f}"'
            ' stroke-dasharray="3 3"/>'
        )

    @property
    def legend_rows(self) -> int:
        """Lines of text that the legend takes."""
        return -(-len(self._legend) // 2) if self.legend else 0

    def svg(self, top: float, name: str) -> str:
        """The panel `top` units below the drawing's upper edge."""
        left, low = self.place(self.x[0], self.y[0])
        right, high = self.place(self.x[1], self.y[1])
        parts = [f'<g transform="translate(0 {top:g})">']
        parts.append(f'<text class="title" x="{LEFT - 38}" y="14">{escape(self.title)}</text>')
        for value, label in _ticks(self.x, self.log_x):
            at, _ = self.place(value, self.y[0])
            parts.append(
                f'<line class="grid" x1="{at:.1f}" y1="{high:g}" x2="{at:.1f}" y2="{low:g}"/>'
            )
            parts.append(f'<text x="{at:.1f}" y="{low + 13:g}" text-anchor="middle">{label}</text>')
        for value, label in _ticks(self.y, self.log_y):
            _, at = self.place(self.x[0], value)
            parts.append(
                f'<line class="grid" x1="{left:g}" y1="{at:.1f}" x2="{right:g}" y2="{at:.1f}"/>'
            )
            parts.append(
                f'<text x="{left - 4:g}" y="{at + 4:.1f}" text-anchor="end">{label}</text>'
            )
        clip = f"{name}{top:g}"
        parts.append(
            f'<clipPath id="{clip}"><rect x="{left:g}" y="{high:g}" width="{right - left:g}" '
            f'height="{low - high:g}"/></clipPath>'
        )
        parts += [f'<g clip-path="url(#{clip})">', *self._inside, "</g>", *self._texts]
        middle = (left + right) / 2
        label = self.x_label if not self.y_label else f"{self.x_label}  (up: {self.y_label})"
        parts.append(
            f'<text x="{middle:g}" y="{low + 28:g}" text-anchor="middle">{escape(label)}</text>'
        )
        if self.legend:
            for k, (text, colour) in enumerate(self._legend):
                x, y = LEFT + 165 * (k % 2), self.height + 6 + 15 * (k // 2)
                parts.append(
                    f'<line class="c{colour}" x1="{x}" y1="{y - 4}" x2="{x + 16}" y2="{y - 4}"/>'
                )
                parts.append(f'<text x="{x + 21}" y="{y}">{escape(text)}</text>')
        return "\n".join([*parts, "</g>"])


def drawing(panels: Sequence[Panel], description: str, name: str) -> str:
    """Panels one above the other as an SVG file's text."""
    parts, top = [], 6.0
    for panel in panels:
        parts.append(panel.svg(top, name))
        top += panel.height + 15 * panel.legend_rows + 8
    light, dark = (
        "".join(
            f".c{k}{{stroke:{pair[side]};fill:none;stroke-width:1.8}}"
            f".f{k}{{fill:{pair[side]};fill-opacity:.3;stroke:none}}"
            for k, pair in enumerate(COLOURS)
        )
        for side in (0, 1)
    )
    style = (
        "text{font:11px system-ui,sans-serif;fill:#1d1f24}.title{font-weight:600;font-size:12px}"
        ".ground{fill:#fff}.grid{stroke:#e2e4e9}.mark{stroke:#1d1f24;stroke-width:1.2}"
        + light
        + "@media (prefers-color-scheme:dark){text{fill:#e8e9ee}.ground{fill:#15171c}"
        ".grid{stroke:#343841}.mark{stroke:#e8e9ee}" + dark + "}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:g}" role="img" '
        f'width="{WIDTH * 1.5:g}">\n<title>{escape(description)}</title>\n<style>{style}</style>\n'
        f'<rect class="ground" width="{WIDTH}" height="{top:g}"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _share(value: float, limits: tuple[float, float], log: bool) -> float:
    low, high = limits
    if log:
        value, low, high = (math.log(max(v, 1e-300)) for v in (value, low, high))
    return min(max((value - low) / (high - low), -9.0), 9.0)


def _ticks(limits: tuple[float, float], log: bool) -> list[tuple[float, str]]:
    low, high = limits
    if log:
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        values = [10.0**p for p in powers]
        if len(values) < 3:
            values = [
                m * 10.0**p for p in range(powers.start - 1, powers.stop + 1) for m in (1, 2, 5)
            ]
    else:
        raw = (high - low) / 4
        step = 10 ** math.floor(math.log10(raw))
        step *= next(m for m in (1, 2, 5, 10) if m * step >= raw)
        values = [
            k * step
            for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        ]
    return [(v, _label(v)) for v in values if low * 0.999 - 1e-12 <= v <= high * 1.001 + 1e-12]


def _label(value: float) -> str:
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if abs(value) >= 1e4 or abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:g}"
