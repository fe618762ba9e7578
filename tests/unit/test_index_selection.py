"""Choosing contexts from a stream, and histograms that settle their bins while it flows."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from sae_core.index.feature_histograms import (
    DoublingHistogram,
    bin_exponent,
    of_all_tokens,
    window_counts,
)
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


def test_priorities_look_random_and_depend_on_key_and_seed_alone() -> None:
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
        histogram.widen(largest - floor)
        histogram.add(feature[part], value[part])
    for f in range(3):
        width = 2.0 ** int(histogram.exponent[f])
        heights = (value - floor[feature])[feature == f].double().numpy()
        expected, _ = np.histogram(heights, np.arange(65) * width)
        assert histogram.counts[f].tolist() == expected.tolist()
        assert 32 <= np.flatnonzero(expected)[-1] + 1 <= 64


def test_doubling_histograms_of_parts_add_up() -> None:
    """Whatever the parts' largest values are; and bins that are wider than its own."""
    generator = torch.Generator().manual_seed(2)
    floor = torch.tensor([0.5, 0.0, 3.0, 1.0])
    parts = []
    for scale in (100.0, 0.01, 3.0):
        # Feature 3 fires in the last part alone.
        feature = torch.randint(3 if len(parts) < 2 else 4, (500,), generator=generator)
        parts.append((feature, torch.rand(500, generator=generator) * scale + floor[feature]))

    def counted(*parts: tuple[torch.Tensor, torch.Tensor]) -> DoublingHistogram:
        histogram = DoublingHistogram(floor)
        for feature, value in parts:
            largest = torch.zeros(4).scatter_reduce(0, feature, value, "amax")
            histogram.widen(largest - floor)
            histogram.add(feature, value)
        return histogram

    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        joined, whole = counted(), counted(*parts)
        for i in order:
            state = counted(parts[i]).state()
            joined.absorb(state)
        assert torch.equal(joined.exponent, whole.exponent)
        assert torch.equal(joined.counts, whole.counts)
    exponent = whole.finest + torch.tensor([0, 1, 2, 3])
    wider = whole.wider(exponent, 20)
    for f in range(4):
        heights = torch.cat([value[feature == f] - floor[f] for feature, value in parts]).numpy()
        width = 2.0 ** float(exponent[f])
        place = np.minimum(np.floor(heights / width), 20).astype(int)
        assert wider[f].tolist() == np.bincount(place, minlength=21).tolist()


def test_window_counts() -> None:
    generator = torch.Generator().manual_seed(3)
    pre = torch.randn(5000, 2, generator=generator) * torch.tensor([1.0, 10.0])
    centre, width = torch.tensor([1.0, -3.0]), torch.tensor([0.1, 0.5])
    counts = window_counts(pre.T, centre, width)
    for f in range(2):
        place = np.floor((pre[:, f] - centre[f]).numpy() / width[f].numpy()) + 28
        expected = np.bincount(np.clip(place, -1, 56).astype(int) + 1, minlength=58)
        assert counts[f].tolist() == expected.tolist()


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
    counts = window_counts(pre.T, centre, width)
    assert counts[:, 29:].sum(1).tolist() == (pre > centre).sum(0).tolist() == [5] * 6
    assert counts.sum(1).tolist() == [len(pre)] * 6
    left = (pre <= centre) & ((pre - centre) / width >= -1)
    assert counts[:, 28].tolist() == left.sum(0).tolist()


def test_histograms_of_a_sample_stand_for_all_tokens() -> None:
    """Every share of the histogram within five standard errors; what is active to the token."""
    generator = torch.Generator().manual_seed(6)
    n, sampled = 100_000, 8192
    centre, width = torch.tensor([1.0, 9.0, -9.0]), torch.tensor([0.2, 0.3, 0.4])
    pre = torch.randn(3, n, generator=generator)
    whole = window_counts(pre, centre, width)
    sample = window_counts(pre[:, torch.randperm(n, generator=generator)[:sampled]], centre, width)
    assert whole.sum(1).tolist() == [n] * 3
    for right in (whole[:, 29:], None):
        counts = of_all_tokens(sample, n, right)
        assert counts.sum(1).tolist() == [n] * 3
        assert int(counts.min()) >= 0
        share = whole.double() / n
        error = 5 * (share / sampled).sqrt() + 1e-3
        assert bool(((counts / n - share).abs() < error).all())
        assert torch.equal(counts[:, 29:], whole[:, 29:]) == (right is not None)
        # Of all tokens nothing is rounded.
        assert torch.equal(of_all_tokens(whole, n, right), whole)


