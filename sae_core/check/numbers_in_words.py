"""Numbers as the check's sentences have them."""

import math

from sae_core.number_text import fvu_text, number


def in_digits(value: int | float) -> str:
    """A count or a factor, in two or three digits, as one says them."""
    if not math.isfinite(value):
        return "not defined"
    if abs(value) < 10:
        return f"{value:.2g}"
    return f"{value:.1f}" if abs(value) < 100 and value % 1 else f"{value:,.0f}"


def l0_in_digits(value: float) -> str:
    """An L0, in the digits that tables have it in."""
    return number(value) if math.isfinite(value) else "not defined"


def fvu_in_digits(value: float) -> str:
    """An FVU, in the digits that tables have it in."""
    return fvu_text(value) if math.isfinite(value) else "not defined"
