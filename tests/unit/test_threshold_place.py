"""Valley, slope or bulk: histograms made of each kind, and those that are too thin to tell."""

import numpy as np
import pytest

from sae_core.index.token_sample import stride
from sae_core.threshold_place import place_of, places_of, tokens_per_count

BINS = 56


def drawn(tokens: int, *parts: tuple[float, float, float], seed: int = 0) -> list[int]:
    """Counts of that many tokens from normal distributions: share, centre and spread in bins."""
    random = np.random.default_rng(seed)
    values = [random.normal(centre, spread, int(share * tokens)) for share, centre, spread in parts]
    counts, _ = np.histogram(np.concatenate(values), bins=BINS, range=(0, BINS))
    return counts.tolist()


TWO = ((0.9, 12.0, 4.0), (0.1, 42.0, 4.0))


@pytest.mark.parametrize("seed", range(5))
def test_between_two_heaps_lies_a_valley(seed: int) -> None:
    assert place_of(drawn(20_000, *TWO, seed=seed), 28) == "valley"


@pytest.mark.parametrize("seed", range(5))
def test_below_one_heap_lies_a_slope(seed: int) -> None:
    one = drawn(20_000, (1.0, 14.0, 6.0), seed=seed)
    assert place_of(one, 28) == "slope"
    # No bump in the heap's far flank is taken for a second one.
    assert place_of(one, 24) == "slope"


@pytest.mark.parametrize("seed", range(5))
def test_within_a_heap_lies_the_bulk(seed: int) -> None:
    one = drawn(20_000, (1.0, 28.0, 9.0), seed=seed)
    assert place_of(one, 28) == "bulk"
    assert place_of(one, 31) == "bulk"
    assert place_of(one, 10) == "slope"


@pytest.mark.parametrize("seed", range(5))
def test_too_few_tokens_are_no_evidence(seed: int) -> None:
    few = drawn(60, (1.0, 12.0, 4.0), seed=seed)
    assert place_of(few, 28) == "unclear"
    assert place_of([0] * BINS, 28) == "unclear"


def test_an_empty_gap_between_two_heaps_is_a_valley_however_few_lie_in_it() -> None:
    apart = drawn(20_000, (0.95, 8.0, 2.0), (0.05, 46.0, 3.0))
    assert sum(apart[24:32]) == 0
    assert place_of(apart, 28) == "valley"


def test_one_stray_token_makes_no_valley() -> None:
    counts = drawn(20_000, (1.0, 14.0, 4.0))
    counts[28:] = [0] * 28
    counts[40] = 1
    assert place_of(counts, 28) != "valley"


def test_counts_scaled_from_a_sample_are_less_certain_than_counted_ones() -> None:
    """A few tokens of a sample, scaled by a thousand, look like many and are none."""
    scaled = [1000 * each for each in drawn(60, (1.0, 12.0, 4.0))]
    scaled[28:] = [30] * 28
    assert place_of(scaled, 20) == "slope"
    assert place_of(scaled, 20, per_count=1000.0, exact_from=28) == "unclear"


def test_counting_noise_alone_is_hardly_ever_a_valley() -> None:
    """As docs/metrics.md says: heights are compared as independent ones, and with all others."""
    random = np.random.default_rng(0)
    places = [each for _ in range(60) for each in places_of(random.poisson(100, BINS).tolist())]
    assert 0 < places.count("valley") < len(places) / 150
    assert set(places) == {"valley", "bulk"}


def test_thresholds_at_the_ends_have_one_side_alone() -> None:
    counts = drawn(20_000, (1.0, 28.0, 9.0))
    assert place_of(counts, 0) == "slope"
    assert place_of(counts, BINS) == "slope"


def test_a_count_stands_for_as_many_tokens_as_the_index_has_it() -> None:
    for tokens in (1, 16_384, 16_385, 32_768, 32_769, 3_000_000):
        assert tokens_per_count(tokens) == stride(tokens)
