"""The search's order against judged queries: tests/judged_queries.json says how they were made."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.commands.shared import DEMO
from sae_core.index import Index

JUDGED = json.loads((Path(__file__).parents[1] / "judged_queries.json").read_text())["queries"]
PLACES = 10
FLOOR = 0.92
"""A little below what the best match reaches; docs/search.md has the figure."""


def ndcg(ids: Sequence[int], grades: dict[int, int]) -> float:
    """Gain 2^grade - 1, discounted by log2 of the place, over that of the best order."""

    def gain(of: Sequence[int]) -> float:
        return sum((2**grade - 1) / math.log2(n + 2) for n, grade in enumerate(of[:PLACES]))

    return gain([grades.get(i, 0) for i in ids]) / gain(sorted(grades.values(), reverse=True))


def mean_ndcg(sort: str) -> dict[str, float]:
    indexes = {name: Index.open(DEMO / "saes" / name / "index.duckdb") for name in
               {each["sae"] for each in JUDGED}}  # fmt: skip
    values = {}
    for each in JUDGED:
        rows = indexes[each["sae"]].search(each["query"], sort=sort, limit=PLACES)["features"]
        grades = {int(i): grade for i, grade in each["grades"].items()}
        values[f"{each['sae']} {each['query']}"] = ndcg([row["feature"] for row in rows], grades)
    return values


def test_ndcg_of_a_few_places() -> None:
    assert ndcg([5, 6], {5: 2, 6: 1}) == 1.0
    assert ndcg([7, 8], {5: 2}) == 0.0
    assert ndcg([6, 5], {5: 2, 6: 1}) == pytest.approx(
        (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    )


def test_the_best_match_is_what_a_person_accepts_and_frequency_is_not() -> None:
    assert len(JUDGED) == 40
    best, frequent = mean_ndcg(""), mean_ndcg("frequency")
    mean, before = (sum(each.values()) / len(each) for each in (best, frequent))
    assert mean > FLOOR
    assert before < 0.4
