"""Settings of a training run: `TrainConfig`, and the presets that make one.

The defaults are Gemma Scope's recipe (Lieberum et al., arXiv 2408.05147, section 3 and appendix A),
which is meant for billions of tokens. `short_run` is for runs of about 100 million.
"""

import math
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any, get_args

from sae_core.config import Architecture, Site
from sae_core.placement import DType, StoredDType
from sae_core.text_options import TextOptions
from training.options import Compile, LossOptions, Plan, RunOptions, check_choice, check_positive
from training.recipes import RECIPES

__all__ = [
    "PRESETS",
    "Compile",
    "LossOptions",
    "Plan",
    "RunOptions",
    "TrainConfig",
    "anthropic",
    "frequency",
    "gemma_scope",
    "short_run",
]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What is trained, on what and how; one pass trains every SAE that the lists combine to."""

    model: str
    """Folder or hub id of the language model (Hugging Face layout)."""
    corpus: tuple[str, ...]
    """Training text: Parquet, JSONL or text files, folders, globs, URLs, or data sets of the hub
    (user/name, maybe with /folder and @revision)."""
    sites: tuple[str, ...]
    """Where the SAEs read, e.g. resid_post/4 mlp_out/6 attn_out/2."""
    d_sae: int
    """Features of each SAE."""
    out: str
    """Folder for the SAEs, metrics.jsonl, config.json and checkpoints."""
    architectures: tuple[Architecture, ...] = ("jumprelu",)
    """What kinds of SAE; every kind is trained at every site, sparsity and learning rate."""
    l0_targets: tuple[float, ...] = ()
    """Mean active features per token to reach, or TopK's k. Exclusive with lambdas."""
    lambdas: tuple[float, ...] = ()
    """Linear penalties, loss per active feature (jumprelu) or unit of activation (gated, standard)
    and token. Exclusive with l0_targets."""
    bandwidth: float = 0.001
    """JumpReLU: width of the threshold gradient's window, for inputs scaled to a mean squared norm
    of 1."""
    threshold_init: float = 0.001
    """JumpReLU: first threshold of every feature, in the same units. 0: the one with which the
    first reconstruction is of its input's size (Gated, ReLU: a bias of minus that); b_dec starts at
    the activations' mean then, and W_enc smaller than W_dec's transpose."""
    lrs: tuple[float, ...] = ()
    """Adam's learning rates, each trained; none: the one that each architecture was published
    with (7e-5 jumprelu, 5e-5 gated and standard, 2e-4 topk)."""
    lr_warmup: float = 1_000
    """Steps of cosine warm-up from a tenth of lr; at most 1, a share of the run."""
    lr_decay: float = 0
    """Steps over which lr falls linearly to 0 at the end; at most 1, a share of the run."""
    sparsity_warmup: float = 10_000
    """Steps over which the penalty grows linearly from 0; at most 1, a share of the run."""
    batch: int = 4_096
    """Tokens per step."""
    tokens: int = 4_000_000_000
    """Tokens each SAE is trained on; beyond the corpus's size it is read again in another order."""
    context_size: int = 1_024
    """Tokens per prompt of the language model, BOS included."""
    buffer_tokens: int = 2**20
    """Activations held for shuffling, per site (d_model * 2 or 4 bytes each, on the device)."""
    eval_corpus: tuple[str, ...] = ()
    """Held-out text on which the saved SAEs are measured; none skips that."""
    eval_tokens: int = 200_000
    """Held-out tokens to measure on."""
    seed: int = 0
    """Decides initial weights and the order of the data."""
    precision: DType = "auto"
    """Dtype of the model and of the SAEs' matrix products; weights, thresholds and sums
    stay float32. `auto` is bfloat16 on CUDA, float32 on the CPU."""
    save_dtype: StoredDType = "float32"
    """Dtype of the saved matrices."""
    text: TextOptions = field(default_factory=TextOptions)
    """How documents are read from the files of corpus and eval_corpus."""
    loss: LossOptions = field(default_factory=LossOptions)
    """The loss beyond its sparsity."""
    run: RunOptions = field(default_factory=RunOptions)
    """How the run is carried out."""

    def __post_init__(self) -> None:
        for name in ("model", "corpus", "sites", "out"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty but a training run needs it.")
        if bool(self.l0_targets) == bool(self.lambdas):
            raise ValueError("give either l0_targets or lambdas, and not both.")
        check_choice("precision", self.precision, get_args(DType))
        check_choice("save_dtype", self.save_dtype, get_args(StoredDType))
        for name in ("sites", "architectures", "l0_targets", "lambdas", "lrs"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names the same value twice.")
        for text in self.sites:
            Site.parse(text)
        for value in (*self.l0_targets, *self.lambdas):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"the sparsity {value} must be a positive number.")
        for name, low in (("d_sae", 1), ("batch", 1), ("context_size", 2)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)} but must be {low} or more.")
        for target in self.l0_targets:
            if target > self.d_sae:
                raise ValueError(f"an L0 target of {target:g} is above d_sae ({self.d_sae}).")
        self._check_architectures()
        check_positive("bandwidth", self.bandwidth)
        for lr in self.lrs:
            check_positive("lr", lr)
            if self.loss.revive * self.loss.vector_rate * lr >= 1:
                raise ValueError(
                    f"revive ({self.loss.revive:g}) times vector_rate ({self.loss.vector_rate:g}) "
                    f"times lr ({lr:g}) is the share of a threshold that goes in a step: it must "
                    "be below 1."
                )
        from_0 = ("threshold_init", "lr_warmup", "lr_decay", "sparsity_warmup", "seed")
        for name in (*from_0, "eval_tokens"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value} but must be 0 or more, and finite.")
        if self.seed >= 2**31:
            raise ValueError(f"seed is {self.seed} but must be below {2**31}.")
        if self.tokens < self.batch:
            raise ValueError(f"tokens ({self.tokens}) is less than one batch ({self.batch}).")
        if self.buffer_tokens < 2 * self.batch:
            raise ValueError(
                f"buffer_tokens ({self.buffer_tokens}) must be at least two batches "
                f"({2 * self.batch}) or nothing is shuffled."
            )

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> "TrainConfig":
        """From what `dataclasses.asdict` gave and JSON kept; ValueError for unknown fields."""
        parts = {"text": TextOptions, "loss": LossOptions, "run": RunOptions}
        settings = {"text": {}, **settings}  # which came later
        unknown = set(settings) - {f.name for f in fields(cls)}
        for name, part in parts.items():
            if isinstance(settings.get(name), dict):
                unknown |= set(settings[name]) - {f.name for f in fields(part)}
        if unknown:
            raise ValueError(
                f"these settings are of another version: {', '.join(sorted(unknown))}."
            )
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()
        }
        try:
            values |= {name: part(**settings[name]) for name, part in parts.items()}
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"these settings are of another version: {error}.") from error

    def _check_architectures(self) -> None:
        if not self.architectures:
            raise ValueError("architectures is empty but a training run needs one at least.")
        for architecture in self.architectures:
            check_choice("architecture", architecture, tuple(RECIPES))
            recipe = RECIPES[architecture]
            if not recipe.has_lambda and not all(
                t.is_integer() for t in map(float, self.l0_targets)
            ):
                raise ValueError(f"{architecture} keeps k features: give whole l0_targets.")
            if not recipe.has_lambda and self.lambdas:
                raise ValueError(f"{architecture} has no lambda: give l0_targets, which are its k.")
            if not recipe.free_decoder and self.loss.decoder == "free":
                raise ValueError(
                    f"{architecture} selects by the size of pre-activations, which needs decoder "
                    "rows of norm 1: leave decoder at auto."
                )

    @property
    def steps(self) -> int:
        """Steps of the run; tokens beyond the last whole batch are left out."""
        return self.tokens // self.batch

    def in_steps(self, amount: float) -> int:
        """`amount` steps, or that share of the run when it is at most 1."""
        return round(amount * self.steps) if amount <= 1 else round(amount)

    @property
    def dead_after(self) -> float:
        """Tokens without activity after which AuxK revives a feature."""
        return self._in_tokens(self.loss.dead_after)

    @property
    def revive_after(self) -> float:
        """Tokens without activity after which a JumpReLU feature's threshold comes down."""
        return self._in_tokens(self.loss.revive_after)

    def _in_tokens(self, amount: float) -> float:
        return amount * self.steps * self.batch if amount <= 1 else amount

    @property
    def plans(self) -> list[Plan]:
        """The SAEs of the run, in order: sites, architectures, sparsities, learning rates."""
        sparsities = [(f"l0_{value:g}", value, None) for value in self.l0_targets]
        sparsities += [(f"lambda_{value:g}", None, value) for value in self.lambdas]
        plans = []
        for text, architecture in product(self.sites, self.architectures):
            site = Site.parse(text)
            kind = "" if architecture == "jumprelu" else f"-{architecture}"
            rates = self.lrs or (RECIPES[architecture].lr,)
            for (sparsity, target, lambda_), lr in product(sparsities, rates):
                rate = f"-lr_{lr:g}" if rates[1:] else ""
                plans.append(
                    Plan(
                        name=f"{site.kind}-layer_{site.layer}{kind}-{sparsity}{rate}",
                        site=site,
                        l0_target=target,
                        lambda_=lambda_,
                        architecture=architecture,
                        lr=lr,
                    )
                )
        return plans


