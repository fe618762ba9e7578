"""One SAE while it is trained: what a step of it changes, and what it says of itself."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed

from sae_core.metrics import HIGH_FREQUENCY, fvu
from sae_core.placement import in_float64
from training.kernels.shards import ShardKernels
from training.listed_step import ListedStep
from training.losses import Loss, Parameters
from training.losses.base import FeatureLoss
from training.optim import Control
from training.recipes import RECIPES, Rule
from training.shard import ALONE, Shard, features_dim
from training.sparse_step import SparseStep, applies, feature_rows, kernels_for, settle
from training.step import COUNTS, DEAD_TOKENS, DenseStep, Setting, State, Step
from training.train_config import Compile, Plan

__all__ = ["DEAD_TOKENS", "FREQUENCY_BINS", "SAETrainer", "compiler"]

FREQUENCY_BINS = [10.0**e for e in (-6, -5.5, -5, -4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5)]
"""Edges of the histogram of frequencies; below the first are those that were not active at all."""
_VARIANTS = 64
"""In which one function may be compiled; PyTorch allows 8, then fails."""
_EARLIER_NAMES = {"totals.tokens_since_fired": "totals.silent"}
"""Of tensors in the checkpoints of older runs."""
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


def compiler(mode: Compile, device: torch.device) -> Callable[[Callable[..., Any]], Any]:
    """torch.compile as `RunOptions.compile` asks for it; whole graphs, fixed shapes. What it
    compiles raises ValueError where PyTorch fails to.
    """
    if mode == "off" or (mode == "auto" and device.type != "cuda"):
        return lambda function: function
    # The update serves every architecture and width, after dense steps and after sparse ones.
    torch._dynamo.config.recompile_limit = _VARIANTS
    return _compiled


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # Left alone, the compiler times kernels that sum in different orders and takes the fastest, so
    # that a run which goes on elsewhere, or after its cache is gone, would end with other bits.
    supported = "deterministic" in torch._inductor.list_options()  # not by older versions
    options: dict[str, Any] = {"deterministic": True} if supported else {}
    fast = torch.compile(function, fullgraph=True, dynamic=False, options=options)

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        try:
            return fast(*args, **named)
        except BackendCompilerFailed as error:
            why = str(error.inner_exception).partition("\n")[0]
            raise ValueError(
                "PyTorch's compiler failed on the training step, which happens with some widths on "
                f"some versions: give --compile off. ({why})"
            ) from error

    return call


class SAETrainer:
    """An SAE in training, with everything that a step of it changes."""

    def __init__(
        self,
        plan: Plan,
        parameters: Parameters,
        loss: Loss,
        *,
        coefficient: float,
        scale: float,
        mean: Float[Tensor, " d_model"],
        gain: float = 0.0,
        rule: Rule | None = None,
        sparse: bool = False,
        compiler: Callable[[Callable[..., Any]], Any] = lambda function: function,
        shard: Shard = ALONE,
    ) -> None:
        """`coefficient`: strength of the penalty; `scale`: C; `mean`: of the raw activations;
        `gain`: of the multiplier (`training.losses.base`); `rule`: the architecture's unless given;
        `sparse`: takes sparse steps (`training.sparse_step` or `training.listed_step`, of which one
        must apply); `shard`: the part of the features that `parameters` hold.
        """
        self.plan = plan
        self.parameters = parameters = feature_rows(parameters) if sparse else parameters
        self.scale = scale
        self.coefficient = coefficient
        self.limits = loss.limits
        self._shard = shard
        rule = rule or RECIPES[plan.architecture].rule
        self._state = State.of(parameters, rule.beta1)
        device = mean.device

        def constant(value: float) -> Tensor:
            return torch.tensor(value, dtype=torch.float32, device=device)

        setting = Setting(
            scale=constant(scale),
            mean=mean / scale,
            coefficient=constant(coefficient),
            target=constant(plan.l0_target or 1.0),
            gain=constant(gain),
        )
        dense = DenseStep(self._state, loss, setting, compiler, rule, shard)
        self._sparse: SparseStep | None = None
        self._listed: ListedStep | None = None
        self._step: Step = dense
        if sparse and isinstance(loss, FeatureLoss):
            self._step = self._listed = ListedStep(
                self._state, loss, setting, dense, shard=shard, name=plan.name
            )
        elif sparse:
            assert applies(loss, rule)
            kernels = None if shard.alone else ShardKernels(shard, kernels_for(device))
            self._step = self._sparse = SparseStep(
                self._state,
                loss,
                setting,
                dense,
                kernels=kernels,
                rule=rule,
                name=plan.name,
            )

    def step(self, raw: Float[Tensor, "batch d_model"], control: Control) -> None:
        """Train on one batch of raw activations."""
        self._step(raw, control)

    @torch.no_grad()
    def measured(self, steps: int, batch: int, seen: int) -> dict[str, Any]:
        """Means over the last `steps` steps of `batch` tokens, then reset; `seen`: tokens so far.

        Waits for the device. All processes must ask together; ValueError if what they hold in
        common is no longer the same.
        """
        shard, totals = self._shard, self._state.totals
        shard.check_same(f"b_dec of {self.plan.name}", self._state.plain["b_dec"])
        of_all = {name: shard.gather(totals[name]) for name in COUNTS}
        loss, squared_error, spread = totals["scalars"].tolist()
        tokens = steps * batch
        metrics: dict[str, Any] = {
            "loss": loss / steps,
            "fvu": fvu(squared_error, spread),
            "l0": float(in_float64(of_all["active"]).sum()) / tokens,
            "dead": float((of_all["tokens_since_fired"] >= min(DEAD_TOKENS, seen)).float().mean()),
            "high_frequency": float((of_all["active"] >= HIGH_FREQUENCY * tokens).float().mean()),
            "frequencies": self._frequencies(of_all["active"] / tokens),
        }
        if self.plan.l0_target is not None:
            metrics["multiplier"] = float(self._state.multiplier)
        if "threshold" in self._state.parameters:
            metrics["in_window"] = float(in_float64(of_all["in_window"]).mean()) / tokens
            metrics |= self._thresholds()
        for name in ("scalars", "active", "in_window"):
            totals[name].zero_()
        return metrics

    def _frequencies(self, frequency: Float[Tensor, " d_sae"]) -> list[int]:
        """Features between the edges of `FREQUENCY_BINS`, those below and those above included."""
        edges = torch.tensor(FREQUENCY_BINS, device=frequency.device)
        bins = torch.bucketize(frequency, edges, right=True)
        return torch.bincount(bins, minlength=len(FREQUENCY_BINS) + 1).tolist()

    def _thresholds(self) -> dict[str, float]:
        """Quantiles over features, for decoder rows of norm 1."""
        p = self._state.parameters
        threshold = self._shard.gather(p["threshold"] * p["W_dec"].norm(dim=1))
        quantiles = threshold.quantile(torch.tensor(_SHARES, device=threshold.device)).tolist()
        return {
            f"threshold_p{round(100 * share):02d}": value
            for share, value in zip(_SHARES, quantiles, strict=True)
        }

    def collect(self) -> None:
        """Put the features of all processes into the first one's `parameters`, on the CPU.
        After the last step; all call this together.
        """
        if self._shard.alone:
            return
        for name, p in self._state.plain.items():
            dim = features_dim(name)
            p = p.cpu()
            self.parameters[name] = p if dim is None else self._shard.collect(p, dim)

    def state(self) -> dict[str, Tensor]:
        """Everything a step changes, of this process's features; the tensors themselves."""
        touched = {} if self._sparse is None else {"touched": self._sparse.touched}
        paused = {} if self._listed is None else {"paused": self._listed.paused}
        return {**self._state.tensors, **touched, **paused}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor], step: int) -> None:
        """Take over what `state` returned after `step` steps, of either kind."""
        for name, tensor in self._state.tensors.items():
            tensor.copy_(state[name] if name in state else state[_EARLIER_NAMES[name]])
        if self._listed is not None:
            self._listed.restored(state.get("paused", 0))
        touched = state.get("touched")
        if self._sparse is not None:
            self._sparse.restored(step if touched is None else touched)
        elif touched is not None:
            second = self._state.second
            touched = touched.to(second["W_dec"].device)
            settle(second["W_enc"].T, second["W_dec"], touched, step)
