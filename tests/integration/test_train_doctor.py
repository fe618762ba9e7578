"""Every check of the doctor, provoked by a run with bad settings; and a run with nothing to say."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from tests import tiny
from training.doctor import CHECKS, OF_L0, Goal, examine, lambda_saturated
from training.loop import train
from training.losses.base import Limits
from training.options import StepKind
from training.progress import METRICS_FILE, Progress, read_metrics
from training.train_config import LossOptions, RunOptions, TrainConfig, short_run

STEPS, BATCH = 150, 128

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "too-short": (
        {"tokens": 99 * BATCH, "lrs": (1e-9,), "sparsity_warmup": 10_000},
        "a run of 99 steps is too short to train an SAE or to judge it by: give tokens 12,800 or",
    ),
    "thresholds-frozen": (
        {"lrs": (1e-9,), "threshold_init": 0.01},
        "thresholds are where they began (0.01): raise lrs or bandwidth",
    ),
    "ends-in-warm-up": (
        {"l0_targets": (), "lambdas": (1e-9,), "sparsity_warmup": 10_000},
        "before its penalty is at full strength (after 10,000): train longer or shorten",
    ),
    "lambda-saturated": (
        {"l0_targets": (2,), "loss": LossOptions(target_coefficient=1e-3), "tokens": 400 * BATCH},
        "the penalty is as strong as it gets and the L0 is",
    ),
    "all-dead": (
        {"l0_targets": (), "lambdas": (100.0,), "bandwidth": 1.0},
        "are active per token: lower lambdas or lrs",
    ),
    "many-dead": (
        {"lrs": (1e-3,), "d_sae": 512, "threshold_init": 0.55},
        "of the features are dead: set revive (10), lower lrs, or have fewer features (d_sae)",
    ),
    "all-dense": (
        {"l0_targets": (), "lambdas": (1e-9,)},
        "of 64 features are active per token, which is not sparse: raise lambdas",
    ),
    "bandwidth-narrow": (
        {"bandwidth": 1e-9},
        "pre-activations per step: make bandwidth (1e-09) larger",
    ),
    "l0-far": (
        {"lrs": (1e-5,), "d_sae": 512},
        "above its target of 6: train longer, or raise lrs",
    ),
}


@pytest.fixture(scope="module")
def cfg(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> TrainConfig:
    """A run of 150 steps with nothing wrong about it."""
    folder = tmp_path_factory.mktemp("doctor")
    tiny_model.save_pretrained(folder / "lm")
    tiny_tokenizer.save_pretrained(folder / "lm")
    return short_run(
        model=str(folder / "lm"),
        corpus=(str(tiny.make_corpus(folder / "text.parquet", count=120)),),
        sites=("resid_post/1",),
        d_sae=64,
        out=str(folder / "run"),
        l0_targets=(6,),
        batch=BATCH,
        tokens=STEPS * BATCH,
        context_size=32,
        buffer_tokens=1_024,
        bandwidth=0.05,
        lrs=(5e-3,),
        lr_warmup=10,
        lr_decay=0.5,
        loss=LossOptions(target_coefficient=3.0),
    )


def _lines(cfg: TrainConfig) -> list[dict[str, Any]]:
    return read_metrics(Path(cfg.out) / METRICS_FILE)


@pytest.mark.parametrize("check", BAD)
def test_bad_settings_are_found_and_said(
    cfg: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, check: str
) -> None:
    changes, sentence = BAD[check]
    with caplog.at_level(logging.WARNING):
        (result,) = train(replace(cfg, out=str(tmp_path), **changes))
    actual = {finding.check: finding.sentence for finding in result.findings}
    assert sentence in actual[check]
    assert "\n" not in actual[check]
    assert _lines(replace(cfg, out=str(tmp_path)))[-1]["findings"][check] == actual[check]
    said = [record.message for record in caplog.records if f": {check}: " in record.message]
    assert 1 <= len(said) <= 3  # once for each time that it appeared
    saved = json.loads((result.folder / "cfg.json").read_text())
    training = saved["metadata"]["jumpscope"]["training"]
    assert actual[check] in training["findings"]


def test_a_run_without_mistakes_ends_without_findings(
    cfg: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = replace(cfg, out=str(tmp_path), tokens=600 * BATCH)
    with caplog.at_level(logging.INFO):
        (result,) = train(here)
    assert result.findings == ()
    assert _lines(here)[-1]["findings"] == {}
    assert "doctor" not in caplog.text


def test_a_finding_that_gives_way_to_another_of_the_l0_is_not_over(
    cfg: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At no learning rate to speak of nothing changes, but the multiplier grows to its bound."""
    here = replace(cfg, out=str(tmp_path), lrs=(1e-9,), tokens=400 * BATCH)
    with caplog.at_level(logging.INFO):
        train(here)
    actual = [check for line in _lines(here) for check in line["findings"] if check in OF_L0]
    assert list(dict.fromkeys(actual)) == ["all-dense", "lambda-saturated"]
    assert "is over" not in caplog.text


