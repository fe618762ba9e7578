"""Wilson's score interval of a rate (E. B. Wilson, JASA 22, 1927).

    centre = (p + z²/2n) / (1 + z²/n)
    half   = z / (1 + z²/n) * sqrt(p (1 - p) / n + z²/4n²)        p = passed / n

It is what makes sense of a handful of runs: unlike p ± z sqrt(p (1 - p) / n) it stays within 0 and
1, and of 3 passes in 3 runs it says 44 to 100 %, not 100 to 100 %.
"""

import math

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: an interval of 95 %."""


def wilson(passed: int, runs: int, z: float = Z95) -> tuple[float, float]:
    """Lower and upper end of the interval for the rate of which `passed` of `runs` is a sample; 0
    and 1 without runs. ValueError where `passed` is not between 0 and `runs`.
    """
    if not 0 <= passed <= runs:
        raise ValueError(f"{passed} of {runs} runs is no rate.")
    if not runs:
        return 0.0, 1.0
    p, spread = passed / runs, z * z / runs
    centre = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / runs + spread / (4 * runs))
    # At the ends the exact value is 0 or 1, which rounding would miss.
    low = 0.0 if passed == 0 else centre - half
    high = 1.0 if passed == runs else centre + half
    return low, high
