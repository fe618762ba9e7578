"""Correlation and balanced accuracy, by hand."""

import math

import pytest

from sae_core.explain.explanation_scores import balanced_accuracy, correlation


def test_correlation_by_hand() -> None:
    # Deviations (-2, 0, 2) and (-1, -1, 2): 6 over sqrt(8) sqrt(6).
    assert correlation([0.0, 2.0, 4.0], [1.0, 1.0, 4.0]) == pytest.approx(6 / math.sqrt(48))
    assert correlation([0.0, 1.0, 0.0, 1.0], [5.0, 3.0, 5.0, 3.0]) == pytest.approx(-1)
    assert correlation([1.0, 2.0, 3.0], [10.0, 20.0, 30.0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("simulated", "true"), [([], []), ([1.0], [1.0]), ([0.0, 0.0], [1.0, 2.0])]
)
def test_correlation_is_undefined_where_nothing_varies(
    simulated: list[float], true: list[float]
) -> None:
    assert math.isnan(correlation(simulated, true))
    assert math.isnan(correlation(true, simulated))


def test_balanced_accuracy_is_the_mean_of_both_shares_whatever_their_numbers() -> None:
    accuracy, low, high = balanced_accuracy(9, 10, 1, 2)
    assert accuracy == pytest.approx((0.9 + 0.5) / 2)
    # Wilson's intervals are 0.5958 to 0.9821 of 9 in 10, and 0.0945 to 0.9055 of 1 in 2.
    assert low == pytest.approx(0.7 - math.hypot(0.9 - 0.5958, 0.5 - 0.0945) / 2, abs=1e-4)
    assert high == pytest.approx(0.7 + math.hypot(0.9821 - 0.9, 0.9055 - 0.5) / 2, abs=1e-4)


def test_who_always_says_yes_is_at_chance() -> None:
    accuracy, low, high = balanced_accuracy(10, 10, 0, 10)
    assert accuracy == 0.5
    assert low < 0.5 < high


def test_without_one_kind_there_is_none() -> None:
    assert all(map(math.isnan, balanced_accuracy(0, 0, 3, 4)))
    assert all(map(math.isnan, balanced_accuracy(3, 4, 0, 0)))
