"""How numbers are written on the pages: few digits, tabular, the same everywhere.

`static/core.js` writes numbers by the same rules where the browser draws.
"""

import math
from typing import Final

NO_BREAK: Final = "\N{NO-BREAK SPACE}"
MINUS: Final = "\N{MINUS SIGN}"


def number(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits and no exponent: 14.2, 0.831, 1,240, −0.7."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{abs(value):,.{min(decimals, 8)}f}"
    return (MINUS if value < 0 else "") + text


def fixed(value: float, decimals: int) -> str:
    """`value` with that many decimals, for columns that are compared: 0.952, −0.10."""
    if not math.isfinite(value):
        return "–"
    return (MINUS if value < 0 else "") + f"{abs(value):,.{decimals}f}"


def signed(value: float, decimals: int = 2) -> str:
    """`value` with its sign always shown: +0.23, −0.05."""
    if not math.isfinite(value):
        return "–"
    return ("+" if value >= 0 else MINUS) + f"{abs(value):,.{decimals}f}"


def percent(share: float) -> str:
    """A share as a percentage with two significant digits: 38 %, 5.2 %, 0.0034 %."""
    value = 100 * share
    if value >= 10 or value == 0:
        return f"{value:.0f}{NO_BREAK}%"
    return number(value, 2) + f"{NO_BREAK}%"


def count(value: float) -> str:
    """A large count in words that fit a line: 950, 4,096, 3.1 M, 2.6 B."""
    for limit, unit in ((1e9, "B"), (1e6, "M")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{NO_BREAK}{unit}"
    return f"{value:,.0f}"


def one_in(share: float) -> str:
    """A share as odds, rounded to two digits: 1 in 1,600 tokens reads better than 0.06 %."""
    if share <= 0:
        return "never"
    odds = 1 / share
    step = 10 ** max(0, math.floor(math.log10(odds)) - 1)
    return f"1 in {round(odds / step) * step:,.0f}"
