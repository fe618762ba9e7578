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

from jaxtyping import Float
from torch import Tensor

from training.losses.base import BatchStats, Parameters, Penalty, SurrogateLoss, batch_stats


class ReLULoss(SurrogateLoss):
    """Loss of ReLU SAEs; parameters W_enc, b_enc, W_dec, b_dec."""

    def forward(
        self,
        parameters: Parameters,
        raw: Float[Tensor, "batch d_model"],
        scale: Float[Tensor, ""],
        mean: Float[Tensor, " d_model"],
        penalty: Penalty,
        silent: Float[Tensor, " d_sae"] | None = None,
    ) -> tuple[Tensor, BatchStats]:
        """As `AutogradLoss.forward`; `silent` is not used."""
        p = parameters
        x = raw.float() / scale
        acts = (self.project(x, p) + p["b_enc"]).relu()  # [batch, d_sae]
        recon = self.decode(acts, p["W_dec"]) + p["b_dec"]
        squared_error = (x - recon).square().sum()
        on = (acts > 0).float()
        l0 = self.l0(on)
        weight = self.weight(l0, penalty)
        lengths = self.shard.sum((acts * p["W_dec"].norm(dim=1)).sum()) / len(x)
        loss = squared_error / len(x) + weight * lengths
        return loss, batch_stats(loss, squared_error, x, mean, on, l0)