def test_a_multiplier_at_its_bound_is_no_finding_beside_the_target(cfg: TrainConfig) -> None:
    plan = cfg.plans[0]
    goal = Goal(cfg, plan, Limits(most=1.0, bound=2.0))
    for l0, actual in ((6.1, False), (6.5, True), (5.9, False), (5.0, True)):
        line = {"multiplier": 2.0, "l0": l0}
        assert bool(lambda_saturated([line], goal, False)) == actual


@pytest.mark.parametrize(
    ("changes", "check", "change"),
    [
        (
            {"loss": LossOptions(vector_rate=0.01)},
            "all-dense",
            "not sparse: raise lrs or vector_rate",
        ),
        ({"architectures": ("gated",), "lrs": (1e-6,)}, "all-dense", "not sparse: raise lrs."),
    ],
    ids=["slow vectors", "a coefficient that gated has not"],
)
def test_what_to_change_is_what_the_run_has(
    cfg: TrainConfig, tmp_path: Path, changes: dict[str, Any], check: str, change: str
) -> None:
    (result,) = train(replace(cfg, out=str(tmp_path), **changes))
    (actual,) = [finding.sentence for finding in result.findings if finding.check == check]
    assert change in actual


@pytest.mark.parametrize("step", ["dense", "sparse"])
def test_revived_features_are_not_dead(cfg: TrainConfig, tmp_path: Path, step: StepKind) -> None:
    bad = replace(cfg, **BAD["many-dead"][0], run=RunOptions(step=step))
    dead = {}
    for revive in (0.0, 10.0):
        loss = replace(cfg.loss, revive=revive, revive_after=0.02)
        here = replace(bad, loss=loss, out=str(tmp_path / str(revive)))
        train(here)
        dead[revive] = _lines(here)[-1]["dead"]
    assert dead[0.0] > 0.25
    assert dead[10.0] == 0


def test_one_l0_is_one_finding(cfg: TrainConfig, tmp_path: Path) -> None:
    """An L0 far above its target, in a run that ends in its warm-up, which TopK has none of."""
    changes = {"sparsity_warmup": 10_000, "lrs": (1e-4,), "loss": LossOptions(vector_rate=0.01)}
    changes["architectures"] = ("jumprelu", "topk")
    results = train(replace(cfg, out=str(tmp_path), **changes))
    assert [[f.check for f in result.findings] for result in results] == [["ends-in-warm-up"], []]


def test_fitted_thresholds_that_stay_are_found_frozen(cfg: TrainConfig, tmp_path: Path) -> None:
    assert cfg.threshold_init == 0
    (result,) = train(replace(cfg, out=str(tmp_path), lrs=(1e-9,), d_sae=512))
    (actual,) = [f for f in result.findings if f.check == "thresholds-frozen"]
    assert "thresholds are where they began (0." in actual.sentence


def test_a_loss_that_is_not_finite_ends_the_run(cfg: TrainConfig, tmp_path: Path) -> None:
    here = replace(cfg, out=str(tmp_path), lrs=(1e30,))
    with pytest.raises(ValueError, match=r"no longer finite at step .*: lower lrs, or check"):
        train(here)
    last = _lines(here)[-1]
    assert last["loss"] is None
    assert list(last["findings"]) == ["loss-not-finite"]


