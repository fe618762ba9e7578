"""Results written small are the same to who reads them."""

import json
from typing import Any

import pytest

from benchmarks.compact_json import compact_json, tabled, untabled
from benchmarks.measuring import rounded

ROW = {"site": "resid_post/4", "l0": 32.0, "errors": [0.5, 5.332e-06, -0.000113, 10.001]}
RESULTS: list[Any] = [
    {"rows": [ROW, ROW | {"l0": None}]},
    {"rows": [ROW, ROW | {"cure": "none"}, ROW], "groups": {"topk": {"rows": [ROW]}}},
    {"rows": [], "features": [[1, "a"], [2, "b"]], "machine": {}},
    {"settings": {"rows": [128, 240]}, "rows": {"of": 2}},
]


@pytest.mark.parametrize("result", RESULTS)
def test_rows_come_back_as_they_were(result: Any) -> None:
    """With their keys, in their order, at any depth; and what is no rows is left alone."""
    again = untabled(json.loads(compact_json(tabled(result))))
    assert json.dumps(again) == json.dumps(result)
    assert json.loads(compact_json(result)) == result


def test_a_table_names_each_key_once_and_has_a_line_for_each_row() -> None:
    written = compact_json(tabled({"rows": [ROW] * 50}))
    assert written.count("errors") == 1
    assert len(written.splitlines()) == 50 + 9


def test_results_keep_six_digits_at_any_depth() -> None:
    exact = {"rows": [{"l0": 31.61642, "errors": (1 / 3, [2e5 / 3])}], "tokens": 300_027}
    kept = {"rows": [{"l0": 31.6164, "errors": [0.333333, [66666.7]]}], "tokens": 300_027}
    assert rounded(exact) == kept