def test_what_no_sampled_token_shows_is_put_next_to_the_threshold() -> None:
    sample = window_counts(torch.tensor([[2.5]]), torch.zeros(1), torch.ones(1))
    counts = of_all_tokens(sample, 3, sample[:, 29:])[0]
    assert (int(counts[28]), int(counts[31]), int(counts.sum())) == (2, 1, 3)


def test_candidates_of_parts_are_those_of_the_whole() -> None:
    """Rows dealt out as to several processes, or one stretch after another; values and priorities
    that are often equal; and candidates that are handed over twice.
    """
    generator = torch.Generator().manual_seed(7)
    n = 3000
    feature = torch.randint(4, (n,), generator=generator)
    value = torch.randint(1, 30, (n,), generator=generator).float()
    place = torch.arange(n)
    everything = candidates(feature, value, place)
    # The second third of the text is the first once more.
    twice = everything.priority.clone()
    twice[1000:2000] = twice[:1000]
    everything = replace(everything, priority=twice)
    exponent = sample_exponent(torch.full((4,), 29.0))
    device = torch.device("cpu")

    def chosen(*parts: torch.Tensor) -> tuple[list[Best], IntervalSample]:
        best = [Best(4, 8, unit, device) for unit in ("document", "row")]
        sample = IntervalSample(torch.zeros(4))
        for part in parts:
            for each in best:
                each.merge(everything[part])
            sample.merge(everything[part], exponent)
        return best, sample

    def facts(best: list[Best], sample: IntervalSample) -> list[list[list[float]]]:
        kept = [each.kept for each in (*best, sample)]
        return [[c.feature.tolist(), c.row.tolist(), c.value.tolist()] for c in kept]

    whole = facts(*chosen(place))
    dealt = [place[(place // 50) % 3 == k] for k in range(3)]
    stretches = [place[:100], place[100:2500], place[2500:]]
    for parts in (dealt, dealt[::-1], [*dealt, dealt[1]], stretches[::-1]):
        best, sample = chosen(parts[0])
        for part in parts[1:]:
            others, other_sample = chosen(part)
            for mine, theirs in zip(best, others, strict=True):
                mine.absorb(theirs.state(), 0, 0)
            sample.absorb(other_sample.state(), exponent, 0, 0)
        assert facts(best, sample) == whole
    # Numbers of rows and documents go on from those that are there.
    (first, _), _ = chosen(place[:100])
    later = everything[place[100:]]
    later = replace(later, row=later.row - 100, document=later.document - 10)
    other = Best(4, 8, "document", device)
    other.merge(later)
    first.absorb(other.state(), 100, 10)
    assert [first.kept.feature.tolist(), first.kept.row.tolist()] == whole[0][:2]


def test_candidates_merged_a_part_after_another_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(5)
    place = torch.arange(900)
    feature = torch.randint(0, 9, (900,), generator=generator)
    value = torch.rand(900, generator=generator) + 0.01
    exponent = sample_exponent(torch.full((9,), 1.01))
    results = []
    for at_once in (2**23, 40):
        monkeypatch.setattr("sae_core.index.selection._AT_ONCE", at_once)
        best, sample = Best(9, 4, "document", torch.device("cpu")), IntervalSample(torch.zeros(9))
        for some in place.split(350):
            new = candidates(feature[some], value[some], some)
            best.merge(new)
            keep = sample.matters(new.feature, new.value, new.priority, exponent)
            sample.merge(new[keep], exponent)
        kept = {
            f"{n}/{k}": v
            for n, each in (("b", best), ("s", sample))
            for k, v in each.state().items()
        }
        results.append(kept | {"bar": best.bar, "bars": sample._bar})
    assert len(results[0]["s/feature"]) > 200
    for name, expected in results[0].items():
        assert torch.equal(results[1][name], expected), name


def test_pair_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_core.index.pairs.BUFFER", 100)
    monkeypatch.setattr("sae_core.index.pairs._AT_ONCE", 9)
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
    joined = PairCounts(torch.device("cpu"))
    for part in (keys[:7], keys[7:2000], keys[2000:]):
        other = PairCounts(torch.device("cpu"))
        other.add(part)
        joined.absorb(other.state())
    assert joined.result()[0].tolist() == counts.result()[0].tolist()
    assert joined.result()[1].tolist() == counts.result()[1].tolist()
    joined.clear()
    joined.add(keys[:5])
    assert int(joined.result()[1].sum()) == 5


def test_top_pairs() -> None:
    keys = torch.tensor([1, 2, 3, 10, 11, 29])
    counts = torch.tensor([5, 9, 5, 1, 2, 7])
    actual = top_pairs(keys, counts, 10, k=2, at_least=2)
    rows = list(zip(*(column.tolist() for column in actual), strict=True))
    assert rows == [(0, 2, 9), (0, 1, 5), (1, 1, 2), (2, 9, 7)]
