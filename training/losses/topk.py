"""The loss of TopK SAEs with AuxK (Gao et al., arXiv 2406.04093, appendix A).

    z     = (raw / C - b_dec) @ W_enc + b_enc
    f     = relu(z) where z is one of the token's k largest, else 0
    recon = f @ W_dec + b_dec
    loss  = mean over tokens of ||x - recon||^2 + 1/32 * aux

    r     = x - recon, held constant                 what the k leave
    g     = relu(z) where z is one of the token's d_model / 2 largest of dead features, else 0
    aux   = sum ||r - g @ W_dec||^2 / sum ||r - mean(r)||^2

Features are dead that were not active for a number of tokens (10 million there); without any, and
where the reconstruction is perfect, aux is 0. There is no penalty: k is the L0, or a little more
where fewer than k pre-activations are positive.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.losses.base import (
    AutogradLoss,
    BatchStats,
    Parameters,
    Penalty,
    batch_stats,
    unchanged,
)

AUX_WEIGHT = 1 / 32


class TopKLoss(AutogradLoss):
    """Loss of TopK SAEs; parameters W_enc, b_enc, W_dec, b_dec."""

    def __init__(
        self,
        *,
        k: int,
        dead_tokens: float,
        products: torch.dtype = torch.float32,
        compiler: Callable[[Callable[..., Any]], Callable[..., Any]] = unchanged,
    ) -> None:
        """`dead_tokens`: silence after which AuxK uses a feature; `products` as `AutogradLoss`."""
        self.k = k
        self.dead_tokens = dead_tokens
        super().__init__(products=products, compiler=compiler)

    def forward(
        self,
        parameters: Parameters,
        raw: Float[Tensor, "batch d_model"],
        scale: Float[Tensor, ""],
        mean: Float[Tensor, " d_model"],
        penalty: Penalty,
        silent: Float[Tensor, " d_sae"] | None = None,
    ) -> tuple[Tensor, BatchStats]:
        """As `AutogradLoss.forward`; without `silent` no feature is dead."""
        p = parameters
        x = raw.float() / scale
        positive = (self.project(x, p) + p["b_enc"]).relu()  # [batch, d_sae]
        acts = _largest(positive, self.k)
        recon = self.decode(acts, p["W_dec"]) + p["b_dec"]
        squared_error = (x - recon).square().sum()
        loss = squared_error / len(x)
        if silent is not None:
            dead = silent >= self.dead_tokens
            loss = loss + AUX_WEIGHT * self._auxiliary((x - recon).detach(), positive, dead, p)
        return loss, batch_stats(loss, squared_error, x, mean, (acts > 0).float())

    def _auxiliary(
        self, residual: Tensor, positive: Tensor, dead: Tensor, p: Parameters
    ) -> Float[Tensor, ""]:
        d_sae, d_model = p["W_dec"].shape
        # Fixed in size whatever the number of dead features: zeros in `acts` change nothing.
        acts = _largest(torch.where(dead, positive, 0.0), min(max(1, d_model // 2), d_sae))
        left = (residual - self.decode(acts, p["W_dec"])).square().sum()
        spread = (residual - residual.mean(dim=0)).square().sum()
        counts = dead.any() & (spread > 0)
        return torch.where(counts, left / torch.where(counts, spread, 1.0), 0.0)


def _largest(positive: Float[Tensor, "batch d_sae"], k: int) -> Float[Tensor, "batch d_sae"]:
    """The k largest of each row, the others 0."""
    top = positive.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(positive).scatter(-1, top.indices, top.values)
