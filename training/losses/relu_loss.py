"""The loss of ReLU SAEs, with an L1 that does not depend on how latents are scaled (RI-L1).

    z     = (raw / C - b_dec) @ W_enc + b_enc
    f     = relu(z)
    recon = f @ W_dec + b_dec
    loss  = mean over tokens of ||x - recon||^2 + lambda * sum_i f_i ||d_i||

d_i are decoder rows, which have any norm: multiplying one and dividing its feature's activations
changes nothing, so that no constraint is needed (Conerly et al., "Update on how we train SAEs",
April 2024; called RI-L1 in arXiv 2407.14435). With a target L0, lambda is steered towards it
(`training.losses.base`).
"""

from torch import Tensor

from training.losses.base import Batch, BatchStats, Parameters, SurrogateLoss, stats_of
from training.losses.feature_pairs import Features


class ReLULoss(SurrogateLoss):
    """Loss of ReLU SAEs; parameters W_enc, b_enc, W_dec, b_dec."""

    def on(
        self, features: Features, parameters: Parameters, batch: Batch
    ) -> tuple[Tensor, BatchStats]:
        """As `FeatureLoss.on`."""
        p, x = parameters, batch.x
        part = features.above(p["b_enc"])
        acts = part.values.relu()
        recon, norms = part.decode_and_norms(acts, p["W_dec"])
        squared_error = (x - recon - p["b_dec"]).square().sum()
        on = (acts > 0).float()
        l0 = self.shard.sum(on.sum()) / len(x)
        weight = self.weight(l0, batch.penalty)
        lengths = self.shard.sum((acts * part.each(norms)).sum())
        loss = (squared_error + weight * lengths) / len(x)
        return loss, stats_of(loss, squared_error, x, batch.mean, part.by_feature(on), l0)
