"""How the library's objects show themselves in a notebook: `_repr_html_` is made of these.

Plain HTML with its style inline, so that a saved notebook keeps it; everything that comes from a
model, a file or a user is escaped. Words have the notebook's own colour, and what is drawn has
colours that stand on light and dark, those of the app's style sheet.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from sae_core.number_text import number

HEAT: Final = (245, 158, 11, 0.78)
"""Behind a token with the largest activation: red, green, blue and how much of it."""
WORSE: Final = (220, 60, 50, 0.62)
"""Behind a token with the largest loss."""
BETTER: Final = (37, 110, 220, 0.62)
BELOW: Final = "#9aa3ad"
"""Bars that do not pass the threshold: between the app's greys for light and dark."""
MOST_TOKENS: Final = 400
MOST_ROWS: Final = 12

_MONO: Final = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"
_CELL: Final = "padding:2px 10px 2px 0;text-align:{};vertical-align:baseline"

Cell = str | int | float | None


def page(title: str, *parts: str) -> str:
    """What an object shows: a title and parts that the functions below made."""
    inside = "".join(parts)
    return (
        '<div style="max-width:760px;line-height:1.5">'
        f'<div style="font-weight:650;margin-bottom:4px">{escape(title)}</div>{inside}</div>'
    )


def words(text: str) -> str:
    """A line of words."""
    return f'<div style="opacity:.75;font-size:92%">{escape(text)}</div>'


def share(value: float, largest: float) -> float:
    """How much of the full colour a value has, from 0 to 1."""
    if value <= 0:
        return 0.0
    return min(1.0, value / largest) if largest > 0 else 1.0


def heat_map(
    tokens: Sequence[str],
    values: Sequence[float],
    largest: float,
    label: str,
    *,
    cost: bool = False,
) -> str:
    """Tokens as running text, each coloured by its value: `largest` has the full colour.

    With `cost` what is positive is red and what is negative blue. NaN has no colour. Longer texts
    than `MOST_TOKENS` are cut, which the last line says.
    """
    spans = [_token(*pair, largest, cost) for pair in zip(tokens, values, strict=True)]
    left = len(spans) - MOST_TOKENS
    more = words(f"and {left:,} further tokens") if left > 0 else ""
    style = f"{_MONO};white-space:pre-wrap;overflow-wrap:anywhere;margin:6px 0"
    drawn = "".join(spans[:MOST_TOKENS])
    return f'<div role="img" aria-label="{escape(label)}" style="{style}">{drawn}</div>{more}'


def _token(text: str, value: float, largest: float, cost: bool) -> str:
    shown = escape(text).replace("\n", '<span style="opacity:.6">↵</span>\n') or "·"
    if math.isnan(value):
        return f'<span style="opacity:.6">{shown}</span>'
    much = share(abs(value) if cost else value, largest)
    if much == 0:
        return f"<span>{shown}</span>"
    red, green, blue, full = (WORSE if value > 0 else BETTER) if cost else HEAT
    colour = f"rgb({red} {green} {blue} / {100 * full * much:.0f}%)"
    style = f"background:{colour};border-radius:3px"
    return f'<span style="{style}" title="{escape(number(value))}">{shown}</span>'


def histogram(
    edges: Sequence[float | int], counts: Sequence[int], label: str, threshold: float | None = None
) -> str:
    """Bars between `edges`, one per count, of height log10(1 + count); those below the threshold
    are grey. Written under them: both ends of the axis and the threshold.
    """
    low, high = float(edges[0]), float(edges[-1])
    span = (high - low) or 1.0
    heights = [math.log10(1 + count) for count in counts]
    tallest = max(heights, default=0.0) or 1.0
    bars = []
    for left, right, count, height in zip(edges[:-1], edges[1:], counts, heights, strict=True):
        below = threshold is not None and (left + right) / 2 <= threshold
        tall, wide = 97 * height / tallest, 100 * (right - left) / span
        bars.append(
            f'<rect x="{100 * (left - low) / span:.2f}" y="{100 - tall:.2f}" '
            f'width="{0.88 * wide:.2f}" height="{tall:.2f}" '
            f'fill="{BELOW if below else "#e08a08"}"><title>{escape(number(left))} to '
            f"{escape(number(right))}: {count:,}</title></rect>"
        )
    if threshold is not None:
        at = 100 * (threshold - low) / span
        bars.append(f'<rect x="{at:.2f}" y="0" width=".5" height="100" fill="#c2570c"/>')
    middle = "" if threshold is None else f"threshold {number(threshold)}"
    ends = "".join(f"<span>{escape(each)}</span>" for each in (number(low), middle, number(high)))
    return (
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}" '
        'style="display:block;width:100%;max-width:420px;height:80px">'
        f'{"".join(bars)}</svg><div style="display:flex;justify-content:space-between;'
        f'max-width:420px;font-size:85%;opacity:.75">{ends}</div>'
    )


def facts(values: Mapping[str, Cell]) -> str:
    """Names and values side by side; what is None is left out."""
    rows = [
        f'<span style="display:inline-block;margin-right:18px"><span style="opacity:.7">'
        f"{escape(name)}</span> {_text(value)}</span>"
        for name, value in values.items()
        if value is not None
    ]
    return f'<div style="margin:2px 0 4px">{"".join(rows)}</div>'


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], most: int = MOST_ROWS) -> str:
    """A table of at most `most` rows; numbers have three significant digits."""
    rows = list(rows)
    numeric = [
        all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(heads))
    ]
    sides = ["right" if each else "left" for each in numeric]

    def line(tag: str, cells: Iterable[str]) -> str:
        pairs = zip(cells, sides, strict=True)
        return "".join(
            f'<{tag} style="{_CELL.format(side)}">{each}</{tag}>' for each, side in pairs
        )

    head = line("th", map(escape, heads))
    body = "".join(f"<tr>{line('td', map(_text, row))}</tr>" for row in rows[:most])
    more = words(f"and {len(rows) - most:,} more") if len(rows) > most else ""
    return (
        '<table style="border-collapse:collapse;background:transparent;font-size:95%">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
    )


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return escape(number(value) if isinstance(value, float) else str(value))
