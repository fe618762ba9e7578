"""Orders, bounds and ranks of features' numbers, against plain Python."""

import math

import numpy as np
import pytest

from sae_core.index.feature_columns import SORTS, FeatureColumns

TOKENS = 1_000
NAN = float("nan")
COLUMNS = {
    "active_tokens": np.array([5, 0, 5, 900, 1]),
    "max_act": np.array([1.0, 0.0, 3.0, 2.0, 3.0]),
    "mean_act": np.array([0.5, 0.0, 1.0, 1.0, 3.0]),
    "threshold": np.array([0.1, 0.1, 0.1, 0.1, 0.2]),
    "concentration": np.array([0.0, 0.5, 1.0, 0.5, 0.2]),
    "output_score": np.array([0.2, NAN, 0.9, 0.2, NAN]),
    "side_effect": np.array([0.0, NAN, 2.0, 0.5, NAN]),
}


@pytest.fixture
def columns() -> FeatureColumns:
    return FeatureColumns(COLUMNS, TOKENS)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("descending", [True, False])
def test_ties_keep_the_order_of_ids_and_what_is_missing_comes_last(
    columns: FeatureColumns, sort: str, descending: bool
) -> None:
    column = {"frequency": "active_tokens"}.get(sort, sort)
    values = list(range(5)) if sort == "id" else COLUMNS[column].tolist()
    keys = [(math.isnan(v), -v if descending else v, i) for i, v in enumerate(values)]
    expected = [i for *_, i in sorted(keys, key=lambda k: (k[0], 0 if k[0] else k[1], k[2]))]
    assert columns.order(sort, descending).tolist() == expected
    assert columns.order(sort, descending).tolist() == expected  # remembered


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((0.0, 1.0, 0.0, math.inf), [0, 1, 2, 3, 4]),
        ((0.005, 0.005, 0.0, math.inf), [0, 2]),
        ((0.0, 0.0, 0.0, math.inf), [1]),
        ((0.0, 1.0, 0.2, math.inf), [0, 2, 3]),
        ((0.0, 1.0, 0.0, 0.5), [0, 3]),
        ((0.9, 1.0, 0.5, 9.0), []),
    ],
)
def test_bounds_include_what_lies_on_them(
    columns: FeatureColumns, bounds: tuple[float, float, float, float], expected: list[int]
) -> None:
    assert np.flatnonzero(columns.between(*bounds)).tolist() == expected


def test_ranks_are_of_those_that_have_the_number(columns: FeatureColumns) -> None:
    assert columns.rank("output_score", 2) == {"rank": 1, "of": 3}
    assert columns.rank("output_score", 0) == columns.rank("output_score", 3)
    assert columns.rank("output_score", 3) == {"rank": 2, "of": 3}
    assert columns.rank("output_score", 1) is None


def test_frequencies(columns: FeatureColumns) -> None:
    assert columns.frequencies().tolist() == [0.005, 0.0, 0.005, 0.9, 0.001]
    assert columns.frequency(3) == 0.9
    assert len(columns) == 5
