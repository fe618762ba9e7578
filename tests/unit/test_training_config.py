"""Training settings: what is refused, what presets mean, how SAEs are named."""

import dataclasses
import json
from dataclasses import replace
from typing import Any

import pytest

from sae_core.config import Site
from training.train_config import (
    PRESETS,
    LossOptions,
    RunOptions,
    TrainConfig,
    gemma_scope,
    short_run,
)

BASE: dict[str, Any] = {
    "model": "google/gemma-2-2b",
    "corpus": ("train.parquet",),
    "sites": ("resid_post/12", "mlp_out/6"),
    "d_sae": 16_384,
    "out": "runs/a",
}


def test_defaults_are_gemma_scopes() -> None:
    cfg = gemma_scope(**BASE, lambdas=(6e-4,))
    assert cfg == TrainConfig(**BASE, lambdas=(6e-4,))
    assert ([plan.lr for plan in cfg.plans], cfg.lr_warmup, cfg.lr_decay) == ([7e-5] * 2, 1_000, 0)
    assert (cfg.sparsity_warmup, cfg.bandwidth, cfg.threshold_init) == (10_000, 0.001, 0.001)
    assert (cfg.batch, cfg.loss.kernel, cfg.save_dtype) == (4_096, "rectangle", "float32")
    assert cfg.steps == 976_562


def test_short_run_takes_shares_of_the_run_and_changes() -> None:
    cfg = short_run(**BASE, l0_targets=(32,), tokens=40_960_000, lrs=(1e-3,))
    assert cfg.steps == 10_000
    assert (cfg.in_steps(cfg.lr_decay), cfg.in_steps(cfg.sparsity_warmup)) == (9_000, 2_000)
    assert cfg.plans[0].lr == 1e-3
    with pytest.raises(ValueError, match="no field learning_rate"):
        short_run(**BASE, l0_targets=(32,), learning_rate=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_change_known_fields(preset: str) -> None:
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    assert set(PRESETS[preset]) <= known
    TrainConfig(**{**BASE, "lambdas": (1e-3,), **PRESETS[preset]})


def test_every_site_is_trained_at_every_sparsity() -> None:
    plans = TrainConfig(**BASE, l0_targets=(32, 64.5)).plans
    assert [plan.name for plan in plans] == [
        "resid_post-layer_12-l0_32",
        "resid_post-layer_12-l0_64.5",
        "mlp_out-layer_6-l0_32",
        "mlp_out-layer_6-l0_64.5",
    ]
    assert plans[2].site == Site("mlp_out", 6)
    assert (plans[1].l0_target, plans[1].lambda_) == (64.5, None)
    (plan, _) = TrainConfig(**BASE, lambdas=(6e-4,)).plans
    assert plan.name == "resid_post-layer_12-lambda_0.0006"
    assert (plan.l0_target, plan.lambda_) == (None, 6e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "model is empty"),
        ({"corpus": ()}, "corpus is empty"),
        ({"sites": ()}, "sites is empty"),
        ({"out": ""}, "out is empty"),
        ({"lambdas": ()}, "either l0_targets or lambdas"),
        ({"l0_targets": (32,)}, "not both"),
        ({"lambdas": (1e-3, 1e-3)}, "lambdas names the same value twice"),
        ({"sites": ("mlp_out/1", "mlp_out/1")}, "sites names the same value twice"),
        ({"sites": ("resid_post",)}, "not of the form KIND/LAYER"),
        ({"architectures": ()}, "architectures is empty"),
        ({"architectures": ("topk", "topk")}, "architectures names the same value twice"),
        ({"architectures": ("vanilla",)}, "architecture 'vanilla' is unknown: use one of jumprelu"),
        ({"architectures": ("topk",)}, "topk has no lambda: give l0_targets, which are its k"),
        (
            {"architectures": ("topk",), "lambdas": (), "l0_targets": (2.5,)},
            "topk keeps k features: give whole l0_targets",
        ),
        ({"precision": "float16"}, "precision 'float16' is unknown"),
        ({"save_dtype": "int8"}, "save_dtype 'int8' is unknown"),
        ({"lambdas": (0.0,)}, "must be a positive number"),
        ({"lambdas": (), "l0_targets": (20_000,)}, "above d_sae"),
        ({"bandwidth": 0.0}, "bandwidth is 0.0 but must be a positive number"),
        ({"lrs": (float("nan"),)}, "lr is nan"),
        ({"threshold_init": -1.0}, "threshold_init is -1.0"),
        ({"threshold_init": float("inf")}, "threshold_init is inf but must be 0 or more, and fin"),
        ({"sparsity_warmup": -1}, "sparsity_warmup is -1 but must be 0 or more"),
        ({"seed": 2**31}, "seed is 2147483648"),
        ({"d_sae": 0}, "d_sae is 0"),
        ({"context_size": 1}, "context_size is 1"),
        ({"tokens": 100}, "less than one batch"),
        ({"buffer_tokens": 4_096}, "buffer_tokens .4096. must be at least two batches"),
    ],
)
def test_mistakes_get_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        TrainConfig(**{**BASE, "lambdas": (1e-3,), **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": "boxcar"}, "kernel 'boxcar' is unknown: use one of rectangle"),
        ({"decoder": "tied"}, "decoder 'tied' is unknown: use one of auto"),
        ({"target_coefficient": 0.0}, "target_coefficient is 0.0 but must be a positive number"),
        ({"dead_after": -1}, "dead_after is -1"),
        ({"beta1": 1.0}, "beta1 is 1.0 but must be at least 0 and below 1"),
        ({"b_dec_rate": 0.0}, "b_dec_rate is 0.0 but must be a positive number"),
        ({"revive": -1.0}, "revive is -1.0 but must be 0 or more"),
        ({"vector_rate": 0.0}, "vector_rate is 0.0 but must be a positive number"),
        ({"frequency_scale": -0.1}, "frequency_scale is -0.1 but must be 0 or more"),
        ({"frequency_scale": 0.1, "tanh_scale": 4.0}, "which tanh_scale replaces: give one"),
    ],
)
def test_loss_options_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossOptions(**changes)


