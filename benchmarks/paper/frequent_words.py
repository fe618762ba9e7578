"""How the page of very frequent features names kinds and writes numbers and tables."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.paper.frequent_saes import KINDS, TARGETS
from benchmarks.paper.shown_text import digits, share
from benchmarks.paper.shown_text import table as full_table

NAMES = {
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "topk": "TopK",
    "standard": "ReLU",
    "frequency_0.1": "penalty 0.1",
    "frequency_0.01": "penalty 0.01",
}
"""The last two are JumpReLU with a penalty on frequent features."""
ARCHITECTURES = tuple(kind for kind, (_, scale) in KINDS.items() if not scale)
PENALISED = ("jumprelu", *(kind for kind, (_, scale) in KINDS.items() if scale))
POINT = 64
LEVELS = tuple(int(target) for target in TARGETS)
MEASURES = ("activity", "mass")
"""By what draws are of like size."""
FEWEST = 5
"""Very frequent features from which on means over them are shown."""
Format = Callable[[float], str]


def percent(value: float) -> str:
    return share(value)


def points(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def nats(value: float) -> str:
    return digits(value, 2) if abs(value) >= 1e-4 else "0"


def whole(value: float) -> str:
    return f"{value:.0f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """A table without the rows and columns in which nothing was measured; `names`: columns that
    say what a row is.
    """
    rows = [row for row in rows if any(row[names:])]
    kept = [k for k in range(len(header)) if k < names or any(row[k] for row in rows)]
    return full_table([header[k] for k in kept], [[row[k] for k in kept] for row in rows])


def spread(values: Sequence[float] | None, form: Format) -> str:
    """A value with its interval, or nothing."""
    if values is None:
        return ""
    value, low, high = (form(v) for v in values[:3])
    return f"{value} ({low.removesuffix(' %')} to {high.removesuffix(' %')})"


def value_alone(values: Sequence[float], form: Format) -> str:
    return form(values[0])


def one(form: Format, value: Any) -> str:
    if value is None:
        return ""
    return form(value[0] if isinstance(value, list) else value)


def with_ends(value: Any, form: Format) -> str:
    """A value, with its interval where it has one that says more."""
    if not isinstance(value, list) or len({form(v) for v in value[:3]}) == 1:
        return one(form, value)
    return spread(value, form)
