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
from training.shard import ALONE, Shard

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
        shard: Shard = ALONE,
    ) -> None:
        """`dead_tokens`: silence after which AuxK uses a feature; all else as `AutogradLoss`."""
        self.k = k
        self.dead_tokens = dead_tokens
        super().__init__(products=products, compiler=compiler, shard=shard)

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
        acts = self._largest(positive, self.k)
        recon = self.decode(acts, p["W_dec"]) + p["b_dec"]
        squared_error = (x - recon).square().sum()
        loss = squared_error / len(x)
        if silent is not None:
            dead = silent >= self.dead_tokens
            loss = loss + AUX_WEIGHT * self._auxiliary((x - recon).detach(), positive, dead, p)
        on = (acts > 0).float()
        return loss, batch_stats(loss, squared_error, x, mean, on, self.l0(on))

    def _auxiliary(
        self, residual: Tensor, positive: Tensor, dead: Tensor, p: Parameters
    ) -> Float[Tensor, ""]:
        part, d_model = p["W_dec"].shape
        d_sae = part * self.shard.world
        # Fixed in size whatever the number of dead features: zeros in `acts` change nothing.
        acts = self._largest(torch.where(dead, positive, 0.0), min(max(1, d_model // 2), d_sae))
        left = (residual - self.decode(acts, p["W_dec"])).square().sum()
        spread = (residual - residual.mean(dim=0)).square().sum()
        counts = (self.shard.sum(dead.sum()) > 0) & (spread > 0)
        return torch.where(counts, left / torch.where(counts, spread, 1.0), 0.0)

    def _largest(
        self, positive: Float[Tensor, "batch d_sae"], k: int
    ) -> Float[Tensor, "batch d_sae"]:
        """Those among the k largest of each row, of all processes' features, the others 0."""
        top = positive.topk(min(k, positive.shape[1]), dim=-1, sorted=False)
        values = top.values
        if not self.shard.alone:
            # No process has more than k of the k largest.
            every = self.shard.gather(values, dim=1)
            chosen = torch.zeros_like(every).scatter(-1, every.topk(k, dim=-1).indices, 1.0)
            values = values * self.shard.mine(chosen, 1)
        return torch.zeros_like(positive).scatter(-1, top.indices, values)
