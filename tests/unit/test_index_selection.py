"""Choosing contexts from a stream, and histograms that settle their bins while it flows."""

from collections import Counter

import numpy as np
import pytest
import torch

from sae_core.index.feature_histograms import DoublingHistogram, WindowHistogram, bin_exponent
from sae_core.index.pairs import PairCounts, top_pairs
from sae_core.index.selection import (
    SLOTS,
    Best,
    Candidates,
    IntervalSample,
    priorities,
    rank_in_group,
    sample_exponent,
)
from sae_core.index.statistics import HISTOGRAM_TOKENS, histogram_stride
from sae_core.index.windows import Windows


def candidates(
    feature: torch.Tensor, value: torch.Tensor, place: torch.Tensor, seed: int = 0
) -> Candidates:
    """One candidate a row; ten rows a document."""
    one = torch.ones_like(place, dtype=torch.uint8)
    return Candidates(
        feature.int(),
        (place // 10).int(),
        place.int(),
        torch.zeros_like(place, dtype=torch.int16),
        priorities(place, seed),
        value.float(),
        Windows(one, one, value.half()),
    )


def test_priorities_look_random_and_depend_on_place_and_seed_alone() -> None:
    place = torch.arange(100_000)
    one = priorities(place, 0)
    assert torch.equal(one[500:600], priorities(place[500:600], 0))
    assert len(one.unique()) == len(one)
    assert int(one.min()) >= 0
    assert int(one.max()) < 2**62
    # Mean and serial correlation of uniform numbers, within 5 standard errors.
    uniform = one.double() / 2**62
    assert float(uniform.mean()) == pytest.approx(0.5, abs=5 * 0.289 / 100_000**0.5)
    pairs = torch.stack([uniform[:-1], uniform[1:]])
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 5 / 100_000**0.5
    other = priorities(place, 1).double() / 2**62
    assert abs(float(torch.corrcoef(torch.stack([uniform, other]))[0, 1])) < 5 / 100_000**0.5


def test_priorities_match_splitmix64() -> None:
    def splitmix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    places = [0, 1, 12345, 2**40]
    expected = [splitmix((p + 8 * 0x9E3779B97F4A7C15) % 2**64) % 2**62 for p in places]
    assert priorities(torch.tensor(places), 7).tolist() == expected


def sampled(values: np.ndarray, seed: int, pieces: int, shuffle: bool) -> list[int]:
    """Places of the five tokens chosen from the interval [40, 60) of one feature's values."""
    sample = IntervalSample(torch.zeros(1))
    order = np.random.default_rng(seed).permutation(len(values)) if shuffle else range(len(values))
    largest = torch.zeros(1)
    for part in np.array_split(np.array(order), pieces):
        place = torch.from_numpy(part)
        value = torch.from_numpy(values[part]).float()
        largest = torch.maximum(largest, value.max()[None])
        exponent = sample_exponent(largest)
        new = candidates(torch.zeros_like(place), value, place, seed)
        keep = sample.matters(new.feature, new.value, new.priority, exponent)
        sample.merge(new[keep], exponent)
    kept = sample.kept
    inside = (kept.value >= 40) & (kept.value < 60)
    order_ = kept.priority[inside].argsort()
    return kept.row[inside][order_][:5].tolist()


def test_interval_sample_is_uniform_and_independent_of_order() -> None:
    """Every token of an interval is equally likely, whatever its value or place."""
    rng = np.random.default_rng(0)
    # Most values low, as activations are; the largest comes early, in the middle, or late.
    values = np.minimum(rng.exponential(25, 400), 100.0)
    values[[3, 200, 399]] = [70.0, 85.0, 101.0]
    inside = np.flatnonzero((values >= 40) & (values < 60))
    assert len(inside) > 30
    counts: Counter[int] = Counter()
    runs = 1500
    for seed in range(runs):
        chosen = sampled(values, seed, pieces=1, shuffle=False)
        counts.update(chosen)
        if seed < 20:
            assert sampled(values, seed, pieces=7, shuffle=False) == chosen
            assert sampled(values, seed, pieces=4, shuffle=True) == chosen
    assert set(counts) <= set(inside.tolist())
    expected = runs * 5 / len(inside)
    deviation = np.array([counts[int(i)] for i in inside]) - expected
    assert np.abs(deviation).max() < 5 * expected**0.5
    # Chi-squared of a uniform choice: its mean is the degrees of freedom, its variance twice that.
    chi = (deviation**2 / expected).sum()
    assert chi < len(inside) + 5 * (2 * len(inside)) ** 0.5
    low = values[inside] < 45
    assert deviation[low].sum() == pytest.approx(0, abs=5 * (expected * low.sum()) ** 0.5)


def test_interval_sample_keeps_few() -> None:
    generator = torch.Generator().manual_seed(0)
    sample = IntervalSample(torch.zeros(3))
    feature = torch.randint(3, (5000,), generator=generator)
    value = torch.rand(5000, generator=generator) * 10
    exponent = sample_exponent(torch.full((3,), 10.0))
    sample.merge(candidates(feature, value, torch.arange(5000)), exponent)
    assert len(sample.kept) <= 3 * 32 * SLOTS


@pytest.mark.parametrize("unit", ["document", "row"])
def test_best_is_exact_however_it_is_fed(unit: str) -> None:
    generator = torch.Generator().manual_seed(1)
    n = 3000
    feature = torch.randint(5, (n,), generator=generator)
    # Few different values, so that there are ties.
    value = torch.randint(1, 40, (n,), generator=generator).float()
    place = torch.arange(n)
    everything = candidates(feature, value, place)
    expected = []
    for f in range(5):
        best: dict[int, tuple[float, int]] = {}
        for v, p in zip(value[feature == f].tolist(), place[feature == f].tolist(), strict=True):
            key = p // 10 if unit == "document" else p
            if key not in best or v > best[key][0]:
                best[key] = (v, p)
        ranked = sorted(best.values(), key=lambda item: (-item[0], item[1]))[:8]
        expected += [(f, v, p) for v, p in ranked]
    for size in (1, 17, 3000):
        best_ = Best(5, 8, unit, torch.device("cpu"))
        for first in range(0, n, size):
            best_.merge(everything[place[first : first + size]])
        kept = best_.kept
        actual = list(
            zip(kept.feature.tolist(), kept.value.tolist(), kept.row.tolist(), strict=True)
        )
        assert actual == expected
        assert best_.bar.tolist() == [expected[8 * f + 7][1] for f in range(5)]


def test_rank_in_group() -> None:
    assert rank_in_group(torch.tensor([3, 3, 5, 9, 9, 9])).tolist() == [0, 1, 0, 0, 1, 2]
    assert rank_in_group(torch.empty(0, dtype=torch.int64)).tolist() == []


@pytest.mark.parametrize("largest", [1e-30, 0.3, 63.999, 64.0, 64.00001, 1e20])
def test_bin_exponent_is_the_smallest_that_fits(largest: float) -> None:
    value = torch.tensor([largest])
    exponent = int(bin_exponent(value, 64))
    assert float(value) < 64 * 2.0**exponent
    assert float(value) >= 64 * 2.0 ** (exponent - 1) or exponent == -126


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_doubling_histogram_counts_exactly_in_any_order(size: int) -> None:
    generator = torch.Generator().manual_seed(2)
    floor = torch.tensor([0.5, 0.0, 3.0])
    value = torch.rand(2000, generator=generator) ** 8 * 100
    feature = torch.randint(3, (2000,), generator=generator)
    value = value + floor[feature]
    histogram = DoublingHistogram(floor)
    for first in range(0, 2000, size):
        part = slice(first, first + size)
        largest = torch.zeros(3).scatter_reduce(0, feature[part], value[part], "amax")
        histogram.widen(largest)
        histogram.add(feature[part], value[part])
    for f in range(3):
        width = 2.0 ** int(histogram.exponent[f])
        heights = (value - floor[feature])[feature == f].double().numpy()
        expected, _ = np.histogram(heights, np.arange(65) * width)
        assert histogram.counts[f].tolist() == expected.tolist()
        assert 32 <= np.flatnonzero(expected)[-1] + 1 <= 64


def test_window_histogram() -> None:
    generator = torch.Generator().manual_seed(3)
    pre = torch.randn(5000, 2, generator=generator) * torch.tensor([1.0, 10.0])
    centre, width = torch.tensor([1.0, -3.0]), torch.tensor([0.1, 0.5])
    histogram = WindowHistogram(centre, width)
    for part in pre.split(700):
        histogram.add(part.T)
    for f in range(2):
        place = np.floor((pre[:, f] - centre[f]).numpy() / width[f].numpy()) + 28
        expected = np.bincount(np.clip(place, -1, 56).astype(int) + 1, minlength=58)
        assert histogram.counts[f].tolist() == expected.tolist()


def test_the_middle_edge_of_a_window_is_the_comparison_with_the_threshold() -> None:
    centre = torch.tensor([1.0, 0.0, 3e-5, 700.0, -3.0, 0.37])
    width = torch.tensor([0.1, 0.5, 1.0, 1e-3, 1e3, 0.1])
    # Values as near to the centre as float32 has them, those a bin away, and the centre itself.
    close = [centre]
    for target in (torch.inf, -torch.inf):
        value = centre
        for _ in range(3):
            value = torch.nextafter(value, torch.full_like(centre, target))
            close.append(value)
    pre = torch.stack([*close, centre + width, centre - width, centre + 40 * width])
    histogram = WindowHistogram(centre, width)
    histogram.add(pre.T)
    assert histogram.counts[:, 29:].sum(1).tolist() == (pre > centre).sum(0).tolist() == [5] * 6
    assert histogram.counts.sum(1).tolist() == [len(pre)] * 6
    assert (
        histogram.counts[:, 28].tolist()
        == ((pre <= centre) & ((pre - centre) / width >= -1)).sum(0).tolist()
    )


def test_histograms_of_a_sample_stand_for_all_tokens() -> None:
    """Every share of the histogram within five standard errors; what is active to the token."""
    generator = torch.Generator().manual_seed(6)
    n = 200_000
    centre, width = torch.tensor([1.0, 9.0, -9.0]), torch.tensor([0.2, 0.3, 0.4])
    pre = torch.randn(3, n, generator=generator)
    place = torch.arange(n)
    stride = histogram_stride(place)
    chosen = priorities(place, 0) % stride == 0
    assert bool(chosen[: 2 * HISTOGRAM_TOKENS].all())
    assert stride[[0, 2**14 - 1, 2**14, 2**15, n - 1]].tolist() == [1, 1, 2, 4, 16]
    assert HISTOGRAM_TOKENS < int(chosen.sum()) < 7 * HISTOGRAM_TOKENS
    whole, sample = WindowHistogram(centre, width), WindowHistogram(centre, width)
    whole.add(pre)
    for weight in stride.unique().tolist():
        sample.add(pre[:, chosen & (stride == weight)], weight=weight)
    feature, token = (pre > centre[:, None]).nonzero(as_tuple=True)
    sample.add_active(feature, pre[feature, token])
    assert whole.counts.sum(1).tolist() == [n] * 3
    for exact in (True, False):
        counts = sample.scaled(n, exact)
        assert counts.sum(1).tolist() == [n] * 3
        assert int(counts.min()) >= 0
        share = whole.counts.double() / n
        error = 5 * (1.4 * share / HISTOGRAM_TOKENS).sqrt() + 1e-3
        assert bool(((counts / n - share).abs() < error).all())
        right = counts[:, 29:] == whole.counts[:, 29:]
        assert bool(right.all()) == exact
    # Of all tokens nothing is rounded.
    whole.add_active(feature, pre[feature, token])
    assert torch.equal(whole.scaled(n, True), whole.counts)
    assert torch.equal(whole.scaled(n, False), whole.counts)


def test_what_no_sampled_token_shows_is_put_next_to_the_threshold() -> None:
    histogram = WindowHistogram(torch.zeros(1), torch.ones(1))
    histogram.add(torch.tensor([[2.5]]))
    histogram.add_active(torch.tensor([0]), torch.tensor([2.5]))
    counts = histogram.scaled(3, True)[0]
    assert (int(counts[28]), int(counts[31]), int(counts.sum())) == (2, 1, 3)


def test_pair_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_core.index.pairs.BUFFER", 100)
    generator = torch.Generator().manual_seed(4)
    keys = torch.randint(0, 60, (3000,), generator=generator) ** 2
    counts = PairCounts(torch.device("cpu"))
    for part in keys.split(37):
        counts.add(part)
    actual = dict(zip(*(column.tolist() for column in counts.result()), strict=True))
    assert actual == dict(Counter(keys.tolist()))
    again = PairCounts(torch.device("cpu"))
    again.load(counts.state())
    again.add(keys[:10])
    assert int(again.result()[1].sum()) == 3010


def test_top_pairs() -> None:
    keys = torch.tensor([1, 2, 3, 10, 11, 29])
    counts = torch.tensor([5, 9, 5, 1, 2, 7])
    actual = top_pairs(keys, counts, 10, k=2, at_least=2)
    rows = list(zip(*(column.tolist() for column in actual), strict=True))
    assert rows == [(0, 2, 9), (0, 1, 5), (1, 1, 2), (2, 9, 7)]