def test_outliers_among_the_activations(
    cfg: TrainConfig, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    # One token of the vocabulary has an embedding a hundred times as long as the others.
    model = tiny.make_model()
    (token,) = tiny_tokenizer.encode(".", add_special_tokens=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[token] *= 100
    model.save_pretrained(tmp_path / "lm")
    tiny_tokenizer.save_pretrained(tmp_path / "lm")
    here = replace(cfg, model=str(tmp_path / "lm"), out=str(tmp_path / "run"))
    (result,) = train(here)
    (actual,) = [f for f in result.findings if f.check == "outliers"]
    assert "activations at resid_post/1 are up to" in actual.sentence
    assert "leave those tokens out" in actual.sentence


def test_every_check_is_provoked_here() -> None:
    assert {*BAD, "loss-not-finite", "outliers"} == set(CHECKS)


def _line(step: int, **numbers: float) -> dict[str, Any]:
    """A line of a run in which all is as it should be, but for these numbers."""
    thresholds = {f"threshold_{q}": float(step) for q in ("p05", "p50", "p95")}
    good = {"loss": 1.0, "l0": 6.0, "dead": 0.0, "multiplier": 0.0, "in_window": 0.1}
    good |= {"norm_p50": 1.0, "norm_max": 2.0, "tokens": step * BATCH}
    return {"step": step, **thresholds, **good, **numbers}


# Check -> its number, values around its limit, one well inside it, and the limit's other side.
AROUND: dict[str, tuple[str, tuple[float, float], float]] = {
    "l0-far": ("l0", (6.7, 6.5), 6.1),
    "lambda-saturated": ("multiplier", (1.0, 0.97), 0.5),
    "all-dead": ("dead", (0.91, 0.89), 0.1),
    "many-dead": ("dead", (0.26, 0.24), 0.1),
    "all-dense": ("l0", (17.0, 15.0), 6.0),
    "bandwidth-narrow": ("in_window", (0.9 * 0.05 / BATCH, 1.1 * 0.05 / BATCH), 0.1),
    "outliers": ("norm_max", (11.0, 9.5), 2.0),
}


@pytest.mark.parametrize("check", AROUND)
def test_a_number_around_its_limit_is_one_finding_until_it_is_well_inside(
    cfg: TrainConfig, check: str
) -> None:
    name, around, inside = AROUND[check]
    here = replace(cfg, tokens=1000 * BATCH, sparsity_warmup=0.1)
    goal = Goal(here, here.plans[0], Limits(most=1.0, bound=1.0))
    # Beside its target the multiplier may be where it likes.
    others = {"l0": 6.5} if check == "lambda-saturated" else {}
    lines: list[dict[str, Any]] = []
    actual = []
    for n, value in enumerate([around[1], *(3 * around[:1]), *(10 * around), *(3 * (inside,))]):
        lines.append(_line(500 + n, **others, **{name: value}))
        findings = examine(lines, goal)
        lines[-1]["findings"] = {finding.check: finding.sentence for finding in findings}
        actual.append(check in lines[-1]["findings"])
    changes = [n for n in range(1, len(actual)) if actual[n] != actual[n - 1]]
    assert len(changes) == 2
    assert not actual[0]
    assert not actual[-1]
    assert changes[1] >= 24, "it ends with the values that are well inside"


def test_the_last_line_has_the_last_word_on_the_l0(cfg: TrainConfig) -> None:
    goal = Goal(cfg, cfg.plans[0], Limits(most=1.0, bound=1.0))
    far = _line(STEPS - 1, l0=6.12) | {"findings": {"l0-far": "said"}}
    assert examine([far, _line(STEPS, l0=6.12)], goal) == []
    (finding,) = examine([far, _line(STEPS, l0=7.0)], goal)
    assert finding.check == "l0-far"


def test_nothing_else_is_said_of_a_few_steps(cfg: TrainConfig) -> None:
    here = replace(cfg, tokens=20 * BATCH, sparsity_warmup=10_000)
    goal = Goal(here, here.plans[0], Limits(most=1.0, bound=1.0))
    for step in (1, 10, 20):
        awful = _line(step, l0=60.0, dead=0.95, norm_max=1000.0, in_window=0.0, multiplier=1.0)
        assert [finding.check for finding in examine([awful], goal)] == ["too-short"]
    assert [f.check for f in examine([_line(1) | {"loss": None}], goal)] == ["loss-not-finite"]


def test_findings_come_and_go_once(
    cfg: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # So dense at first that the lines before the thresholds have moved say so; later ones do not.
    bad = replace(cfg, out=str(tmp_path), sparsity_warmup=0, lrs=(1e-3,), tokens=500 * BATCH)
    bad = replace(bad, l0_targets=(), lambdas=(0.05,))
    with caplog.at_level(logging.INFO):
        train(bad)
    said = [record.message for record in caplog.records if "all-dense" in record.message]
    assert len(said) == 2
    assert "is not sparse: raise lambdas" in said[0]
    assert said[1].endswith("all-dense is over")
    flagged = ["all-dense" in line["findings"] for line in _lines(bad)]
    assert flagged == sorted(flagged, reverse=True)
    assert flagged[0]
    assert not flagged[-1]


def test_the_progress_line_shows_findings_and_a_full_disk_loses_a_line(
    cfg: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    goal = Goal(cfg, cfg.plans[0], Limits(0.1, 1.0))
    (tmp_path / METRICS_FILE).symlink_to("/dev/full")
    with Progress(tmp_path, [goal], start=0, steps=5, batch=BATCH, board=False) as progress:
        progress.log(1, cfg.plans[0].name, {"loss": float("nan"), "l0": 4.0, "fvu": 0.5})
        progress.show()
        name = "resid_post-layer_1-l0_6"
        assert progress._bar.postfix == f"{name}: L0 4.0 FVU 0.5000 ! loss-not-finite"
    assert "no space left on the disk" in caplog.text


def test_what_is_logged_stands_on_lines_of_its_own(
    cfg: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console, root = logging.StreamHandler(sys.stderr), logging.getLogger()
    root.addHandler(console)
    goal = Goal(cfg, cfg.plans[0], Limits(0.1, 1.0))
    try:
        with Progress(tmp_path, [goal], start=0, steps=5, batch=BATCH, board=False):
            root.warning("dense steps from here on")
        assert console in root.handlers
    finally:
        root.removeHandler(console)
    # The bar is wiped away first: without that, its text stands before the message.
    assert "\rdense steps from here on\n" in capsys.readouterr().err
