"""The bundled demo, through the service: its size, its numbers, its examples, its index."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.commands.shared import DEMO
from app.endpoints import Api
from app.engine.workbench import Workbench
from app.service.overview import overview
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.index import Index
from sae_core.index.feature_pages import FEATURES, WINDOW_BINS
from sae_core.index.output_scores import output_scores
from sae_core.splice import SplicedLM

EXAMPLES: dict[str, Any] = json.loads((DEMO / "bundle.json").read_text())["examples"]
AIMS = {"resid_post-layer_4-l0_32": 0.105, "mlp_out-layer_6-l0_32": 0.12}
"""FVU, as stored."""
NAMES: list[str] = json.loads((DEMO / "bundle.json").read_text())["saes"]


@pytest.fixture(scope="module")
def demo() -> Api:
    settings = Settings(threads=1, device="cpu", max_seconds=600)
    return Api(Workbench(settings, Bundle.open(DEMO)))


def test_it_stays_small() -> None:
    size = sum(path.stat().st_size for path in Path(DEMO).rglob("*") if path.is_file())
    assert size < 44e6


@pytest.mark.parametrize("name", NAMES)
def test_its_measured_quality_is_what_was_aimed_at(demo: Api, name: str) -> None:
    shown = overview(demo.workbench, name)
    measured = shown["measured"]
    assert 31 < measured["l0"] < 33
    assert 0.05 < measured["fvu"] <= AIMS[name]
    assert 0 < measured["delta_lm_loss"] < 0.3
    assert 0 < measured["kl"] < 0.4
    assert measured["loss_recovered_mean"] > 0.9
    assert measured["dead"] < 0.05
    assert shown["index"]["tokens"] >= 900_000
    assert len(shown["highlights"]) == 12
    frequencies = demo.workbench.index(name).frequencies()
    assert len(frequencies) == len(demo.workbench.bundle.load_sae(name).W_dec)
    # The index read other text, so its L0 is near the measured one, not equal to it.
    assert frequencies.sum() == pytest.approx(measured["l0"], rel=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_its_example_prompts_cost_about_what_was_measured(demo: Api, name: str) -> None:
    result = [demo.prompt_features(text, name)["totals"] for text in EXAMPLES["prompts"]]
    assert len(result) >= 3
    measured = overview(demo.workbench, name)["measured"]
    mean = {
        key: float(np.mean([totals[key] for totals in result]))
        for key in measured.keys() & result[0]
    }
    assert mean["l0"] == pytest.approx(measured["l0"], rel=0.5)
    assert mean["fvu"] < 3 * measured["fvu"]
    assert -0.1 < mean["delta_lm_loss"] < 0.5
    assert mean["ce_base"] < 5


@pytest.mark.parametrize("run", EXAMPLES["steer"], ids=lambda run: run["title"])
def test_its_steering_examples_steer(demo: Api, run: dict[str, Any]) -> None:
    settings = {key: value for key, value in run.items() if key != "title"}
    result = demo.steer(**settings)
    base, steered = ("".join(token["text"] for token in result[arm]) for arm in ("base", "steered"))
    assert base.strip()
    assert steered.strip()
    assert base != steered


@pytest.mark.parametrize("name", NAMES)
def test_features_fire_on_the_contexts_that_the_index_shows(demo: Api, name: str) -> None:
    frequencies = demo.workbench.index(name).frequencies()
    chosen = np.random.default_rng(0).choice(np.flatnonzero(frequencies > 1e-4), 30, replace=False)
    shares = []
    for feature in chosen.tolist():
        page = demo.feature(feature, name)
        (top,) = [group for group in page["groups"] if group["name"] == "top"]
        context = top["contexts"][0]
        result = demo.test_text("".join(context["tokens"]), feature, name)
        shares.append(max(result["activations"]) / page["max_act"])
    # A context is an excerpt: what came before it is missing, so the activations are lower.
    assert np.median(shares) > 0.7


@pytest.mark.parametrize("name", NAMES)
def test_what_features_write_is_what_the_model_does_when_they_are_pushed(name: str) -> None:
    bundle = Bundle.open(DEMO)
    model, tokenizer = bundle.load_model(torch.float32)
    lm = SplicedLM(model, tokenizer, {name: bundle.load_sae(name)})
    index = Index.open(bundle.index_path(name))
    best = [row["feature"] for row in index.search(sort="output_score", limit=3)["features"]]
    features = [*best, 12, 2851]
    measured = output_scores(lm, name, features)
    rows = index.summaries(features)
    stored = np.array([[rows[i]["output_score"], rows[i]["side_effect"]] for i in features])
    np.testing.assert_allclose(measured.score, stored[:, 0], rtol=1e-3)
    np.testing.assert_allclose(measured.side_effect, stored[:, 1], rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_right_of_a_threshold_is_what_fires(name: str) -> None:
    """To the token, for every feature."""
    index = Index.open(Bundle.open(DEMO).index_path(name))
    active = [round(frequency * index.meta["tokens"]) for frequency in index.frequencies()]
    for first in range(0, index.meta["d_sae"], FEATURES):
        page, _ = index._page(first)
        counts = page.pre_activation_counts.reshape(-1, WINDOW_BINS + 2)
        right = counts[:, 1 + WINDOW_BINS // 2 :].sum(axis=1)
        assert right.tolist() == active[first : first + FEATURES]
