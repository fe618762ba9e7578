"""Lists of entries above a cut, by a plain product and by a screened one, against whole arrays."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sae_core.config import Architecture, SAEConfig
from sae_core.index import IndexConfig, batch_lists, screening, statistics
from sae_core.index.batch_lists import BatchLists, BatchTokens
from sae_core.index.contexts import choose
from sae_core.index.counted_tokens import Chunk
from sae_core.index.half_product import fast_half
from sae_core.index.listed_entries import PlainLists, feature_blocks
from sae_core.index.screening import ScreenedLists
from sae_core.index.selection import Best, Candidates
from sae_core.index.statistics import FeatureStatistics
from sae_core.index.windows import Active, Windows
from sae_core.sae import SAE

SHAPES = [(5, 3, 1), (48, 130, 37), (257, 1001, 64)]
"""d_model, d_sae, tokens."""


def random_sae(d_model: int, d_sae: int, architecture: Architecture = "jumprelu") -> SAE:
    torch.manual_seed(d_sae)
    k = 4 if architecture == "topk" else None
    sae = SAE.build(SAEConfig(architecture=architecture, d_model=d_model, d_sae=d_sae, k=k))
    for parameter in sae.parameters():
        parameter.data.normal_()
    # Norms of all sizes, a feature that nothing moves, and one of subnormal float16 numbers.
    sae.W_enc.data *= torch.logspace(-3, 3, d_sae)
    sae.W_enc.data[:, 0] = 0
    sae.W_enc.data[1:, 1] *= 1e-7
    if architecture == "jumprelu":
        sae.get_parameter("threshold").data = sae.W_enc.norm(dim=0) * 1.5 + 0.1
    return sae


def inputs(d_model: int, tokens: int, dtype: torch.dtype) -> Tensor:
    """Activations with a large mean, one outlying channel and one outlying token."""
    x = torch.randn(tokens, d_model) + 3 * torch.randn(d_model)
    x[:, 0] *= 100
    x[-1] *= 1e6
    return x.to(dtype).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("d_model", "d_sae", "tokens"), SHAPES)
@pytest.mark.parametrize("half", [None, torch.float16, torch.bfloat16])
def test_lists_are_what_whole_arrays_say(
    half: torch.dtype | None,
    d_model: int,
    d_sae: int,
    tokens: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sae_core.index.listed_entries._CPU_BLOCK", 50 * tokens)
    monkeypatch.setattr(screening, "_BLOCK", 50 * tokens)
    sae, x = random_sae(d_model, d_sae), inputs(d_model, tokens, dtype)
    lists = PlainLists(sae) if half is None else ScreenedLists(sae, x, half)
    pre = sae.pre_acts(x).T
    exact = (sae.W_enc.double().T @ x.double().T) + sae.b_enc.double()[:, None]
    error = 1e-5 * sae.W_enc.norm(dim=0)[:, None] * x.norm(dim=1) + 1e-6
    spread = torch.linspace(-3, 3, d_sae)[torch.randperm(d_sae)] * pre.abs().median()
    for cut in (sae.effective_threshold(), spread, torch.full((d_sae,), -torch.inf)):
        entries = lists.above(x, cut)
        key = entries.feature * tokens + entries.token
        assert bool((key.diff() > 0).all())
        listed = torch.zeros_like(pre, dtype=torch.bool)
        listed[entries.feature, entries.token] = True
        # What is not within rounding of the cut is listed exactly if it is above it.
        assert bool((listed | (exact < cut[:, None] + error)).all())
        assert bool((~listed | (exact > cut[:, None] - error)).all())
        difference = (entries.value - exact[entries.feature, entries.token]).abs()
        assert bool((difference <= error[entries.feature, entries.token]).all())


@pytest.mark.parametrize("tokens", [1, 16, 37, 64])
def test_rows_of_the_product_begin_at_lines_of_the_cache(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the numbers that they have where no gaps are between them."""
    monkeypatch.setattr("sae_core.index.listed_entries._CPU_BLOCK", 7 * tokens)
    sae, x = random_sae(48, 20), inputs(48, tokens, torch.float32)
    pre = sae.pre_acts(x).T
    seen = 0
    for some, block in feature_blocks(sae, x):
        assert [row.data_ptr() % 64 for row in block] == [0] * len(block)
        torch.testing.assert_close(block, pre[some], atol=1e-5 * float(pre.abs().max()), rtol=1e-5)
        seen += len(block)
    assert seen == 20