GEMMA_SCOPE: dict[str, Any] = {}
"""Changes that the preset `gemma_scope` makes to the defaults: none."""

SHORT_RUN: dict[str, Any] = {
    "bandwidth": 0.01,
    "threshold_init": 0.0,
    "lrs": (2.5e-3,),
    "lr_warmup": 0.02,
    "lr_decay": 0.9,
    "sparsity_warmup": 0.2,
    "tokens": 100_000_000,
    "context_size": 512,
    "buffer_tokens": 2**19,
    "loss": LossOptions(
        target_coefficient=3.0,
        vector_rate=0.3,
        b_dec_rate=0.03,
        revive=10.0,
        revive_after=0.02,
        dead_after=0.05,
    ),
}
"""Changes that the preset `short_run` makes to the defaults."""

FREQUENCY: dict[str, Any] = {"loss": LossOptions(frequency_scale=0.1)}
"""Changes that the preset `frequency` makes to the defaults."""

ANTHROPIC: dict[str, Any] = {
    "bandwidth": 0.04,
    "threshold_init": 0.002,
    "lrs": (2e-4,),
    "lr_decay": 0.2,
    "sparsity_warmup": 1.0,
    "batch": 32_768,
    "loss": LossOptions(decoder="free", tanh_scale=4.0, pre_act=3e-6),
}
"""Changes that the preset `anthropic` makes to the defaults."""

