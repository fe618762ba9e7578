"""The comparison of architectures: its batched step against the trainer's, and how it goes on."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.paper.comparison import study
from benchmarks.paper.comparison_plan import (
    CURES,
    RATES,
    sweep_plan,
)
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
    take_step,
    train,
)
from benchmarks.paper.quality import Quality
from benchmarks.paper.results import Results, read
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
        recipe = RECIPES[each.form]
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


class _Lab:
    """As much of a lab as `study` looks at before it trains."""

    weights = "mine"


def test_results_are_gone_on_with_under_the_same_settings_alone(tmp_path: Path) -> None:
    """A second call keeps what is there; other settings, or another model, are refused."""
    first = sweep_plan()[0].name
    everything = {each.name: 1.0 for each in sweep_plan()}
    length, past = Length(d_sae=160, batch=64, steps=2), time.monotonic() - 1
    settings = {"corpus": ["a"], "rows": [2, 3]}
    results = Results("comparison", tmp_path, {})
    kept = settings | {"d_sae": 160, "batch": 64, "steps": 2, "rates": RATES}
    kept |= {"cures": {name: asdict(cure) for name, cure in CURES.items()}}
    results.data["settings"] = kept
    results.keep(texts={}, pass_seconds=everything, rows=[])

    def call(settings: dict[str, Any], deadline: float = past) -> None:
        lab: Any = lambda _: _Lab()  # noqa: E731
        study(lab, length, take_step, tmp_path, settings, deadline, others=False)

    call(settings)
    with pytest.raises(ValueError, match="results with another corpus: give a new --out"):
        call(settings | {"corpus": ["b"]})
    results.keep(texts={"demo": {"weights": "theirs"}}, pass_seconds={}, rows=[])
    with pytest.raises(ValueError, match="of another language model"):
        call(settings, time.monotonic() + 60)
    assert first not in read("comparison", tmp_path)["pass_seconds"]
