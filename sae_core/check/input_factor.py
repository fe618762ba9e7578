"""The factor that activations were multiplied by before an SAE was trained, if by one that no
convention explains.
"""

from collections.abc import Callable, Sequence

_OCTAVES = 10.0
"""Factors from 2**-10 to 2**10 are looked at."""
_ROUNDS = (20, 8, 8)
"""Steps of each round, over the range that the one before left: to 1/16 octave, 4 %."""


def best_factor(distances: Callable[[Sequence[float]], Sequence[float]]) -> float:
    """The factor of the smallest distance; `distances` has those of some factors, in order."""
    centre, reach = 0.0, _OCTAVES
    for steps in _ROUNDS:
        exponents = [centre + reach * (2 * step / steps - 1) for step in range(steps + 1)]
        measured = distances([2.0**exponent for exponent in exponents])
        centre = exponents[min(range(len(measured)), key=measured.__getitem__)]
        reach *= 2 / steps
    return 2.0**centre
