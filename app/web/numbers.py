"""How numbers are written on the pages: few digits, grouped, the same everywhere.

`js/numbers.js` has the same functions and writes every value alike. Both round the exact value of
the float, and a tie away from zero: 0.125 has two decimals as 0.13. (Python's own formatting rounds
it to 0.12.) What rounds to zero has no minus sign, and what is undefined, infinite or missing is a
dash.
"""

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

NO_BREAK: Final = "\N{NO-BREAK SPACE}"
MINUS: Final = "\N{MINUS SIGN}"
UNDEFINED: Final = "\N{EN DASH}"

# No number is written with more decimals, however few of its digits that leaves.
MOST_DECIMALS: Final = 8

# A float's whole part has up to 309 digits; JavaScript writes at most 100 decimals.
_EXACT: Final = Context(prec=500, rounding=ROUND_HALF_UP)


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits and no exponent: 14.2, 0.831, 1,240, −0.7.

    The whole part is never shortened, and what rounds to zero at eight decimals is 0.
    """
    if value is None or not math.isfinite(value):
        return UNDEFINED
    decimals = max(0, digits - 1 - _exponent(value, digits))
    text = _grouped(value, min(decimals, MOST_DECIMALS))
    return _minus(value, text) + text if _has_size(text) else "0"


def fixed(value: float | None, decimals: int) -> str:
    """`value` with that many decimals, for columns that are compared: 0.952, −0.10."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    text = _grouped(value, decimals)
    return _minus(value, text) + text


def signed(value: float | None, decimals: int = 2) -> str:
    """`value` with its sign always shown, zero's as +: +0.23, −0.05, +0.00."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    text = _grouped(value, decimals)
    return (_minus(value, text) or "+") + text


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
    if _exponent(odds, 2) > 1:
        odds = _rounded(odds, 2)
    return f"1 in {_grouped(odds, 0)}"


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
    exponent = _exponent(value, 3)
    power, unit = next((each for each in units if exponent >= each[0]), units[-1])
    decimals = min(max(0, 2 - (exponent - power)), MOST_DECIMALS)
    text = _grouped(_rounded(value, 3) / 10**power, decimals)
    if decimals:
        text = text.rstrip("0").rstrip(".")
    return f"{_minus(value, text)}{text}{NO_BREAK}{unit}"


def _rounded(value: float, digits: int) -> float:
    """`value` rounded to `digits` significant digits."""
    return float(_significant(value, digits))


def _exponent(value: float, digits: int) -> int:
    """That of ten in `value` once it is rounded to `digits` significant digits; 0 has 0."""
    return _significant(value, digits).adjusted() if value else 0


def _significant(value: float, digits: int) -> Decimal:
    return Context(prec=digits, rounding=ROUND_HALF_UP).create_decimal(Decimal(float(value)))


def _grouped(value: float, decimals: int) -> str:
    """The size of `value`, without its sign, and commas between thousands: 1,234.50."""
    size = Decimal(abs(float(value))).quantize(Decimal(1).scaleb(-decimals), context=_EXACT)
    return f"{size:,f}"


def _minus(value: float, text: str) -> str:
    """The sign to write before `text`, which is the size of `value`."""
    return MINUS if value < 0 and _has_size(text) else ""


def _has_size(text: str) -> bool:
    """Whether there is a digit other than 0."""
    return any(digit in text for digit in "123456789")
