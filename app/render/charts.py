"""Histograms as inline SVG, coloured by the style sheet's variables.

Bars are drawn in a stretched box of 100 x 100 units; every word beside them is HTML, so that text
keeps its size at any width. Heights are log10(1 + count) unless said otherwise: one token and a
million both show.
"""

import math
from collections.abc import Callable, Sequence

from app.render.numbers import count, fixed, number
from app.render.text import escape


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
) -> str:
    """Bars between `edges`, one per count; what lies below `threshold` is grey.

    `ticks` are (position on the axis, text); `bar_tip(low, high, count)` and
    `bar_link(low, high)` (an escaped address) belong to single bars.
    """
    low, high = edges[0], edges[-1]
    span = (high - low) or 1.0
    scaled = [math.log10(1 + value) if log_counts else float(value) for value in counts]
    tallest = max(scaled, default=0.0) or 1.0
    bars = []
    for left, right, value, tall in zip(edges[:-1], edges[1:], counts, scaled, strict=True):
        x, width = 100 * (left - low) / span, 100 * (right - left) / span
        height = 97 * tall / tallest
        below = threshold is not None and (left + right) / 2 <= threshold
        tip = bar_tip(left, right, value) if bar_tip else _tip(left, right, value, unit)
        gap = width * 0.12
        rect = (
            f'<rect class="hit" x="{x:.3f}" y="0" width="{width:.3f}" height="100"/>'
            f'<rect class="bar{" below" if below else ""}" x="{x + gap / 2:.3f}" '
            f'y="{100 - height:.2f}" width="{width - gap:.3f}" height="{height:.2f}"/>'
        )
        attributes = f'data-tip="{escape(tip)}"'
        if bar_link and value:
            href = bar_link(left, right)
            link = f'class="step" tabindex="-1" href="{href}" aria-label="{escape(tip)}"'
            bars.append(f"<a {link} {attributes}>{rect}</a>")
        else:
            bars.append(f'<g class="step" {attributes}>{rect}</g>')
    return (
        f'<div class="chart"><div class="plot"><svg viewBox="0 0 100 100" '
        f'preserveAspectRatio="none" data-steps=".step" tabindex="0" '
        f'role="{"group" if bar_link else "img"}" '
        f'aria-label="{escape(label)}">{"".join(bars)}</svg>'
        f"{_threshold_line(threshold, low, span)}</div>"
        f'<div class="axis" aria-hidden="true">{_ticks(ticks, low, span)}</div></div>'
    )


def _tip(low: float, high: float, value: int, unit: str) -> str:
    noun = unit if value != 1 else unit.removesuffix("s")
    return f"{number(low)} to {number(high)}: {count(value)} {noun}"


def _threshold_line(threshold: float | None, low: float, span: float) -> str:
    if threshold is None:
        return ""
    at = 100 * (threshold - low) / span
    side = "left" if at > 55 else "right"
    return (
        f'<div class="threshold {side}" style="left:{at:.2f}%">'
        f"<span>threshold {number(threshold)}</span></div>"
    )


def _ticks(ticks: Sequence[tuple[float, str]], low: float, span: float) -> str:
    parts = []
    for position, text in ticks:
        at = 100 * (position - low) / span
        edge = " first" if at < 8 else " last" if at > 92 else ""
        parts.append(f'<span class="tick{edge}" style="left:{at:.2f}%">{escape(text)}</span>')
    return "".join(parts)


def linear_ticks(low: float, high: float, most: int = 5) -> list[tuple[float, str]]:
    """Round positions between `low` and `high`, at most `most`, with zero among them if inside."""
    span = high - low
    if span <= 0:
        return [(low, number(low))]
    raw = span / most
    step = 10 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if step * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    positions = [step * k for k in range(first, first + most + 1) if step * k <= high + 1e-9]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if step * 10**decimals % 1 > 1e-9:  # 2.5 and its like need one more
        decimals += 1
    return [(position, fixed(round(position, 10) + 0.0, decimals)) for position in positions]
