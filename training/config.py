"""Settings of a training run: `TrainConfig`, and the presets that make one.

The defaults are Gemma Scope's recipe (Lieberum et al., arXiv 2408.05147, section 3 and appendix A),
which is meant for billions of tokens. `short_run` is for runs of about 100 million.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from sae_core.config import Site
from sae_core.jumprelu import KERNELS, Kernel
from sae_core.placement import Device, Precision

Compile = Literal["auto", "off", "default", "cuda-graph"]


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} {value!r} is unknown: use one of {', '.join(known)}.")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out; nothing here is meant to change what it learns."""

    device: Device = "auto"
    """Where model and SAEs are; `auto` is CUDA if there is a device, else the processor."""
    compile: Compile = "auto"
    """torch.compile for the SAE step; `auto` is `default` on CUDA and `off` elsewhere. `cuda-graph`
    (CUDA only) also records the compiled step of all SAEs and replays it as a whole."""
    checkpoint_every: int = 5_000
    """Steps between checkpoints; 0 saves one only at the end and when interrupted."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard, to OUT/tensorboard."""

    def __post_init__(self) -> None:
        _known("device", self.device, get_args(Device))
        _known("compile", self.compile, get_args(Compile))
        if self.checkpoint_every < 0:
            raise ValueError(
                f"checkpoint_every is {self.checkpoint_every} but must be 0 or more steps."
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One SAE of a run: its name, where it reads, and what holds its L0 down."""

    name: str
    site: Site
    l0_target: float | None
    lambda_: float | None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What is trained, on what and how. Every site is trained at every sparsity, in one pass."""

    model: str
    """Folder or hub id of the language model (Hugging Face layout)."""
    corpus: tuple[str, ...]
    """Training text: Parquet, JSONL or text files, folders, globs or URLs."""
    sites: tuple[str, ...]
    """Where the SAEs read, e.g. resid_post/4 mlp_out/6 attn_out/2."""
    d_sae: int
    """Features of each SAE."""
    out: str
    """Folder for the SAEs, metrics.jsonl, config.json and checkpoints."""
    l0_targets: tuple[float, ...] = ()
    """Mean active features per token to reach: the penalty is
    target_coefficient * (batch mean L0 / target - 1)^2. Exclusive with lambdas."""
    lambdas: tuple[float, ...] = ()
    """Linear penalties, loss per active feature and token. Exclusive with l0_targets."""
    target_coefficient: float = 1.0
    """Strength of the penalty of l0_targets (the loss is about the FVU, so of order 1)."""
    bandwidth: float = 0.001
    """Width of the threshold gradient's window, for inputs scaled to a mean squared norm of 1."""
    kernel: Kernel = "rectangle"
    """Shape of that window."""
    threshold_init: float = 0.001
    """First threshold of every feature, for inputs scaled to a mean squared norm of 1."""
    lr: float = 7e-5
    """Adam's learning rate."""
    lr_warmup: float = 1_000
    """Steps of cosine warm-up from a tenth of lr; below 1, a share of the run."""
    lr_decay: float = 0
    """Steps over which lr falls linearly to 0 at the end; below 1, a share of the run."""
    sparsity_warmup: float = 10_000
    """Steps over which the penalty grows linearly from 0; below 1, a share of the run."""
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
    precision: Precision = "auto"
    """Number format of the model and of the SAEs' matrix products; weights, thresholds and sums
    stay float32. `auto` is bfloat16 on CUDA, float32 on the processor."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the saved matrices."""
    run: RunOptions = field(default_factory=RunOptions)
    """How the run is carried out."""

    def __post_init__(self) -> None:
        for name in ("model", "corpus", "sites", "out"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty but a training run needs it.")
        if bool(self.l0_targets) == bool(self.lambdas):
            raise ValueError("give either l0_targets or lambdas, and not both.")
        _known("kernel", self.kernel, KERNELS)
        _known("precision", self.precision, get_args(Precision))
        _known("save_dtype", self.save_dtype, ("float32", "bfloat16"))
        for name in ("sites", "l0_targets", "lambdas"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names the same value twice.")
        for text in self.sites:
            Site.parse(text)
        for value in (*self.l0_targets, *self.lambdas):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"the sparsity {value} must be a positive number.")
        for target in self.l0_targets:
            if target > self.d_sae:
                raise ValueError(f"an L0 target of {target:g} is above d_sae ({self.d_sae}).")
        for name in ("bandwidth", "threshold_init", "lr", "target_coefficient"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value} but must be a positive number.")
        for name in ("lr_warmup", "lr_decay", "sparsity_warmup", "seed", "eval_tokens"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)} but must be 0 or more.")
        if self.seed >= 2**31:
            raise ValueError(f"seed is {self.seed} but must be below {2**31}.")
        for name, low in (("d_sae", 1), ("batch", 1), ("context_size", 2)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)} but must be {low} or more.")
        if self.tokens < self.batch:
            raise ValueError(f"tokens ({self.tokens}) is less than one batch ({self.batch}).")
        if self.buffer_tokens < 2 * self.batch:
            raise ValueError(
                f"buffer_tokens ({self.buffer_tokens}) must be at least two batches "
                f"({2 * self.batch}) or nothing is shuffled."
            )

    @property
    def steps(self) -> int:
        """Steps of the run; tokens beyond the last whole batch are left out."""
        return self.tokens // self.batch

    def in_steps(self, amount: float) -> int:
        """`amount` steps, or that share of the run when it is below 1."""
        return round(amount * self.steps) if amount < 1 else round(amount)

    @property
    def plans(self) -> list[Plan]:
        """The SAEs of the run, in order: sites, and within each the sparsities."""
        found = []
        for text in self.sites:
            site = Site.parse(text)
            where = f"{site.kind}-layer_{site.layer}"
            found += [
                Plan(name=f"{where}-l0_{value:g}", site=site, l0_target=value, lambda_=None)
                for value in self.l0_targets
            ]
            found += [
                Plan(name=f"{where}-lambda_{value:g}", site=site, l0_target=None, lambda_=value)
                for value in self.lambdas
            ]
        return found


