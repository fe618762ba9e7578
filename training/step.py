"""One step of training: what it changes (`State`), and the dense way of taking it (`DenseStep`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from training.losses import Batch, BatchStats, Loss, Parameters, Penalty, steered
from training.losses.base import Limits
from training.optim import Control, revived, update
from training.recipes import RECIPES, Rule
from training.shard import ALONE, Shard

DEAD_TOKENS = 1_000_000
"""A feature is called dead in the metrics when it was not active for this many tokens."""
MAX_TOKENS_SINCE_FIRED = 2**24
"""Tokens without activity up to which a feature's are counted: float32 counts no further."""
COUNTS = ("active", "in_window", "tokens_since_fired")
"""Statistics of each feature."""


@dataclass(frozen=True)
class State:
    """Everything that a step changes, in place."""

    parameters: Parameters
    """Leaves that require a gradient."""
    second: Parameters
    """Adam's second moments, by the parameters' names."""
    first: Parameters
    """Adam's first moments; none where beta1 is 0."""
    multiplier: Float[Tensor, ""]
    """Of the sparsity penalty: see `training.losses.base`."""
    totals: Parameters
    """Statistics since they were last reset: `scalars` (the loss, squared errors, squared
    deviations from the mean), `active` and `in_window` (tokens, for each feature); and
    `tokens_since_fired`, of each feature, at most `MAX_TOKENS_SINCE_FIRED`."""

    @classmethod
    def of(cls, parameters: Parameters, beta1: float = 0.0) -> "State":
        """Before the first step."""
        d_sae, device = len(parameters["W_dec"]), parameters["W_dec"].device

        def zeros() -> Parameters:
            return {n: torch.zeros_like(p, requires_grad=False) for n, p in parameters.items()}

        sizes = {"scalars": 3, **dict.fromkeys(COUNTS, d_sae)}
        return cls(
            parameters=parameters,
            second=zeros(),
            first=zeros() if beta1 else {},
            multiplier=torch.zeros((), device=device),
            totals={name: torch.zeros(size, device=device) for name, size in sizes.items()},
        )

    @property
    def plain(self) -> Parameters:
        """The parameters' own memory, outside autograd."""
        return {name: p.detach() for name, p in self.parameters.items()}

    @property
    def tensors(self) -> Parameters:
        """All of it by name, for checkpoints; the tensors themselves, not copies."""
        return {
            "multiplier": self.multiplier,
            **{f"parameters.{name}": p for name, p in self.plain.items()},
            **{f"second.{name}": v for name, v in self.second.items()},
            **{f"first.{name}": m for name, m in self.first.items()},
            **{f"totals.{name}": t for name, t in self.totals.items()},
        }


@dataclass(frozen=True)
class Setting:
    """What a step takes from its run: constant, on the device, 0-d but for the mean."""

    scale: Float[Tensor, ""]
    """C, which divides the raw activations."""
    mean: Float[Tensor, " d_model"]
    """Of the activations divided by C."""
    coefficient: Float[Tensor, ""]
    """Strength of the penalty, without its warm-up."""
    target: Float[Tensor, ""]
    """L0 to reach; not used by the linear penalty."""
    gain: Float[Tensor, ""]
    """By how much the multiplier follows the L0's distance from the target; 0 without one."""


class Step(Protocol):
    """A way of taking a step."""

    def __call__(self, raw: Float[Tensor, "batch d_model"], control: Control) -> None:
        """Train on one batch of raw activations."""
        ...


def count(totals: Parameters, stats: BatchStats, batch: int) -> None:
    """Add a batch's statistics to `totals`, in place."""
    totals["scalars"].add_(stats.scalars)
    totals["active"].add_(stats.active)
    totals["in_window"].add_(stats.in_window)
    since = torch.where(stats.active > 0, 0.0, totals["tokens_since_fired"] + batch)
    totals["tokens_since_fired"].copy_(since.clamp(max=MAX_TOKENS_SINCE_FIRED))


def update_and_count(
    parameters: Parameters,
    gradients: Parameters,
    second: Parameters,
    first: Parameters,
    totals: Parameters,
    multiplier: Tensor,
    control: Control,
    stats: BatchStats,
    target: Tensor,
    gain: Tensor,
    *,
    batch: int,
    rule: Rule,
    limits: Limits,
    shard: Shard = ALONE,
) -> None:
    """`optim.update`, `count`, `revived` thresholds and the next multiplier, all in place."""
    update(parameters, gradients, second, control, rule, first, shard)
    count(totals, stats, batch)
    if rule.revive:
        threshold = parameters["threshold"]
        threshold.copy_(revived(threshold, totals["tokens_since_fired"], control[0], rule))
    multiplier.copy_(steered(multiplier, stats.l0, target, gain, control[1], limits))


class DenseStep:
    """Every product in full: autograd's gradients, then the update of everything.

    Waits for nothing on the device.
    """

    def __init__(
        self,
        state: State,
        loss: Loss,
        setting: Setting,
        compiler: Callable[[Callable[..., Any]], Any] = lambda function: function,
        rule: Rule = RECIPES["jumprelu"].rule,
        shard: Shard = ALONE,
    ) -> None:
        """`compiler`: for the update; `loss` has been given its own. `shard`: the part of the
        features that `state` holds.
        """
        self._state = state
        self._loss = loss
        self._setting = setting
        self._plain = state.plain
        self._rule = rule
        self._shard = shard
        # Inductor's C++ backend (PyTorch 2.13) fails on two row sums in one loop, Triton's doesn't.
        on_cuda = setting.mean.device.type == "cuda"
        self._update = compiler(update_and_count) if on_cuda else update_and_count

    def __call__(self, raw: Float[Tensor, "batch d_model"], control: Control) -> None:
        """As `Step`."""
        gradients, stats = self._loss.gradients(self._state.parameters, self.batch(raw, control))
        self.update(gradients, stats, control, len(raw))

    def batch(self, raw: Float[Tensor, "batch d_model"], control: Control) -> Batch:
        """What the loss is calculated from in this step."""
        setting, state = self._setting, self._state
        strength = setting.coefficient * control[1]
        return Batch(
            raw=raw,
            scale=setting.scale,
            mean=setting.mean,
            penalty=Penalty(strength, setting.target, state.multiplier),
            tokens_since_fired=state.totals["tokens_since_fired"],
        )

    @torch.no_grad()
    def update(
        self, gradients: Parameters, stats: BatchStats, control: Control, batch: int
    ) -> None:
        """Move everything by the gradients on a batch, and count it."""
        setting, state = self._setting, self._state
        self._update(
            self._plain,
            gradients,
            state.second,
            state.first,
            state.totals,
            state.multiplier,
            control,
            stats,
            setting.target,
            setting.gain,
            batch=batch,
            rule=self._rule,
            limits=self._loss.limits,
            shard=self._shard,
        )
