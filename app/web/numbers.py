"""How numbers are written on the pages: few digits, grouped, the same everywhere.

`js/numbers.js` has the same functions and writes every value alike. `number` and `fixed`, and the
rule by which all of them round, are `sae_core.number_text`'s.
"""

import math
from collections.abc import Sequence
from typing import Final

from sae_core.number_text import (
    MOST_DECIMALS,
    UNDEFINED,
    fixed,
    grouped,
    minus,
    number,
    power_of_ten,
    significant,
)

__all__ = [
    "NO_BREAK",
    "UNDEFINED",
    "count",
    "fixed",
    "gigabytes",
    "number",
    "one_in",
    "percent",
    "signed",
]

NO_BREAK: Final = "\N{NO-BREAK SPACE}"


def signed(value: float | None, decimals: int = 2) -> str:
    """`value` with its sign always shown, zero's as +: +0.23, −0.05, +0.00."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    text = grouped(value, decimals)
    return (minus(value, text) or "+") + text


def percent(share: float | None) -> str:
    """A share as a percentage with two significant digits: 38 %, 5.2 %, 0.0034 %."""
    text = number(None if share is None else 100 * float(share), 2)
    return text if text == UNDEFINED else f"{text}{NO_BREAK}%"


def count(value: float | None) -> str:
    """A count, a large one in words that fit a line: 950, 4,096, 3.1 M, 2.61 B."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    if abs(value) >= 999_999.5:
        return _in_units(value, [(9, "B"), (6, "M")])
    return fixed(value, 0)


def one_in(share: float | None) -> str:
    """A share as odds of two significant digits: 1 in 1,600 tokens reads better than 0.06 %.

    A share is at least 0, which is "never", and at most 1; anything else is undefined.
    """
    if share is None or not 0 <= share <= 1:
        return UNDEFINED
    odds = 1 / float(share) if share else math.inf
    if math.isinf(odds):
        return "never"
    if power_of_ten(odds, 2) > 1:
        odds = _rounded(odds, 2)
    return f"1 in {grouped(odds, 0)}"


def gigabytes(size: float | None) -> str:
    """A number of bytes in three significant digits: 1.2 GB, 340 MB, 0.5 kB."""
    if size is None or not math.isfinite(size):
        return UNDEFINED
    return _in_units(size, [(9, "GB"), (6, "MB"), (3, "kB")])


def _in_units(value: float, units: Sequence[tuple[int, str]]) -> str:
    """Three significant digits of `value`, less trailing zeros, in the largest unit that it fills.

    `units` are exponents of ten with their names, the largest first; the last takes what is less.
    The choice is made after rounding: 999,999,999 is 1 B.
    """
    exponent = power_of_ten(value, 3)
    power, unit = next((each for each in units if exponent >= each[0]), units[-1])
    decimals = min(max(0, 2 - (exponent - power)), MOST_DECIMALS)
    text = grouped(_rounded(value, 3) / 10**power, decimals)
    if decimals:
        text = text.rstrip("0").rstrip(".")
    return f"{minus(value, text)}{text}{NO_BREAK}{unit}"


def _rounded(value: float, digits: int) -> float:
    """`value` rounded to `digits` significant digits."""
    return float(significant(value, digits))