@pytest.mark.parametrize("documents", [1, 2, 30])
def test_no_more_near_misses_are_taken_than_can_be_kept(documents: int) -> None:
    """The best rows, and the best documents, of a batch before which nothing has been kept."""
    kept, rows, length = 3, 30, 4
    sae = random_sae(7, 40)
    lists = BatchLists(sae, sae.effective_threshold(), kept)
    row = torch.arange(rows).repeat_interleave(length)
    column, document = torch.arange(length).repeat(rows), row * documents // rows
    x = torch.randn(rows * length, 7, generator=torch.Generator().manual_seed(0))
    tokens = BatchTokens(x=x, row=row, column=column, document=document)
    _, near = lists.of(tokens, torch.full((40,), -torch.inf))
    pre = sae.pre_acts(x).T
    misses = pre.masked_fill(pre > sae.effective_threshold()[:, None], -torch.inf)
    for feature in range(1, 40):
        mine = near.feature == feature
        expected = set()
        for unit in (row, document):
            best = [(misses[feature] - 1e30 * (unit != n)).max(0) for n in unit.unique()]
            best = sorted((v, int(t)) for v, t in best if v > -1e29)[-kept:]
            expected |= {token for _, token in best}
        assert set(near.token[mine].tolist()) == expected
        assert int(mine.sum()) == len(expected)


def test_the_encoder_is_left_as_it_was() -> None:
    """Its numbers always, its order in memory once the lists are given up."""
    sae, x = random_sae(24, 50), inputs(24, 60, torch.float32)
    before = sae.W_enc.detach().clone()
    lists = ScreenedLists(sae, x)
    assert torch.equal(sae.W_enc, before)
    assert lists._rows.data_ptr() == sae.W_enc.data_ptr()
    lists.release()
    assert torch.equal(sae.W_enc, before)
    assert sae.W_enc.is_contiguous()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("d_model", "d_sae", "tokens"), [*SHAPES[1:], (2305, 20, 70)])
def test_the_screening_product_never_loses_what_is_above_the_cut(
    d_model: int, d_sae: int, tokens: int, half: torch.dtype
) -> None:
    """And lets few others pass: those within twice what the rounding to 16 bits takes."""
    sae, x = random_sae(d_model, d_sae), inputs(d_model, tokens, torch.float32)
    sae.b_enc.data.zero_()
    lists = ScreenedLists(sae, x[:-1], half)
    exact = sae.W_enc.double().T @ x.double().T
    size = sae.W_enc.double().norm(dim=0)[:, None] * (x - x[:-1].mean(0)).double().norm(dim=1)
    for share in (0.01, 0.3):
        # A cut at one of the feature's own values, and just below it.
        cut = exact.sort(dim=1, descending=True).values[:, int(share * (tokens - 1))].float()
        cut = torch.nextafter(cut, torch.tensor(-torch.inf))
        passed = torch.zeros_like(exact, dtype=torch.bool)
        for entries in lists._candidates(x, cut):
            passed[entries.feature, entries.token] = True
        above = exact > cut.double()[:, None]
        assert bool((passed | ~above).all())
        assert bool(above.any())
        rounding = 2 * torch.finfo(half).eps + 2 * (d_model + 11) * 2**-22
        margin = rounding * size + 1e-2 * cut.abs()[:, None]
        ordinary = slice(2, None)
        assert bool((~passed | (exact > cut[:, None] - margin))[ordinary, :-1].all())


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sample", ["x", "zeros", "not finite", "none"])
def test_what_no_16_bits_reach_is_listed_as_well(half: torch.dtype, sample: str) -> None:
    """Tokens of no and of huge size and without numbers; cuts at, above and below all numbers; a
    feature on one outlying dimension, and sums in which nearly everything cancels.
    """
    sae = random_sae(32, 40)
    sae.b_enc.data[::3] = 0
    sae.W_enc.data[:, 2:] /= sae.W_enc[:, 2:].norm(dim=0)
    sae.W_enc.data[:, 2], sae.W_enc.data[0, 2] = 0, 1
    sae.W_enc.data[:, 3] = torch.tensor([1.0, -1.0]).repeat(16)
    x = inputs(32, 24, torch.float32)
    x[-1] = 1e5 + torch.randn(32)
    for place, factor in enumerate((0, 1e-30, 1e-4, 1e9, 1e20, 1e37)):
        x[place] = factor * torch.randn(32).clamp(-3, 3)
    x[6], x[7], x[8, 5], x[9, 5] = torch.inf, -torch.inf, torch.nan, torch.inf
    given = {"x": x[10:], "zeros": 0 * x[:3], "not finite": x, "none": x[6:9]}[sample]
    plain, screened = PlainLists(sae), ScreenedLists(sae, given, half)
    error = 1e-6 * sae.W_enc.norm(dim=0)[:, None] * x.abs().square().sum(1).sqrt() + 1e-6
    pre = sae.pre_acts(x).T
    mixed = torch.tensor([-torch.inf, -1e38, -5, -1e-30, 0, 1e-30, 3, 1e5, 1e38, torch.inf])
    for cut in (*(c.expand(40) for c in mixed), mixed.repeat(4), pre[:, 12].contiguous()):
        found = []
        for lists in (plain, screened):
            entries = lists.above(x, cut)
            assert bool(((entries.feature * 24 + entries.token).diff() > 0).all())
            listed = torch.full_like(pre, -torch.inf)
            listed[entries.feature, entries.token] = entries.value
            found.append(listed)
        doubtful = (pre - cut[:, None]).abs() <= error
        same = torch.isclose(*found, atol=0, rtol=0) | ((found[0] - found[1]).abs() <= error)
        assert bool((same | doubtful).all())


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_no_tokens_are_no_entries(half: torch.dtype) -> None:
    sae, x = random_sae(7, 5), torch.randn(3, 7)
    assert not len(ScreenedLists(sae, x, half).above(x[:0], torch.zeros(5)))
    assert not len(ScreenedLists(sae, x, half).above(x, torch.full((5,), 1e30)))


