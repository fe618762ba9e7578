"""Kappa and alpha, against examples that were worked out by hand or published."""

import math

import pytest

from sae_core.ratings import cohens_kappa, krippendorffs_alpha

ORDER = ("NO", "MAYBE", "YES")


def test_kappa_of_fifty_pairs_by_hand() -> None:
    # 35 of 50 alike; one says YES in 25 of 50, the other in 30: p_e = .5 .6 + .5 .4 = .5.
    pairs = [("YES", "YES")] * 20 + [("YES", "NO")] * 5 + [("NO", "YES")] * 10 + [("NO", "NO")] * 15
    assert cohens_kappa(pairs) == pytest.approx((0.7 - 0.5) / (1 - 0.5))


def test_kappa_at_its_ends() -> None:
    assert cohens_kappa([("NO", "NO"), ("YES", "YES")]) == 1
    assert cohens_kappa([("NO", "YES"), ("YES", "NO")]) == -1
    assert math.isnan(cohens_kappa([]))
    assert math.isnan(cohens_kappa([("NO", "NO")] * 3))


def test_alpha_of_three_features_by_hand() -> None:
    # Coincidences: NO NO 2, NO MAYBE 1 and 1, YES YES 2; sums 3, 1, 2. From middle to middle the
    # distances are 2 (NO, MAYBE), 3.5 (NO, YES) and 1.5, so that observed is 2 * 4 = 8, expected
    # 2 (3 * 4 + 6 * 12.25 + 2 * 2.25) = 180, and alpha 1 - 5 * 8 / 180.
    units = [["NO", "NO"], ["NO", "MAYBE"], ["YES", "YES"], ["YES"]]
    assert krippendorffs_alpha(units, ORDER) == pytest.approx(1 - 40 / 180)


def test_alpha_of_krippendorffs_own_example() -> None:
    # Four observers, twelve units, values missing: 0.815 with the ordinal metric (2011, section E).
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ]
    units = [[str(v) for v in unit if v] for unit in zip(*observers, strict=True)]
    assert krippendorffs_alpha(units, "12345") == pytest.approx(0.815, abs=5e-4)


def test_far_disagreement_counts_more_than_near() -> None:
    alike = [["NO", "NO"], ["YES", "YES"], ["MAYBE", "MAYBE"]] * 3
    near = krippendorffs_alpha([*alike, ["MAYBE", "YES"]], ORDER)
    far = krippendorffs_alpha([*alike, ["NO", "YES"]], ORDER)
    assert far < near < krippendorffs_alpha(alike, ORDER) == 1


def test_alpha_is_undefined_without_two_ratings_or_two_values() -> None:
    assert math.isnan(krippendorffs_alpha([], ORDER))
    assert math.isnan(krippendorffs_alpha([["NO"], ["YES"]], ORDER))
    assert math.isnan(krippendorffs_alpha([["NO", "NO"]] * 4, ORDER))
