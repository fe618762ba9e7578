"""The studies of the threshold's gradient, of bandwidth rules and of the sweep, on known cases."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.paper import threshold
from benchmarks.paper.bandwidth import plan
from benchmarks.paper.demo import Demo, bare_units, units_of
from benchmarks.paper.feature_tokens import (
    BLOCKS,
    FeatureTokens,
    Marginal,
    SaeTokens,
    marginal,
    sae_tokens,
    spread_features,
)
from benchmarks.paper.gradients import bias_of, estimated, reference
from benchmarks.paper.kernel_errors import biases
from benchmarks.paper.results import shortened
from benchmarks.paper.rules import CANDIDATES, gradient, lscv, plug_in, scott, silverman
from benchmarks.paper.sweep import Curve, curve
from benchmarks.paper.text import read_rows, write_rows
from sae_core.bundle import write_bundle
from sae_core.config import Site
from sae_core.corpus import Document, TokenRow, documents, token_rows
from sae_core.evaluation import take_tokens
from sae_core.formats.saelens import save_sae
from sae_core.sae import SAE, JumpReLUSAE

T, SD, PULL, PENALTY = 0.05, 0.1, 0.8, 1e-3


@pytest.fixture(scope="module")
def normal() -> FeatureTokens:
    """Pre-activations of a normal density, and a pull that is always 0.8 of them."""
    z = SD * torch.randn(1, 3_000_000, generator=torch.Generator().manual_seed(0))
    return FeatureTokens(z, PULL * z, torch.tensor([T]), torch.tensor([1.0]))


def normal_facts(sample: FeatureTokens) -> tuple[torch.Tensor, torch.Tensor]:
    return sample.threshold, sample.square_norm


def density(t: float) -> float:
    return math.exp(-0.5 * (t / SD) ** 2) / (SD * math.sqrt(2 * math.pi))


def test_the_true_gradient_is_that_of_the_expected_loss(normal: FeatureTokens) -> None:
    true = reference(normal, PENALTY, 0.005)
    right = density(T) * ((2 * PULL - 1) * T**2 - PENALTY)
    assert float(true.gradient.mean()) == pytest.approx(right, abs=4e-5)
    assert float(true.density.mean()) == pytest.approx(density(T), rel=0.02)


def test_the_straight_through_bias_grows_as_derived_and_the_own_jumps_does_not(
    normal: FeatureTokens,
) -> None:
    """-e/4 t (p + t p') for the rectangle; far less where the coefficient is smooth."""
    true = reference(normal, PENALTY, 0.005)
    slope = -T / SD**2 * density(T)
    for e in (0.02, 0.04):
        mean, _ = estimated(normal, PENALTY, e, "rectangle")
        bias, error = bias_of(mean, true)
        first_order = -e / 4 * T * (density(T) + T * slope)
        assert float(bias) == pytest.approx(first_order, rel=0.2)
        assert abs(float(bias)) > 5 * float(error)
        mean, _ = estimated(normal, PENALTY, e, "rectangle", own_jump=True)
        assert abs(float(bias_of(mean, true)[0])) < 0.3 * abs(first_order)


def test_rules_agree_where_the_density_is_normal(normal: FeatureTokens) -> None:
    z, n = normal.z[:, :200_000], 2_048
    right = SD * (144 * 8 * math.sqrt(math.pi) / (3 * n)) ** 0.2
    assert float(scott(z, n)) == pytest.approx(right, rel=0.01)
    assert float(silverman(z, n)) == pytest.approx(right * 0.9 / 1.0645, rel=0.02)
    assert float(plug_in(z, n)) == pytest.approx(right, rel=0.05)
    assert float(lscv(z, n)) == pytest.approx(right, rel=0.26)  # one candidate further


def test_rules_are_their_formulas_where_the_density_is_not_normal() -> None:
    """Over all pairs, without bins or transforms, on two bumps of different widths."""
    generator = torch.Generator().manual_seed(5)
    wide, narrow = (torch.randn(1_500, generator=generator, dtype=torch.float64) for _ in range(2))
    z = torch.cat((0.10 * wide, 0.25 + 0.02 * narrow))[None]
    n, held = 2_048, z.shape[1]
    pairs = (z[0][:, None] - z[0]).abs()
    apart = pairs[~torch.eye(held, dtype=torch.bool)]

    def left_out(e: float) -> float:
        """The expected squared error of a density from n tokens, but for a constant."""
        square = (1 - apart / e).clamp(min=0).mean() / e
        inside = (apart < e / 2).double().mean() / e
        return float(1 / (n * e) + (1 - 1 / n) * square - 2 * inside)

    scores = {e: left_out(e) for e in CANDIDATES}
    taken = float(lscv(z.float(), n))
    nearest = min(CANDIDATES, key=lambda e: abs(e - taken))
    spread = max(scores.values()) - min(scores.values())
    assert scores[nearest] == pytest.approx(min(scores.values()), abs=2e-3 * spread)
    deviation = float(z.std())
    u = pairs / deviation
    pilot = (32 * math.sqrt(2) * 3 / (15 * 2 * held)) ** (1 / 7)  # for a normal density
    v = u / pilot
    fourth = (v**4 - 6 * v**2 + 3) * torch.exp(-v * v / 2) / math.sqrt(2 * math.pi)
    roughness = float(fourth.mean()) / pilot**5 / deviation**5
    assert float(plug_in(z.float(), n)) == pytest.approx((144 / (n * roughness)) ** 0.2, rel=0.01)
    ranked = sorted(z[0].tolist())
    middle_half = ranked[3 * held // 4] - ranked[held // 4]
    by_hand = 0.9 * min(deviation, middle_half / 1.34) * n**-0.2 * math.sqrt(12)
    assert float(silverman(z.float(), n)) == pytest.approx(by_hand, rel=1e-4)
    assert float(scott(z.float(), n)) > 1.5 * taken  # which of them is right is another question


def test_the_gradients_rule_takes_less_of_more_tokens(normal: FeatureTokens) -> None:
    part = FeatureTokens(normal.z[:, :300_000], normal.pull[:, :300_000], *normal_facts(normal))
    few, many = (float(gradient(part, PENALTY, 0.005, n)) for n in (1_000, 1_000_000))
    assert many < 0.5 * few


def test_the_gradients_rule_is_the_derived_minimum(normal: FeatureTokens) -> None:
    """e* = (V / (2 b^2 n))^(1/3) of docs/training.md, and a third of the error is bias there."""
    p, n = density(T), 4_096
    b = T * (p - T * T / SD**2 * p) / 4
    inactive, active = 2 * T * PULL * T - PENALTY, 2 * T * (PULL - 1) * T - PENALTY
    variance = p * (inactive**2 + active**2) / 2
    best = (variance / (2 * b * b * n)) ** (1 / 3)
    step = 10 ** (1 / 10)
    taken = float(gradient(normal, PENALTY, 0.005, n))
    assert best / step**2 < taken < best * step**2
    assert (best * b) ** 2 == pytest.approx((variance / (n * best)) / 2)


def test_rest_is_where_the_mean_cost_is_lambda() -> None:
    """Two features, of cost 2 and 4 a token, in four blocks: together they rest at 3."""
    weight = torch.ones(4, 2, dtype=torch.float64)
    cost = torch.tensor([[2.0, 4.0], [2.0, 5.0], [2.0, 3.0], [2.0, 4.0]], dtype=torch.float64)
    sums = Marginal(weight, cost, weight, block_tokens=10)
    assert sums.resting_penalty == pytest.approx(3)
    ratio, error = sums.ratio
    assert ratio.tolist() == pytest.approx([2 / 3, 4 / 3])
    assert float(error[0]) == pytest.approx(0)
    assert float(error[1]) == pytest.approx(cost[:, 1].std().item() / 2 / 3)


def test_every_sae_of_a_bundle_is_looked_at_on_its_own_site(
    tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any, tiny_corpus: Path, tiny_sae: SAE
) -> None:
    """Sums and single tokens are those of the SAE's own definition, token by token."""
    other = SAE.build(replace(tiny_sae.cfg, site=Site("mlp_out", 2)))
    other.load_state_dict(tiny_sae.state_dict())
    saes = {"first": tiny_sae, "other": other}
    for name, sae in saes.items():
        save_sae(sae, tmp_path / "saes" / name)
    write_bundle(tmp_path, name="two", title="two", model="model", saes=list(saes))
    demo = Demo(tmp_path, tiny_model, tiny_tokenizer, torch.device("cpu"))
    rows = take_tokens(token_rows(documents([str(tiny_corpus)]), tiny_tokenizer, 24), 900)
    found = list(sae_tokens(demo, rows))
    assert [each.name for each in found] == list(saes)
    for each, sae in zip(found, saes.values(), strict=True):
        assert each.site == str(sae.cfg.site)
        x = demo.activations(rows, [each.site])[each.site]
        counted = x[: each.tokens]
        assert len(x) - BLOCKS < each.tokens <= len(x)
        fires = (sae.encode(counted) > 0).sum(0)
        assert each.sums.fires.sum(0).tolist() == fires.tolist()
        torch.testing.assert_close(each.frequency, fires[each.features] / each.tokens)
        assert len(each.features) > 0
        z = sae.pre_acts(x)[:, each.features].T / each.units.scale
        torch.testing.assert_close(each.sample.z, z)


def test_costs_at_thresholds_are_those_of_each_token_in_the_window(tiny_sae: SAE) -> None:
    """By the straight-through gradient's definition, with half of all pairs in the window."""
    assert isinstance(tiny_sae, JumpReLUSAE)
    scale = 3.0
    x = torch.randn(4 * 5, tiny_sae.cfg.d_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = tiny_sae.pre_acts(x)
        left = x - tiny_sae.output(tiny_sae.encode(x), x)
    away = (z - tiny_sae.threshold).abs() / scale
    bandwidth = 2 * float(away.median())
    units = bare_units(scale, bandwidth)
    sums = marginal(tiny_sae, x, units, 4)
    weight, cost = torch.zeros(4, z.shape[1]), torch.zeros(4, z.shape[1])
    for token, feature in (away < bandwidth / 2).nonzero().tolist():
        theta, row = tiny_sae.threshold[feature].detach(), tiny_sae.W_dec[feature].detach()
        weight[token // 5, feature] += 1 / bandwidth
        lost = 2 * (theta / scale) * float((left[token] / scale) @ row)
        cost[token // 5, feature] += lost / bandwidth
    assert 0.4 < float(weight.sum()) * bandwidth / z.numel() < 0.6
    torch.testing.assert_close(sums.weight.float(), weight)
    torch.testing.assert_close(sums.cost.float(), cost, rtol=1e-4, atol=1e-4)


def test_rounding_is_measured_on_the_same_tokens_and_only_once(
    tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any, tiny_corpus: Path, tiny_sae: SAE
) -> None:
    wide = {"training": {"settings": {"bandwidth": 9.0}}}  # with all tokens in every window
    sae = SAE.build(replace(tiny_sae.cfg, metadata=wide))
    sae.load_state_dict(tiny_sae.state_dict())
    assert isinstance(sae, JumpReLUSAE)
    save_sae(sae, tmp_path / "saes" / "one")
    write_bundle(tmp_path, name="one", title="one", model="model", saes=["one"])
    demo = Demo(tmp_path, tiny_model, tiny_tokenizer, torch.device("cpu"))
    rows = take_tokens(token_rows(documents([str(tiny_corpus)]), tiny_tokenizer, 24), 900)
    told = threshold.rounding(demo, rows)["one"]
    x = demo.activations(rows, [told["site"]])[told["site"]]
    spreads = []
    for dtype in (torch.float32, torch.float8_e4m3fn):
        with torch.no_grad():
            for matrix in (sae.W_enc, sae.W_dec):
                matrix.copy_(matrix.to(dtype).float())
        ratio, error = marginal(sae, x, units_of(sae, x), BLOCKS).ratio
        spreads.append(float((ratio.var(correction=0) - (error**2).mean()).clamp(min=0).sqrt()))
    assert told["features"] == told["d_sae"] == sae.cfg.d_sae
    assert told["spread"] == pytest.approx(spreads, rel=1e-4)
    assert spreads[0] != spreads[1]
    save_sae(sae, tmp_path / "saes" / "one")
    with pytest.raises(ValueError, match="one is in float8 already"):
        threshold.rounding(demo, rows)


def test_rest_is_told_of_features_with_enough_tokens_in_the_window() -> None:
    """The window of the second of three features holds fewer tokens than are asked for."""
    in_window = torch.tensor([2_000.0, 900.0, 1_000.0], dtype=torch.float64)
    weight = (in_window / 0.01 / BLOCKS).expand(BLOCKS, 3)
    cost = weight * torch.tensor([2.0, 9.0, 5.0], dtype=torch.float64)
    units = bare_units(1.0, 0.01)
    empty = torch.zeros(0)
    sample = FeatureTokens(torch.zeros(0, 0), torch.zeros(0, 0), empty, empty)
    sums = Marginal(weight, cost, weight, block_tokens=100)
    each = SaeTokens("a", "resid_post/1", units, sums, empty, empty, sample)
    told = threshold.rest(each)
    together = (2 * 2_000 + 9 * 900 + 5 * 1_000) / 3_900
    assert told["lambda"] == pytest.approx(together)
    assert told["features"].tolist() == [0, 2]
    assert told["ratio"].tolist() == pytest.approx([2 / together, 5 / together])
    assert (told["d_sae"], told["tokens"]) == (3, 6_400)
    few = replace(each, sums=replace(sums, weight=weight / 3))
    with pytest.raises(ValueError, match=r"no feature of a has 1000 of 6,400 .*: take more"):
        threshold.rest(few)


def test_features_are_chosen_by_frequency() -> None:
    frequency = torch.tensor([0.5, 0.01, 0.0, 0.002, 0.05, 0.03])
    assert spread_features(frequency, 3).tolist() == [3, 5, 4]
    assert sorted(spread_features(frequency, 9).tolist()) == [1, 3, 4, 5]


def test_the_power_of_a_bias_is_read_with_its_interval() -> None:
    """Of two features whose biases grow as e and as e squared; then with none at the first e."""
    epsilons = [0.01, 0.02, 0.1]
    zeros = [[0.0, 0.0]] * 3
    kernel = {"squared_bias": [[e**2, e**4] for e in epsilons], "variance": zeros}
    result = {"epsilons": epsilons, "lambda": 2.0, "density": [0.5, 0.5], "rectangle": kernel}
    told = biases(result, "rectangle", (0.01, 0.1), (0.01, 0.02))
    assert told.power[1:] == pytest.approx((1, 2))  # samples of one feature twice
    assert told.power[0] == pytest.approx(1, abs=0.01)
    assert told.at[0] == pytest.approx((math.sqrt((1e-4 + 1e-8) / 2), 1e-4, 1e-2))
    kernel["squared_bias"] = [[0.0, 0.0], [4e-4, 9e-4], [0.01, 0.01]]
    assert biases(result, "rectangle", (0.01, 0.1), (0.01, 0.02)).power == (math.inf,) * 3


def test_a_rules_regret_is_read_between_bandwidths() -> None:
    line = Curve(np.array([0.01, 0.1]), np.array([[1.0, 1.21], [1.0, 1.21]]))
    assert line.best == 0
    assert line.regret(math.sqrt(0.001)) == pytest.approx([0.1, 0.1])
    assert line.regret(10.0) == pytest.approx([0.21, 0.21])
    assert line.within() == (0.01, 0.01)


def test_a_seed_without_all_bandwidths_is_left_out() -> None:
    rows = [
        {"epsilon": e, "seed": seed, "fvu": 0.1, "l0": 32, "target": 32}
        for seed, e in ((0, 0.01), (0, 0.1), (1, 0.01))
    ]
    found = curve(rows)
    assert found is not None
    assert found.values.shape == (1, 2)


def test_every_group_trains_as_many_saes() -> None:
    """So that one compiled step serves all; the first seed of both studies comes first."""
    passes = plan()
    assert {len(each.arms) for each in passes} == {21}
    assert [each.seed for each in passes] == sorted(each.seed for each in passes)
    assert {each.group for each in passes} == {"raw", "relative", "kernels", "others"}


def test_rows_of_tokens_come_back(tmp_path: Path) -> None:
    document = Document(0, "", "", "", "")
    rows = [TokenRow(document, 0, np.array(ids, dtype=np.int32)) for ids in ([2, 8_191, 5], [2, 7])]
    write_rows(rows, tmp_path / "rows.npz")
    back = read_rows([str(tmp_path / "rows.npz")], None, 512, 3)
    assert [row.ids.tolist() for row in back] == [[2, 8_191, 5], [2, 7]]
    with pytest.raises(ValueError, match="holds 3 tokens but 4 are needed"):
        read_rows([str(tmp_path / "rows.npz")], None, 512, 4)


def test_results_hold_four_digits_and_no_nan() -> None:
    assert shortened({"a": [torch.tensor([1.23456, math.nan])], 2: 7}) == {
        "a": [[1.235, None]],
        "2": 7,
    }