def test_a_number_does_not_depend_on_what_else_is_in_a_batch() -> None:
    sae, x = random_sae(48, 130), inputs(48, 37, torch.float32)
    cut = torch.full((130,), -torch.inf)
    whole = ScreenedLists(sae, x, torch.bfloat16).above(x, cut)
    alone = ScreenedLists(sae, x[:5], torch.bfloat16).above(x[11:14], cut)
    some = whole[(whole.token >= 11) & (whole.token < 14)]
    assert torch.equal(alone.feature, some.feature)
    assert torch.equal(alone.value, some.value)


@pytest.mark.parametrize(
    ("capabilities", "half"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, None),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"architecture": "aarch64", "bf16": True}, None),
        (None, None),
    ],
)
def test_cpus_without_bfloat16_do_not_screen(
    capabilities: dict[str, Any] | None, half: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if capabilities is None:  # an older PyTorch
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert fast_half(torch.device("cpu")) == half
    assert fast_half(torch.device("mps")) is None
    assert fast_half(torch.device("cuda")) == torch.float16


@pytest.mark.parametrize("half", [None, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["jumprelu", "standard", "topk", "gated"])
@pytest.mark.parametrize("seed", [0, 1])
def test_batches_as_lists_find_the_active_and_the_nearest(
    architecture: Architecture,
    seed: int,
    half: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Active entries of every batch, and near misses of which the best of all are the best.

    To 1e-5 for features of norm 10 and less; sums of larger numbers round more.
    """
    monkeypatch.setattr(batch_lists, "fast_half", lambda device: half)
    d_model, d_sae, kept = 7, 40, 3
    sae = random_sae(d_model, d_sae, architecture)
    generator = torch.Generator().manual_seed(seed)
    best = Best(d_sae, kept, "document", torch.device("cpu"))
    lists = BatchLists(sae, sae.effective_threshold(), kept)
    size = (sae.W_enc.norm(dim=0) / 10).clamp(min=1)[:, None]
    everything = []
    for number in range(12):
        row = torch.randint(0, 6, (50,), generator=generator).sort().values
        document = row.unique(return_inverse=True)[1] + 6 * number
        # Of many processes: an array with a place for each row between these would not fit.
        row = row << 40
        column = torch.arange(50)
        x = torch.randn(50, d_model, generator=generator)
        tokens = BatchTokens(x=x, row=row, column=column, document=document)
        active, near = lists.of(tokens, best.bar)
        acts = sae.encode(x).T
        dense = torch.zeros_like(acts)
        dense[active.feature, active.token] = active.value
        torch.testing.assert_close(dense / size, acts / size, atol=1e-5, rtol=1e-5)
        assert bool(((active.feature * 50 + active.token).diff() > 0).all())
        none = Windows(torch.zeros(len(near), dtype=torch.uint8), *[torch.empty(0)] * 2)
        document = tokens.document[near.token].int()
        place = (near.token + 50 * number).int()
        best.merge(
            Candidates(
                near.feature.int(), document, place, place.short(), place.long(), near.value, none
            )
        )
        pre = sae.pre_acts(x).T.masked_fill(acts > 0, -torch.inf)
        everything.append(
            torch.stack([pre[:, tokens.document == d].amax(1) for d in tokens.document.unique()], 1)
        )
    expected = torch.cat(everything, 1).sort(dim=1, descending=True).values[:, :kept]
    for feature in range(d_sae):
        mine = best.kept.value[best.kept.feature == feature]
        wanted = expected[feature][expected[feature] > -torch.inf]
        torch.testing.assert_close(mine, wanted, atol=1e-5 * float(size[feature]), rtol=1e-5)


@pytest.mark.parametrize(("density", "first"), [(0.0, 0), (0.05, 2**23 - 3), (0.9, 0)])
def test_windows_are_cut_from_the_list_as_from_whole_arrays(density: float, first: int) -> None:
    generator = torch.Generator().manual_seed(0)
    d_sae, before, after = 6, 5, 2
    # Row 1 lacks tokens that do not count.
    row = torch.tensor([0] * 12 + [1] * 9 + [2] * 3)
    position = torch.tensor([*range(12), 0, 1, 2, 5, 6, 7, 8, 11, 12, *range(3)])
    acts = torch.rand(d_sae, 3, 13, generator=generator)
    acts *= torch.rand(acts.shape, generator=generator) < density
    listed = acts[:, row, position]
    feature, token = listed.nonzero(as_tuple=True)
    around = Active(feature + first, token, listed[feature, token], row, position)
    every = torch.cartesian_prod(torch.arange(d_sae), torch.arange(len(row)))
    windows = around.windows(every[:, 0] + first, every[:, 1], before, after)
    counted = torch.zeros(3, 13, dtype=torch.bool)
    counted[row, position] = True
    acts *= counted
    padded = torch.nn.functional.pad(acts, (before, after))
    chosen = torch.randperm(len(every), generator=generator)
    taken = windows[chosen]
    ends = taken.count.cumsum(0, dtype=torch.int64)
    for n, i in enumerate(chosen.tolist()):
        f, t = every[i].tolist()
        expected = padded[f, row[t], position[t] : position[t] + before + 1 + after].clone()
        expected[before] = 0
        part = slice(int(ends[n]) - int(taken.count[n]), int(ends[n]))
        whole = torch.zeros(before + 1 + after)
        whole[taken.position[part].long()] = taken.value[part]
        assert torch.equal(whole, expected)


@pytest.mark.parametrize("seed", range(40))
def test_contexts_are_the_best_of_all_however_rows_are_dealt_out(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whole numbers, so that most values are equal to others; by one process and by two, one of
    which starts again from its state; screened and not.
    """
    half = torch.bfloat16 if seed // 2 % 2 else None
    monkeypatch.setattr(batch_lists, "fast_half", lambda device: half)
    rng = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=rng)

    monkeypatch.setattr(statistics, "MERGE_AT", 20)
    monkeypatch.setattr("sae_core.index.selection._AT_ONCE", 30)
    cfg = IndexConfig(corpus=("none",), top=4, near_misses=3, per_interval=0)
    architecture: Architecture = "topk" if seed % 4 == 0 else "jumprelu"
    sae = random_sae(4, 6, architecture).requires_grad_(False)
    for parameter in sae.parameters():
        parameter.copy_(whole(-2, 3, *parameter.shape))
    if architecture == "jumprelu":
        sae.get_parameter("threshold").copy_(whole(1, 4, 6))
    x, valid, rows = whole(-1, 2, 40, 5, 4).float(), whole(0, 4, 40, 5) > 0, torch.arange(40)
    document = (whole(0, 1 + seed % 9, 40) == 0).cumsum(0)
    counted = [FeatureStatistics(sae, cfg, 1) for _ in range(1 + seed % 2)]
    for n, some in enumerate(rows.split(3)):
        ids = torch.zeros(x[some].shape[:2], dtype=torch.int64)
        chunk = Chunk(x[some], x[some], ids, valid[some], 0, some, some, document[some], 0 * some)
        counted[n % len(counted)].update(chunk)
        if n in (4, 9):
            for other in counted[1:]:
                counted[0].absorb(other.state())
                other.handed_over()
            state = counted[0].state()
            counted[0] = FeatureStatistics(sae, cfg, 1)
            counted[0].load(state)
    for other in counted[1:]:
        counted[0].absorb(other.state())
    chosen = choose(counted[0], cfg.intervals, 0)
    found = zip(
        chosen.feature, chosen.group, chosen.row, chosen.position, chosen.value, strict=True
    )
    pre = sae.pre_acts(x)
    acts = sae.activate(pre)
    expected = []
    for f in range(6):
        for group, k, values, among in ((0, 4, acts, acts > 0), (6, 3, pre, acts <= 0)):
            places = (among[:, :, f] & valid).nonzero().tolist()
            ranked = sorted((-float(values[r, p, f]), r, p) for r, p in places)
            of_rows = {r: each for each in reversed(ranked) for r in [each[1]]}
            of_documents = {int(document[e[1]]): e for e in reversed(ranked)}.values()
            late = [(e not in of_documents, *e) for e in of_rows.values()]
            best = sorted(e[1:] for e in sorted(late)[:k])
            expected += [(f, group, r, p, -value) for value, r, p in best]
    assert [tuple(map(float, each)) for each in found] == expected