PRESETS: dict[str, dict[str, Any]] = {
    "gemma_scope": GEMMA_SCOPE,
    "short_run": SHORT_RUN,
    "frequency": FREQUENCY,
    "anthropic": ANTHROPIC,
}


def gemma_scope(**changes: Any) -> TrainConfig:
    """Gemma Scope's recipe with `changes` (model, corpus, sites, d_sae, out, sparsity at least).

    Published lambdas are of the order of 6e-4 (an L0 near 50 at Gemma 2 9B's layer 20).
    """
    return _preset(GEMMA_SCOPE, changes)


def short_run(**changes: Any) -> TrainConfig:
    """A recipe for about 100 million tokens, with `changes` as in `gemma_scope`.

    A learning rate some 35 times Gemma Scope's and a wider window, because a parameter moves by
    about lr a step, a tenth of it for thresholds and biases, whose steps all go the same way when
    the L0 is off, and a start at which gradients are no larger than later ones. The rate falls over
    the last nine tenths: kept up, such a rate kills features (LOG.md). It was found for JumpReLU.
    """
    return _preset(SHORT_RUN, changes)


def frequency(**changes: Any) -> TrainConfig:
    """Gemma Scope's recipe with a penalty on features active on more than a tenth of the tokens.

    Google DeepMind, mechanistic interpretability update of March 2025 (w_0 of 0.1 and 0.01).
    """
    return _preset(FREQUENCY, changes)


def anthropic(**changes: Any) -> TrainConfig:
    """Anthropic's recipe for JumpReLU (Conerly et al., January 2025), with `changes`.

    Bandwidth 2 and first threshold 0.1 are for inputs of mean norm sqrt(d_model); here they are
    divided by the root of Gemma 2 2B's 2,304. Their lambda of 10 to 20 is 10 / d_model to
    20 / d_model here. Not taken over: first encoder biases set from data, gradient clipping,
    and straight-through gradients for the encoder.
    """
    return _preset(ANTHROPIC, changes)


def _preset(preset: dict[str, Any], changes: dict[str, Any]) -> TrainConfig:
    names = {f.name for f in fields(TrainConfig)}
    if unknown := sorted(set(changes) - names):
        raise ValueError(f"a training configuration has no field {', '.join(unknown)}.")
    return TrainConfig(**{**preset, **changes})
