"""Reading an address's query: whatever a link says becomes a value or one clear sentence."""

import math


def whole(query: dict[str, str], name: str, default: int) -> int:
    """A whole number of the query; ValueError naming it if it is something else."""
    text = query.get(name, "")
    if not text:
        return default
    try:
        return int(text.removeprefix("#"))
    except ValueError:
        raise ValueError(f"{name} in this link is {text[:40]!r}, not a whole number.") from None


def positive(query: dict[str, str], name: str) -> float | None:
    """A number of 0 or more of the query, None if it is left out; ValueError naming it if it is
    something else.
    """
    text = query.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} in this link is {text[:40]!r}, not a number of 0 or more.")
    return value


def share(query: dict[str, str], name: str, default: float) -> float:
    """A share from 0 to 1 of the query; ValueError naming it if it is something else."""
    text = query.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"{name} in this link is {text[:40]!r}, not a share from 0 to 1.")
    return value