def test_topk_needs_decoder_rows_of_one_norm() -> None:
    options = {**BASE, "l0_targets": (32,), "architectures": ("topk",)}
    with pytest.raises(ValueError, match="needs decoder rows of norm 1: leave decoder at auto"):
        TrainConfig(**options, loss=LossOptions(decoder="free"))


def test_architectures_and_learning_rates_combine() -> None:
    cfg = TrainConfig(
        **{**BASE, "sites": ("mlp_out/6",)},
        architectures=("jumprelu", "topk"),
        l0_targets=(32,),
        lrs=(1e-3, 2.5e-3),
    )
    assert [(plan.name, plan.architecture, plan.lr) for plan in cfg.plans] == [
        ("mlp_out-layer_6-l0_32-lr_0.001", "jumprelu", 1e-3),
        ("mlp_out-layer_6-l0_32-lr_0.0025", "jumprelu", 2.5e-3),
        ("mlp_out-layer_6-topk-l0_32-lr_0.001", "topk", 1e-3),
        ("mlp_out-layer_6-topk-l0_32-lr_0.0025", "topk", 2.5e-3),
    ]
    own = replace(cfg, lrs=(), architectures=("jumprelu", "gated", "topk", "standard"))
    assert [plan.lr for plan in own.plans] == [7e-5, 5e-5, 2e-4, 5e-5]


def test_silence_may_be_a_share_of_the_run() -> None:
    cfg = TrainConfig(**BASE, lambdas=(1e-3,), tokens=4_096 * 1_000)
    assert cfg.dead_after == 10_000_000
    assert replace(cfg, loss=LossOptions(dead_after=0.25)).dead_after == 4_096 * 250
    assert replace(cfg, loss=LossOptions(revive_after=0.5)).revive_after == 4_096 * 500


def test_a_step_must_leave_something_of_a_threshold() -> None:
    cfg = TrainConfig(**BASE, lambdas=(1e-3,), lrs=(0.1,))
    with pytest.raises(ValueError, match=r"revive \(10\) times vector_rate .* must be below 1"):
        replace(cfg, loss=LossOptions(revive=10))


def test_run_options_are_checked() -> None:
    for changes in ({"device": "tpu"}, {"compile": "yes"}, {"checkpoint_every": -1}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            RunOptions(**changes)  # pyright: ignore[reportArgumentType]


def test_a_configuration_is_json_and_has_few_fields() -> None:
    cfg = short_run(**BASE, l0_targets=(32,))
    assert json.loads(json.dumps(dataclasses.asdict(cfg)))["run"]["compile"] == "auto"
    assert len(dataclasses.fields(TrainConfig)) <= 26
