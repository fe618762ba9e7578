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
    Batch,
    BatchStats,
    FeatureLoss,
    Parameters,
    stats_of,
    unchanged,
)
from training.losses.feature_pairs import Features, Subset
from training.shard import ALONE, Shard

AUX_WEIGHT = 1 / 32


class TopKLoss(FeatureLoss):
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
        """`dead_tokens`: tokens since it fired after which AuxK uses a feature; all else as in
        `AutogradLoss`.
        """
        self.k = k
        self.dead_tokens = dead_tokens
        super().__init__(products=products, compiler=compiler, shard=shard)

    def on(
        self, features: Features, parameters: Parameters, batch: Batch
    ) -> tuple[Tensor, BatchStats]:
        """As `FeatureLoss.on`."""
        p, x, since = parameters, batch.x, batch.tokens_since_fired
        dead = None if since is None else features.subset(since >= self.dead_tokens)
        part = features.largest(p["b_enc"], self.k)
        acts = part.values.relu()
        error = x - part.decode(acts, p["W_dec"]) - p["b_dec"]
        squared_error = error.square().sum()
        loss = squared_error / len(x)
        if dead is not None and not dead.surely_empty():
            loss = loss + AUX_WEIGHT * self._auxiliary(error.detach(), features, dead, p)
        on = (acts > 0).float()
        l0 = self.shard.sum(on.sum()) / len(x)
        return loss, stats_of(loss, squared_error, x, batch.mean, part.by_feature(on), l0)

    def _auxiliary(
        self,
        residual: Float[Tensor, "batch d_model"],
        features: Features,
        dead: Subset,
        p: Parameters,
    ) -> Float[Tensor, ""]:
        mine, d_model = p["W_dec"].shape
        k = min(max(1, d_model // 2), mine * self.shard.world)
        part = features.largest(p["b_enc"], k, among=dead)
        left = (residual - part.decode(part.values.relu(), p["W_dec"])).square().sum()
        spread = (residual - residual.mean(dim=0)).square().sum()
        counts = (self.shard.sum(dead.mask.sum()) > 0) & (spread > 0)
        return torch.where(counts, left / torch.where(counts, spread, 1.0), 0.0)
