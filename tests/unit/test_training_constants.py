"""Numbers that were published or measured, by value: one that changes in the code fails here.

Other tests take them from the code, and hold for any value.
"""

from dataclasses import MISSING, asdict, fields
from math import inf
from typing import Any

import pytest

from sae_core.config import Architecture
from training import assembly, doctor, listed_step, muon, optim, sparse_step, step, trained_form
from training.losses import GatedLoss, JumpReLULoss, ReLULoss, TopKLoss, topk_loss
from training.losses.jumprelu_loss import Extras
from training.options import LossOptions, Plan, RunOptions
from training.recipes import RECIPES, Recipe, Rule
from training.train_config import PRESETS, TrainConfig


def test_published_constants() -> None:
    # Gao et al. (arXiv 2406.04093): alpha = 1/32.
    assert topk_loss.AUX_WEIGHT == 1 / 32
    # Gemma Scope (arXiv 2408.05147): Adam with betas (0, 0.999), eps 1e-8.
    assert (optim.BETA2, optim.EPS) == (0.999, 1e-8)
    # Jordan's quintic, five steps of it.
    assert (muon._A, muon._B, muon._C) == (3.4445, -4.7750, 2.0315)
    assert (muon._NEWTON_SCHULZ_STEPS, muon._EPS) == (5, 1e-7)


def test_measured_constants() -> None:
    assert (trained_form.THRESHOLD_FLOOR, trained_form.EASE) == (1e-6, 0.85)
    assert (step.DEAD_TOKENS, step.MAX_TOKENS_SINCE_FIRED) == (1_000_000, 16_777_216)
    assert (assembly.SETTLE, assembly.FEWEST_SETTLING, assembly.TANH_LAMBDA) == (0.02, 50, 0.005)
    assert assembly.SPARSE_FROM == {
        "jumprelu": 8_192,
        "topk": 8_192,
        "gated": 32_768,
        "standard": 32_768,
    }
    assert (sparse_step.MOST, listed_step.MOST, listed_step.PAUSE) == (1 / 64, 1 / 128, 15)


def test_limits_of_the_multiplier() -> None:
    assert JumpReLULoss(bandwidth=0.1).limits == (0.1, 1.0)
    assert JumpReLULoss(bandwidth=0.1, extras=Extras(tanh=4.0)).limits == (1.0, 10.0)
    for loss in (GatedLoss(), ReLULoss(), TopKLoss(k=1, dead_tokens=1)):
        assert loss.limits == (1.0, 10.0)


def test_limits_of_the_doctor() -> None:
    limits = {
        name: value
        for name, value in vars(doctor).items()
        if name.isupper() and isinstance(value, int | float) and name != "DEAD_TOKENS"
    }
    assert limits == {
        "LEAST_STEPS": 100,
        "CALM": 2 / 3,
        "FROZEN": 0.01,
        "LEAST_DRIFT": 10,
        "SATURATED": 0.99,
        "FULL_COEFFICIENT": 1.0,
        "ALL_DEAD": 0.9,
        "MANY_DEAD": 0.25,
        "FEWEST_ACTIVE": 0.5,
        "ALL_DENSE": 0.25,
        "FEWEST_IN_WINDOW": 0.05,
        "OUTLIER": 10,
        "FAR": 0.1,
        "FAR_AT_END": 0.03,
        "RECENT": 3,
        "SETTLED": 0.3,
    }


PLAIN_RULE: dict[str, Any] = {
    "beta1": 0.0,
    "vector_rate": 1.0,
    "b_dec_rate": 1.0,
    "revive": 0.0,
    "dead_tokens": inf,
    "unit_norm": True,
    "clip": None,
}
PLAIN_RECIPE: dict[str, Any] = {
    "starts_at_mean": False,
    "opener": None,
    "shrinks": False,
    "first_lambda": None,
    "has_lambda": True,
    "free_decoder": True,
}
PUBLISHED: dict[Architecture, dict[str, Any]] = {
    "jumprelu": {
        "lr": 7e-5,
        "rule": {},
        "biases": ("b_enc", "threshold"),
        "opener": "threshold",
    },
    "gated": {
        "lr": 5e-5,
        "rule": {"unit_norm": False, "clip": 1.0},
        "biases": ("b_gate", "b_mag", "r_mag"),
        "opener": "b_gate",
        "first_lambda": 0.1,
    },
    "topk": {
        "lr": 2e-4,
        "rule": {"beta1": 0.9, "clip": 1.0},
        "biases": ("b_enc",),
        "starts_at_mean": True,
        "has_lambda": False,
        "free_decoder": False,
    },
    "standard": {
        "lr": 5e-5,
        "rule": {"beta1": 0.9, "unit_norm": False, "clip": 1.0},
        "biases": ("b_enc",),
        "opener": "b_enc",
        "shrinks": True,
        "first_lambda": 0.1,
    },
}


