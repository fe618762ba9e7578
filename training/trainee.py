"""One SAE while it is trained: parameters, second moments, statistics, and the step itself."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.config import Compile, Plan
from training.losses import BatchStats, Loss, Parameters, Penalty
from training.optim import Control, update

DEAD_TOKENS = 1_000_000
"""A feature is called dead in the metrics when it was not active for this many tokens."""


def compiler(mode: Compile, device: torch.device) -> Callable[[Callable[..., Any]], Any]:
    """torch.compile as `RunOptions.compile` asks for it; whole graphs, fixed shapes."""
    if mode == "off" or (mode == "auto" and device.type != "cuda"):
        return lambda function: function
    return lambda function: torch.compile(function, fullgraph=True, dynamic=False)


def update_and_count(
    parameters: Parameters,
    gradients: Parameters,
    second: Parameters,
    control: Control,
    stats: BatchStats,
    totals: Parameters,
    batch: int,
) -> None:
    """`optim.update`, and the batch's statistics added to `totals`, all in place."""
    update(parameters, gradients, second, control)
    totals["scalars"].add_(stats.scalars)
    totals["active"].add_(stats.active)
    totals["in_window"].add_(stats.in_window)
    silent = torch.where(stats.active > 0, 0.0, totals["silent"] + batch)
    totals["silent"].copy_(silent.clamp(max=DEAD_TOKENS))


class Trainee:
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
        compiler: Callable[[Callable[..., Any]], Any] = lambda function: function,
    ) -> None:
        """`coefficient`: strength of the penalty; `scale`: C; `mean`: of the raw activations."""
        self.plan = plan
        self.parameters = parameters
        self.scale = scale
        self.coefficient = coefficient
        device = mean.device
        self._loss = loss
        self._scale = torch.tensor(scale, dtype=torch.float32, device=device)
        self._mean = mean / scale
        self._coefficient = torch.tensor(coefficient, dtype=torch.float32, device=device)
        target = torch.tensor(plan.l0_target or 0.0, dtype=torch.float32, device=device)
        self._target = target
        # In place under no_grad, the update needs the same memory without autograd's bookkeeping.
        self._plain = {name: p.detach() for name, p in parameters.items()}
        self._second = {name: torch.zeros_like(p) for name, p in self._plain.items()}
        d_sae = len(parameters["b_enc"])
        self._totals = {
            "scalars": torch.zeros(3, device=device),
            "active": torch.zeros(d_sae, device=device),
            "in_window": torch.zeros(d_sae, device=device),
            "silent": torch.zeros(d_sae, device=device),
        }
        # Inductor's C++ backend (PyTorch 2.13) fails on two row sums in one loop, Triton's doesn't.
        self._update = compiler(update_and_count) if device.type == "cuda" else update_and_count

    def step(self, raw: Float[Tensor, "batch d_model"], control: Control) -> None:
        """Train on one batch of raw activations; waits for nothing on the device."""
        penalty = Penalty(self._coefficient * control[1], self._target)
        gradients, stats = self._loss.gradients(
            self.parameters, raw, self._scale, self._mean, penalty
        )
        with torch.no_grad():
            self._update(
                self._plain, gradients, self._second, control, stats, self._totals, len(raw)
            )

    def measured(self, steps: int, batch: int, seen: int) -> dict[str, float]:
        """Means over the last `steps` steps of `batch` tokens, then reset; `seen`: tokens so far.

        Waits for the device.
        """
        totals = self._totals
        loss, squared_error, spread = totals["scalars"].tolist()
        tokens = steps * batch
        threshold = self._plain["threshold"]
        share = torch.tensor([0.05, 0.5, 0.95], device=threshold.device)
        low, median, high = threshold.quantile(share).tolist()
        found = {
            "loss": loss / steps,
            "fvu": squared_error / spread,
            "l0": float(totals["active"].sum(dtype=torch.float64)) / tokens,
            "dead": float((totals["silent"] >= min(DEAD_TOKENS, seen)).float().mean()),
            "high_frequency": float((totals["active"] >= 0.1 * tokens).float().mean()),
            "in_window": float(totals["in_window"].mean(dtype=torch.float64)) / tokens,
            "threshold_p05": low,
            "threshold_p50": median,
            "threshold_p95": high,
        }
        for name in ("scalars", "active", "in_window"):
            totals[name].zero_()
        return found

    def state(self) -> dict[str, Tensor]:
        """Everything a step changes; the tensors themselves, not copies."""
        return {
            **{f"parameters.{name}": p for name, p in self._plain.items()},
            **{f"second.{name}": v for name, v in self._second.items()},
            **{f"totals.{name}": t for name, t in self._totals.items()},
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
