"""Muon: momentum, orthogonalised, for the hidden matrices of a network.

For a matrix W with gradient G, momentum mu, step size lr and weight decay wd:

    B <- mu B + (1 - mu) G
    O = NewtonSchulz5((1 - mu) G + mu B)                 about U V^T of its singular vectors
    W <- (1 - lr wd) W - lr 0.2 sqrt(max(rows, columns)) O

The last factor gives an update the root mean square of AdamW's (Moonlight, arXiv 2502.16982), so
one lr serves both. The arithmetic is that of `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`.
The difference is that matrices of one shape are handled as one batch: a small model has dozens of
small matrices, and one by one they cost some 1,500 kernel launches a step instead of 100.
Muon: Keller Jordan, https://kellerjordan.github.io/posts/muon/.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# Quintic whose slope at zero is as large as convergence to about [0.7, 1.2] allows.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_NEWTON_SCHULZ_STEPS = 5
_EPS = 1e-7


def orthogonalise(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Each matrix with its singular values brought near 1: five Newton-Schulz steps, bfloat16."""
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_EPS)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x


class BatchedMuon(torch.optim.Optimizer):
    """Muon over 2-D parameters, those of one shape as one batch; every one needs a gradient.

    `lr` is on AdamW's scale; `weight_decay` is per unit of lr. Raises ValueError for a parameter
    that is not a matrix.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for p in params:
            if p.ndim != 2:
                raise ValueError(f"Muon takes matrices only: give {tuple(p.shape)} to AdamW.")
            by_shape[p.shape].append(p)
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([{"params": group} for group in by_shape.values()], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter from its gradient."""
        for group in self.param_groups:
            params: list[Tensor] = group["params"]
            lr, momentum = group["lr"], group["momentum"]
            gradients = torch.stack([p.grad for p in params if p.grad is not None])  # n, rows, cols
            assert len(gradients) == len(params), "a matrix has no gradient"
            state = self.state[params[0]]
            if not state:
                state["momentum"] = torch.zeros_like(gradients)
            average = state["momentum"].lerp_(gradients, 1 - momentum)
            update = orthogonalise(gradients.lerp_(average, momentum)).to(params[0].dtype)
            scale = 0.2 * max(params[0].shape) ** 0.5
            # One launch for all, as torch's own optimisers do it.
            foreach: Any = torch
            foreach._foreach_mul_(params, 1 - lr * group["weight_decay"])
            foreach._foreach_add_(params, list(update.unbind()), alpha=-lr * scale)
