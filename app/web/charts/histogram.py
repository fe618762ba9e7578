"""Histograms: bars in a stretched box of 100 x 100 units, and every word beside them as HTML.

Heights are log10(1 + count) unless said otherwise: one token and a million both show. Labels of the
axis are chosen so that they do not meet, and the style sheet keeps them within the axis.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from markupsafe import Markup

from app.web.numbers import count, number

NARROWEST: Final = 250
"""Pixels of the narrowest axis: a chart's in a card on a phone of 320."""
WIDE: Final = 420
"""Pixels from which on an axis is wide, as in css/tokens.css."""
_CHARACTER: Final = 7.2
"""Pixels of a label's character, as css/tokens.css makes its box."""
_GAP: Final = 10
"""Pixels between labels."""


@dataclass(frozen=True)
class Tick:
    """A label of an axis."""

    at: float
    """Its place on the axis, in percent."""
    text: str
    room: Literal["", "narrow", "wide"] = ""
    """Where it is shown: anywhere, on a narrow axis alone, on a wide one alone."""


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    label: str,
    ticks: Sequence[tuple[float, str]],
    threshold: float | None = None,
    log_counts: bool = True,
    bar_tip: Callable[[float, float, int], str] | None = None,
    bar_link: Callable[[float, float], str] | None = None,
    unit: str = "tokens",
) -> Markup:
    """Bars between `edges`, one per count; what lies below `threshold` is grey.

    `ticks` are (position on the axis, text), as many of which are shown as have room;
    `bar_tip(low, high, count)` and `bar_link(low, high)` (an address) belong to single bars.
    """
    low, high = edges[0], edges[-1]
    span = (high - low) or 1.0
    scaled = [math.log10(1 + value) if log_counts else float(value) for value in counts]
    tallest = max(scaled, default=0.0) or 1.0
    bars = []
    for left, right, value, tall in zip(edges[:-1], edges[1:], counts, scaled, strict=True):
        x, width = 100 * (left - low) / span, 100 * (right - left) / span
        below = threshold is not None and (left + right) / 2 <= threshold
        tip = bar_tip(left, right, value) if bar_tip else _tip(left, right, value, unit)
        rect = _bar(x, width, 97 * tall / tallest, below)
        if bar_link and value:
            bar = Markup(
                '<a class="step" tabindex="-1" href="{href}" aria-label="{tip}" '
                'data-tip="{tip}">{rect}</a>'
            ).format(href=bar_link(left, right), tip=tip, rect=rect)
        else:
            bar = Markup('<g class="step" data-tip="{}">{}</g>').format(tip, rect)
        bars.append(bar)
    return Markup(
        '<div class="chart"><div class="plot"><svg viewBox="0 0 100 100" '
        'preserveAspectRatio="none" data-steps=".step" tabindex="0" role="group" '
        'aria-label="{}">{}</svg>{}</div><div class="axis" aria-hidden="true">{}</div></div>'
    ).format(label, _joined(bars), _threshold_line(threshold, low, span), _axis(ticks, low, span))


def _bar(x: float, width: float, height: float, below: bool) -> Markup:
    """A bar, and over the whole height what the pointer finds."""
    gap = width * 0.12
    return Markup(
        f'<rect class="hit" x="{x:.3f}" y="0" width="{width:.3f}" height="100"/>'
        f'<rect class="bar{" below" if below else ""}" x="{x + gap / 2:.3f}" '
        f'y="{100 - height:.2f}" width="{width - gap:.3f}" height="{height:.2f}"/>'
    )


def _tip(low: float, high: float, value: int, unit: str) -> str:
    noun = unit if value != 1 else unit.removesuffix("s")
    return f"{number(low)} to {number(high)}: {count(value)} {noun}"


def _threshold_line(threshold: float | None, low: float, span: float) -> Markup:
    if threshold is None:
        return Markup()
    at = 100 * (threshold - low) / span
    side = "left" if at > 55 else "right"
    return Markup(
        '<div class="threshold {}" style="left:{}%"><span>threshold {}</span></div>'
    ).format(side, f"{at:.2f}", number(threshold))


def _axis(ticks: Sequence[tuple[float, str]], low: float, span: float) -> Markup:
    places = [(100 * (position - low) / span, text) for position, text in ticks]
    return _joined(_label(tick) for tick in thinned_ticks(places))


def _label(tick: Tick) -> Markup:
    edge = " first" if tick.at < 2 else " last" if tick.at > 98 else ""
    room = f" {tick.room}" if tick.room else ""
    return Markup('<span class="tick{}" style="--at:{};--n:{}">{}</span>').format(
        edge + room, f"{tick.at:.2f}", len(tick.text), tick.text
    )


def thinned_ticks(places: Sequence[tuple[float, str]]) -> list[Tick]:
    """Of (percent, text), ascending: every second, third, ... so that no two labels meet, on the
    narrowest axis and on a wide one.
    """
    narrow, wide = (places[:: _step(places, width)] for width in (NARROWEST, WIDE))
    return [
        Tick(
            *place,
            "" if place in narrow and place in wide else "wide" if place in wide else "narrow",
        )
        for place in places
        if place in narrow or place in wide
    ]


def _step(places: Sequence[tuple[float, str]], width: float) -> int:
    """The smallest step between labels with which none meet on an axis of `width` pixels."""
    for step in range(1, len(places)):
        boxes = [_box(place, width) for place in places[::step]]
        if all(end + _GAP <= start for (_, end), (start, _) in pairwise(boxes)):
            return step
    return max(1, len(places))


def _box(place: tuple[float, str], width: float) -> tuple[float, float]:
    """Where a label begins and ends, in pixels, kept within the axis as the style sheet does."""
    at, text = place
    size = _CHARACTER * len(text)
    left = max(0.0, min(at / 100 * width - size / 2, width - size))
    return left, left + size


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)