GEMMA_SCOPE: dict[str, Any] = {}
"""Changes that the preset `gemma_scope` makes to the defaults: none."""

SHORT_RUN: dict[str, Any] = {
    "bandwidth": 0.01,
    "threshold_init": 0.01,
    "lr": 2.5e-3,
    "lr_warmup": 500,
    "lr_decay": 0.9,
    "sparsity_warmup": 0.2,
    "target_coefficient": 3.0,
    "tokens": 100_000_000,
    "context_size": 512,
    "buffer_tokens": 2**19,
}
"""Changes that the preset `short_run` makes to the defaults."""

PRESETS: dict[str, dict[str, Any]] = {"gemma_scope": GEMMA_SCOPE, "short_run": SHORT_RUN}


def gemma_scope(**changes: Any) -> TrainConfig:
    """Gemma Scope's recipe with `changes` (model, corpus, sites, d_sae, out, sparsity at least).

    Published lambdas are of the order of 6e-4 (an L0 near 50 at Gemma 2 9B's layer 20).
    """
    return TrainConfig(**{**GEMMA_SCOPE, **_checked(changes)})


def short_run(**changes: Any) -> TrainConfig:
    """A recipe for about 100 million tokens, with `changes` as in `gemma_scope`.

    A learning rate some 35 times Gemma Scope's, a wider window and larger first thresholds, because
    a threshold moves by about lr a step. It falls over the last nine tenths: kept up, such a rate
    kills features (LOG.md).
    """
    return TrainConfig(**{**SHORT_RUN, **_checked(changes)})


def _checked(changes: dict[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(TrainConfig)}
    if unknown := sorted(set(changes) - known):
        raise ValueError(f"a training configuration has no field {', '.join(unknown)}.")
    return changes
