"""The comparison of architectures: its batched step against the trainer's, and its verdicts."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.paper.comparison import CURED, CURES, RATES, SEEDS, SITES, TARGETS, chosen
from benchmarks.paper.demo import Demo
from benchmarks.paper.halves import Text, halves
from benchmarks.paper.kinds import (
    ARCHITECTURES,
    Cure,
    Kind,
    Length,
    begin,
    moments_of,
    resample,
    train,
)
from benchmarks.paper.quality import Quality
from benchmarks.paper.shown_comparison import SHOWN
from benchmarks.paper.verdicts import Points, points, quotient
from sae_core.sae import JumpReLUSAE
from tests import tiny
from tests.unit.test_paper_arms import activations
from training.assembly import make_loss, rule, sparsity_control
from training.losses.base import unchanged
from training.optim import BETA2, rate_share, sparsity_share
from training.recipes import RECIPES
from training.step import DenseStep, Setting, State
from training.trained_form import initial_parameters

LENGTH = Length(d_sae=24, batch=32, steps=40)
RAW = {"resid_post/0": activations(1280), "mlp_out/0": activations(1280).flip(0) * 2 - 0.5}


def kind(architecture: str, target: int = 4, lr: float = 0.01, **more: object) -> Kind:
    settings = {"site": "resid_post/0", "seed": 3, "epsilon": 0.1} | more
    return Kind(architecture=architecture, target=target, lr=lr, **settings)  # pyright: ignore


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "frequency"])
def test_each_kind_takes_the_trainers_steps(architecture: str) -> None:
    """Other sites, targets, rates and seeds side by side, with dead features on the way; JumpReLU
    with the frequency term as well.
    """
    cured = Cure(frequency=0.2) if architecture == "frequency" else Cure()
    architecture = "jumprelu" if architecture == "frequency" else architecture
    kinds = [
        kind(architecture),
        kind(architecture, target=6, seed=5, cure=cured),
        kind(architecture, site="mlp_out/0", lr=0.02),
    ]
    trained = train(kinds, LENGTH, RAW)
    for k, each in enumerate(kinds):
        cfg = LENGTH.config(each)
        cfg = replace(cfg, loss=replace(cfg.loss, frequency_scale=each.cure.frequency))
        (plan,) = cfg.plans
        raw = RAW[each.site]
        scale, mean = trained.scales[k], raw.mean(0)
        recipe = RECIPES[each.architecture]
        start = initial_parameters(8, 24, 0.0, each.seed, "cpu", recipe, mean / scale)
        before = {name: p.detach().clone() for name, p in start.items()}
        coefficient, gain = sparsity_control(cfg, plan)
        each_rule = rule(cfg, plan)
        state = State.of(start, each_rule.beta1)
        loss = make_loss(cfg, plan, torch.float32, unchanged)
        constants = [torch.tensor(v) for v in (coefficient, float(each.target), gain)]
        setting = Setting(torch.tensor(scale), mean / scale, *constants)
        step = DenseStep(state, loss, setting, rule=each_rule)
        order = torch.randperm(1280, generator=torch.Generator().manual_seed(each.seed))
        for at, tokens in enumerate(order.split(LENGTH.batch)):
            share = (each.lr * rate_share(cfg, at), sparsity_share(cfg, at))
            control = torch.tensor([*share, 1 - BETA2 ** (at + 1), at + 1.0])
            step(raw[tokens], control)
        for name, mine in trained.parameters.items():
            assert torch.allclose(mine[k], state.plain[name], rtol=2e-3, atol=5e-5), (k, name)
        assert not torch.allclose(state.plain["W_dec"], before["W_dec"], atol=1e-2)
        multiplier = float(trained.moving["multiplier"][k])
        assert multiplier == pytest.approx(float(state.multiplier), abs=1e-4)
        since = trained.moving["tokens_since_fired"][k]
        assert torch.equal(since, state.totals["tokens_since_fired"])


def test_dead_features_are_made_anew_and_the_living_stay() -> None:
    trained = begin([kind("jumprelu")], LENGTH, moments_of(RAW))
    silent = torch.arange(24) >= 20
    trained.moving["tokens_since_fired"][0] = torch.where(silent, 1e6, 0.0)
    for moments in (trained.first, trained.second):
        for each in moments.values():
            each.fill_(1.0)
    before = {name: p.clone() for name, p in trained.parameters.items()}
    x = RAW["resid_post/0"][:32] / trained.scales[0]
    assert resample(trained, 0, x) == 4
    after = trained.parameters
    for name, at in (("W_enc", 2), ("W_dec", 1), ("b_enc", 1), ("threshold", 1)):
        living = (~silent).nonzero()[:, 0]
        assert torch.equal(
            after[name].index_select(at, living), before[name].index_select(at, living)
        )
        assert float(trained.second[name].index_select(at, silent.nonzero()[:, 0]).max()) == 0
        assert float(trained.second[name].index_select(at, living).min()) == 1
    assert not torch.equal(after["W_dec"][0, 20:], before["W_dec"][0, 20:])
    assert torch.allclose(after["W_dec"].norm(dim=2), torch.ones(1, 24))
    assert resample(trained, 0, x) == 0


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(Path("-"), tiny.make_model(), tiny.make_tokenizer(), torch.device("cpu"))


def test_a_texts_blocks_add_up_to_what_is_measured_elsewhere(demo: Demo, tmp_path: Path) -> None:
    corpus = tiny.make_corpus(tmp_path / "corpus.parquet", count=200)
    _, rows = halves([str(corpus)], demo.tokenizer, 12, (2, 8))
    site = "resid_post/1"
    text = Text(demo, rows, [site], 4)
    sae = tiny.make_sae(demo.model, demo.tokenizer)
    assert isinstance(sae, JumpReLUSAE)
    mine = text.of(sae, site)
    theirs = Quality(demo, rows, rows, [site]).of(sae, site)
    for name in ("l0", "fvu", "dead", "high_frequency", "delta_lm_loss"):
        assert mine[name] == pytest.approx(theirs[name], rel=1e-4), name
    deviations = text.deviations()[site]
    assert sum(mine["errors"]) / sum(deviations) == pytest.approx(mine["fvu"])
    assert len(mine["errors"]) == len(mine["losses"]) == len(deviations) == 4
    assert np.mean(mine["losses"]) == pytest.approx(mine["delta_lm_loss"])
    with pytest.raises(ValueError, match="cannot be cut into 3"):
        Text(demo, rows, [site], 3)


def test_the_halves_of_the_text_share_no_work(demo: Demo, tmp_path: Path) -> None:
    corpus = tiny.make_corpus(tmp_path / "corpus.parquet", count=200)
    selection, report = halves([str(corpus)], demo.tokenizer, 12, (4, 4))
    titles = [{row.document.title for row in half} for half in (selection, report)]
    assert titles[0]
    assert titles[1]
    assert not titles[0] & titles[1]
    assert {len(row.ids) for row in (*selection, *report)} == {12}
    with pytest.raises(ValueError, match="full rows but 100000 are needed"):
        halves([str(corpus)], demo.tokenizer, 12, (4, 100_000))


def row(stage: str, lr: float, fvu: float, l0: float = 64, **more: Any) -> dict[str, Any]:
    settings = {"architecture": "topk", "site": "mlp_out/4", "target": 64, "seed": 0}
    return settings | {"stage": stage, "lr": lr, "fvu": fvu, "l0": l0} | more


def test_a_rate_is_chosen_on_the_sweep_alone_and_at_one_l0() -> None:
    rows = [
        row("sweep", 0.01, 0.100),
        row("sweep", 0.02, 0.099, l0=70),  # 0.105 at an L0 of 64
        row("report", 0.04, 0.01),
    ]
    assert chosen(rows) == {("topk", "mlp_out/4", 64): 0.01}


def noisy(seeds: int, noise: float, level: float, generator: np.random.Generator) -> Points:
    """Blocks that differ by a factor of ten, alike for all; seeds that differ by `noise`."""
    blocks = np.linspace(0.1, 1, 20)
    factors = level * np.exp(noise * generator.standard_normal(seeds))
    return Points(factors[:, None] * blocks, np.ones(20), np.ones(seeds))


def test_what_blocks_have_in_common_does_not_widen_an_interval() -> None:
    generator = np.random.default_rng(0)
    first, second = (noisy(3, 0.0, level, generator) for level in (1.0, 1.1))
    found = quotient(first, second)
    assert (found.share, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.verdict == "lower"
    assert quotient(second, first).verdict == "higher"


def test_seeds_widen_an_interval_by_the_standard_error_of_their_mean() -> None:
    """In the mean over many trials: 2 * 1.96 * noise * root(2 / 3), and verdicts are open."""
    generator = np.random.default_rng(1)
    widths, wrong = [], 0
    for _ in range(100):
        found = quotient(noisy(3, 0.01, 1.0, generator), noisy(3, 0.01, 1.0, generator))
        widths.append(math.log1p(found.high) - math.log1p(found.low))
        wrong += found.verdict != "open"
    root = math.sqrt(np.mean(np.square(widths)))
    assert root == pytest.approx(2 * 1.96 * 0.01 * math.sqrt(2 / 3), rel=0.15)
    assert wrong <= 20


def test_values_are_moved_to_the_l0_that_was_asked_for_along_their_own_curve() -> None:
    """FVU = L0^-1.2, with L0s that miss their targets."""
    rows = [
        row("report", 0.01, l0**-1.2, l0=l0, target=target, seed=seed, errors=[l0**-1.2] * 4)
        for target in (16, 64, 128)
        for seed, l0 in ((1, 1.02 * target), (2, 1.02 * target))
    ]
    data = {"rows": rows, "texts": {"demo": {"deviations": {"mlp_out/4": [1.0] * 4}}}}
    found = points(data, "report", "fvu")
    for target in (16, 64, 128):
        assert found["topk", "mlp_out/4", target].mean() == pytest.approx(target**-1.2)


def synthetic() -> dict[str, Any]:
    """JumpReLU's FVU is 10 % below Gated's, TopK's is 10 % below JumpReLU's, ReLU's seeds differ by
    factors; losses go as FVU; the frequency term mends dead features at an FVU 2 % higher.
    """
    levels = {"jumprelu": 1.0, "gated": 1 / 0.9, "topk": 0.9, "standard": 1.02}
    rows = []
    for name, site, target in product(ARCHITECTURES, SITES, TARGETS):
        for stage, seed in product(("report", "other"), SEEDS):
            apart = {1: 0.7, 2: 1.0, 3: 1.4}[seed] if name == "standard" else 1.0
            value = levels[name] * apart / target
            place = {"architecture": name, "site": site, "target": target, "seed": seed}
            measured = {"dead": 0.3, "high_frequency": 0.1, "delta_lm_loss": value}
            blocks = {"errors": [value, 3 * value], "losses": [value / 2, 3 * value / 2]}
            rows.append(row(stage, 0.01, value, target, **place, **measured, **blocks))
        for lr in RATES:
            value = levels[name] / target * (1 if lr == 0.01 else 1.1)
            place = {"architecture": name, "site": site, "target": target, "dead": 0.2}
            rows.append(row("sweep", lr, value, target, **place))
    for target, seed, (name, cure) in product(CURED[1], CURED[2], CURES.items()):
        value = (1.02 if cure.frequency else 1.0) / target
        place = {"architecture": "jumprelu", "site": CURED[0], "target": target, "seed": seed}
        measured = {"dead": 0.01 if cure.frequency else 0.3, "delta_lm_loss": value}
        rows.append(row("cure", 0.01, value, target, **place, **measured, cure=name))
    text = {"selection": 10, "report": 20, "deviations": {site: [1.0, 3.0] for site in SITES}}
    return {
        "rows": rows,
        "settings": {"rates": list(RATES), "batch": 2, "steps": 3},
        "texts": {"demo": text, "other": text},
        "machine": {"device": "none", "torch": "0"},
        "seconds": 1.0,
    }


def test_every_verdict_of_a_result_is_known() -> None:
    shown = {name: show({"comparison": synthetic()}) for name, show in SHOWN.items()}
    for stage in ("", "_other"):
        lines = shown[f"comparison.summary{stage}"].splitlines()
        for metric in ("FVU", "delta LM loss"):
            assert f"| {metric} against Gated | 9 | 9, by 10.0 to 10.0 % | 0 | 0 |" in lines
            assert f"| {metric} against TopK | 9 | 0 | 0 | 9, by 11.1 to 11.1 % |" in lines
            assert f"| {metric} against ReLU | 9 | 0 | 9 | 0 |" in lines
        fvu = shown[f"comparison.fvu{stage}"]
        assert "| mlp_out/4, 64 | 0.0156 | **+11.1 %** (+11.1 to +11.1) |" in fvu
        assert "_-10.0 %_ (-10.0 to -10.0)" in fvu
        assert "| attn_out/4, 128 | 30 % | 30 % | 30 % | 30 % |" in shown[f"comparison.dead{stage}"]
    assert "| TopK | 45 | 0.01, 0.01, 0.01 |" in shown["comparison.rates"]
    cures = shown["comparison.cures"]
    assert "| frequency 0.1 | 0.0159 (+2.0 %) | 1.0 % | 0.016 |" in cures
    assert "| none | 0.0156 | 30 % | 0.016 |" in cures
    assert shown["comparison.missed"] == "0.0 %"
    assert shown["comparison.tokens"] == "6"
