"""Numbers as the check's sentences have them."""

import math


def in_digits(value: int | float) -> str:
    """Two or three digits, as one says them."""
    if not math.isfinite(value):
        return "not defined"
    if abs(value) < 10:
        return f"{value:.2g}"
    return f"{value:.1f}" if abs(value) < 100 and value % 1 else f"{value:,.0f}"
