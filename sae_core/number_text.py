"""A number as text: few digits, grouped, the same in sentences, on pages and in tables.

The exact value of the float is rounded, and a tie away from zero: 0.125 has two decimals as 0.13.
(Python's own formatting rounds it to 0.12.) What rounds to zero has no minus sign, and what is
undefined, infinite or missing is a dash.
"""

import math
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

MINUS: Final = "\N{MINUS SIGN}"
UNDEFINED: Final = "\N{EN DASH}"

# No number is written with more decimals, however few of its digits that leaves.
MOST_DECIMALS: Final = 8

# A float's whole part has up to 309 digits; JavaScript writes at most 100 decimals.
_EXACT: Final = Context(prec=500, rounding=ROUND_HALF_UP)


def number(value: int | float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits and no exponent: 14.2, 0.831, 1,240, −0.7.

    The whole part is never shortened, and what rounds to zero at eight decimals is 0.
    """
    if value is None or not math.isfinite(value):
        return UNDEFINED
    decimals = max(0, digits - 1 - power_of_ten(value, digits))
    text = grouped(value, min(decimals, MOST_DECIMALS))
    return minus(value, text) + text if _has_size(text) else "0"


def fixed(value: int | float | None, decimals: int) -> str:
    """`value` with that many decimals, for columns that are compared: 0.952, −0.10."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    text = grouped(value, decimals)
    return minus(value, text) + text


def fvu_text(value: int | float | None) -> str:
    """An FVU, as sentences and tables have it: three decimals, or three digits from 10 on (that of
    weights that are read wrongly may be in the thousands).
    """
    large = value is not None and abs(value) >= 10
    return number(value) if large else fixed(value, 3)


def power_of_ten(value: int | float, digits: int) -> int:
    """The exponent of ten in `value` once it is rounded to `digits` significant digits; 0 has 0."""
    return significant(value, digits).adjusted() if value else 0


def significant(value: int | float, digits: int) -> Decimal:
    """`value` rounded to `digits` significant digits, exactly."""
    return Context(prec=digits, rounding=ROUND_HALF_UP).create_decimal(Decimal(float(value)))


def grouped(value: int | float, decimals: int) -> str:
    """The size of `value`, without its sign, and commas between thousands: 1,234.50."""
    size = Decimal(abs(float(value))).quantize(Decimal(1).scaleb(-decimals), context=_EXACT)
    return f"{size:,f}"


def minus(value: int | float, text: str) -> str:
    """The sign to write before `text`, which is the size of `value`."""
    return MINUS if value < 0 and _has_size(text) else ""


def _has_size(text: str) -> bool:
    """Whether there is a digit other than 0."""
    return any(digit in text for digit in "123456789")
