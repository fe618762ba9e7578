"""From values to places on an axis, and the round values that are written beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.web.numbers import fixed, number

LOG_SPAN: Final = 20
"""Largest value over smallest (both positive) from which on a scale is logarithmic."""
SMALL: Final = 1e-3
"""Largest size of a value below which an axis is written with powers of ten."""


@dataclass(frozen=True)
class Scale:
    """From values to 0..100, upwards."""

    low: float
    high: float
    logarithmic: bool

    @classmethod
    def of(cls, values: Sequence[float], from_zero: bool = False) -> "Scale":
        """One that holds all `values`."""
        positive = [value for value in values if value > 0]
        if positive and not from_zero and max(positive) > LOG_SPAN * min(positive):
            return cls(min(positive), max(positive), True)
        low, high = min(values, default=0.0), max(values, default=1.0)
        # From zero also where that wastes no more than a third of the height.
        if low > 0 and (from_zero or low < (high - low) / 2):
            low = 0.0
        return cls(low, high if high > low else low + (abs(low) or 1.0), False)

    @classmethod
    def padded(cls, values: Sequence[float], room: float) -> "Scale":
        """One with a little room beyond the values; logarithmic unless some are not positive."""
        low, high = min(values), max(values)
        if low > 0:
            return cls(low / room, high * room, True)
        beyond = (room - 1) * (high - low) or 1.0
        return cls(low - beyond, high + beyond, False)

    def at(self, value: float) -> float:
        """0 at `low`, 100 at `high`; what a logarithm has no place for is at the bottom."""
        if not self.logarithmic:
            return 100 * (value - self.low) / (self.high - self.low)
        if value <= self.low:
            return 0.0
        return 100 * math.log(value / self.low) / math.log(self.high / self.low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Round values and their text."""
        size = max(abs(self.low), abs(self.high))
        if not self.logarithmic and 0 < size < SMALL:
            power = math.floor(math.log10(size))
            unit = 10.0**power
            ticks = linear_ticks(self.low / unit, self.high / unit, 4)
            return [(at * unit, f"{text}e{power}" if at else "0") for at, text in ticks]
        if not self.logarithmic:
            return linear_ticks(self.low, self.high, 4)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = (1, 2, 5) if last - first <= 2 else (1,)
        every = max(1, (last - first) // 5)
        values = [f * 10.0**e for e in range(first, last + 1, every) for f in factors]
        return [(v, number(v, 1)) for v in values if self.low <= v <= self.high]

    @property
    def fine_ticks(self) -> list[tuple[float, str]]:
        """The same, about five; logarithmic ones are 1, 1.5, 2, 3, 5 and 7 times a power of ten."""
        if not self.logarithmic:
            return linear_ticks(self.low, self.high, 5)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
        factors = (1, 1.5, 2, 3, 5, 7) if len(powers) < 3 else (1,)
        values = [factor * 10.0**power for power in powers for factor in factors]
        return [(value, f"{value:g}") for value in values if self.low <= value <= self.high]


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