def test_recipes() -> None:
    assert RECIPES.keys() == PUBLISHED.keys()
    for architecture, published in PUBLISHED.items():
        rule = {**PLAIN_RULE, **published["rule"]}
        expected = {**PLAIN_RECIPE, **published, "rule": rule}
        assert asdict(RECIPES[architecture]) == expected, architecture
    assert asdict(Rule()) == PLAIN_RULE
    assert _defaults(Recipe) == PLAIN_RECIPE


def _defaults(of: type) -> dict[str, Any]:
    """Defaults of a dataclass's fields, those that are dataclasses themselves left out."""
    return {f.name: f.default for f in fields(of) if f.default is not MISSING}


def test_defaults_of_the_settings() -> None:
    assert _defaults(TrainConfig) == {
        "architectures": ("jumprelu",),
        "l0_targets": (),
        "lambdas": (),
        "bandwidth": 0.001,
        "threshold_init": 0.001,
        "lrs": (),
        "lr_warmup": 1_000,
        "lr_decay": 0,
        "sparsity_warmup": 10_000,
        "batch": 4_096,
        "tokens": 4_000_000_000,
        "context_size": 1_024,
        "buffer_tokens": 1_048_576,
        "eval_corpus": (),
        "eval_tokens": 200_000,
        "seed": 0,
        "precision": "auto",
        "save_dtype": "float32",
    }
    assert asdict(LossOptions()) == {
        "target_coefficient": 1.0,
        "kernel": "rectangle",
        "decoder": "auto",
        "beta1": None,
        "vector_rate": 1.0,
        "b_dec_rate": 1.0,
        "revive": 0.0,
        "revive_after": 10_000_000,
        "frequency_scale": 0.0,
        "tanh_scale": 0.0,
        "pre_act": 0.0,
        "dead_after": 10_000_000,
    }
    assert asdict(RunOptions()) == {
        "device": "auto",
        "compile": "auto",
        "step": "auto",
        "checkpoint_every": 5_000,
        "index_tokens": 20_000,
        "tensorboard": False,
    }
    assert _defaults(Plan) == {"architecture": "jumprelu", "lr": 7e-5}


PRESET_CHANGES: dict[str, dict[str, Any]] = {
    "gemma_scope": {},
    "short_run": {
        "bandwidth": 0.01,
        "threshold_init": 0.0,
        "lrs": (2.5e-3,),
        "lr_warmup": 0.02,
        "lr_decay": 0.9,
        "sparsity_warmup": 0.2,
        "tokens": 100_000_000,
        "context_size": 512,
        "buffer_tokens": 524_288,
        "loss": {
            "target_coefficient": 3.0,
            "vector_rate": 0.3,
            "b_dec_rate": 0.03,
            "revive": 10.0,
            "revive_after": 0.02,
            "dead_after": 0.05,
        },
    },
    "frequency": {"loss": {"frequency_scale": 0.1}},
    "anthropic": {
        "bandwidth": 0.04,
        "threshold_init": 0.002,
        "lrs": (2e-4,),
        "lr_decay": 0.2,
        "sparsity_warmup": 1.0,
        "batch": 32_768,
        "loss": {"decoder": "free", "tanh_scale": 4.0, "pre_act": 3e-6},
    },
}


def test_presets_are_those_that_are_known() -> None:
    assert PRESETS.keys() == PRESET_CHANGES.keys()


@pytest.mark.parametrize("name", PRESET_CHANGES)
def test_presets(name: str) -> None:
    changes = dict(PRESET_CHANGES[name])
    loss = changes.pop("loss", {})
    made = dict(PRESETS[name])
    assert made.pop("loss", LossOptions()) == LossOptions(**loss)
    assert made == changes
