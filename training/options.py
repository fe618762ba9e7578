"""Parts of a run's settings: how it is carried out, what its loss adds, and one SAE's own share."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from sae_core.config import Architecture, Site
from sae_core.jumprelu import KERNELS, Kernel
from sae_core.placement import Device

Compile = Literal["auto", "off", "default", "cuda-graph"]
StepKind = Literal["auto", "dense", "sparse"]
Decoder = Literal["auto", "unit", "free"]


def check_choice(name: str, value: str, values: tuple[str, ...]) -> None:
    """ValueError unless `value` is among `values`."""
    if value not in values:
        raise ValueError(f"{name} {value!r} is unknown: use one of {', '.join(values)}.")


def check_positive(name: str, value: float) -> None:
    """ValueError unless `value` is a positive number."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value} but must be a positive number.")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out; nothing here is meant to change what it learns."""

    device: Device = "auto"
    """Where model and SAEs are; `auto` is CUDA if there is a device, else the CPU."""
    compile: Compile = "auto"
    """torch.compile for the SAE step; `auto` is `default` on CUDA and `off` elsewhere. `cuda-graph`
    (CUDA only) also records the compiled step of all SAEs and replays it as a whole."""
    step: StepKind = "auto"
    """`sparse` computes only the encoder's product in full and all else for the active features,
    for those SAEs that it applies to: all but JumpReLU with terms beyond the paper's loss or free
    decoder rows. `auto` is `sparse` on CUDA for 8,192 features and more
    (Gated and ReLU: 32,768), and `dense` elsewhere."""
    checkpoint_every: int = 5_000
    """Steps between checkpoints; 0 saves one only at the end and when interrupted."""
    index_tokens: int = 20_000
    """Tokens of the small indexes with which the app shows the features of checkpoints while the
    run goes on, made at checkpoints that are far enough apart for at most a tenth of the time (in
    one process); 0: none, and no SAEs before the end."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard, to OUT/tensorboard."""

    def __post_init__(self) -> None:
        check_choice("device", self.device, get_args(Device))
        check_choice("compile", self.compile, get_args(Compile))
        check_choice("step", self.step, get_args(StepKind))
        if self.step == "sparse" and self.compile == "cuda-graph":
            raise ValueError(
                "step is sparse, which decides on the device's answer what to do, and compile is "
                "cuda-graph, which cannot: leave one of them at auto."
            )
        if self.checkpoint_every < 0:
            raise ValueError(
                f"checkpoint_every is {self.checkpoint_every} but must be 0 or more steps."
            )
        if self.index_tokens < 0:
            raise ValueError(f"index_tokens is {self.index_tokens} but must be 0 or more.")


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The loss beyond its sparsity; what is for one architecture alone leaves the others as they
    are.
    """

    target_coefficient: float = 1.0
    """JumpReLU's strength of the penalty of l0_targets (the loss is about the FVU, so of order 1):
    target_coefficient * (e^2 + m e), e = batch mean L0 / target - 1, m following e until e is 0."""
    kernel: Kernel = "rectangle"
    """JumpReLU: shape of the threshold gradient's window."""
    decoder: Decoder = "auto"
    """Norms of decoder rows: held at 1, or free and folded into the encoder when saved. `auto`:
    free for gated and standard, 1 for jumprelu and topk."""
    beta1: float | None = None
    """Adam's decay of its first moment; none: as each architecture was published (0 jumprelu and
    gated, 0.9 topk and standard). With one, there is another copy of the weights, and sparse steps
    move every row."""
    vector_rate: float = 1.0
    """JumpReLU: learning rate of b_enc and thresholds, as a share of that of the weights."""
    b_dec_rate: float = 1.0
    """JumpReLU: learning rate of b_dec, as a share of that of the weights."""
    revive: float = 0.0
    """JumpReLU: share of its threshold, times the threshold's learning rate, that a feature loses
    at each step once it has not fired for `revive_after`; 0: none."""
    revive_after: float = 10_000_000
    """JumpReLU: tokens without activity for `revive`; at most 1, a share of the run."""
    frequency_scale: float = 0.0
    """JumpReLU: frequency w_0 of a penalty on features active on a large share of the tokens,
    slope * sum of w^2 / w_0, slope being the penalty's by L0; 0: none. Google DeepMind tried 0.1
    and 0.01 (March 2025)."""
    tanh_scale: float = 0.0
    """JumpReLU: c of Anthropic's tanh penalty in place of L0 (January 2025: 4); 0: L0."""
    pre_act: float = 0.0
    """JumpReLU: weight of Anthropic's pre-activation penalty (January 2025: 3e-6); 0: none."""
    dead_after: float = 10_000_000
    """TopK: tokens without activity after which AuxK revives a feature; at most 1, a share of the
    run."""

    def __post_init__(self) -> None:
        check_choice("kernel", self.kernel, KERNELS)
        check_choice("decoder", self.decoder, get_args(Decoder))
        for name in (
            "target_coefficient",
            "vector_rate",
            "b_dec_rate",
            "dead_after",
            "revive_after",
        ):
            check_positive(name, getattr(self, name))
        for name in ("frequency_scale", "tanh_scale", "pre_act", "revive"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value} but must be 0 or more.")
        if self.beta1 is not None and not 0 <= self.beta1 < 1:
            raise ValueError(f"beta1 is {self.beta1} but must be at least 0 and below 1.")
        if self.frequency_scale and self.tanh_scale:
            raise ValueError(
                "frequency_scale adds to the L0 penalty, which tanh_scale replaces: give one."
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One SAE of a run: its name, what it is, where it reads, and what holds its L0 down."""

    name: str
    site: Site
    l0_target: float | None
    lambda_: float | None
    architecture: Architecture = "jumprelu"
    lr: float = 7e-5
