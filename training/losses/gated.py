"""The loss of Gated SAEs (Rajamanoharan et al., arXiv 2404.16014), with RI-L1 on the gate.

    z     = (raw / C - b_dec) @ W_enc
    gate  = z + b_gate                               decides which features are active
    f     = H(gate) * relu(exp(r_mag) * z + b_mag)   and these how strongly
    recon = f @ W_dec + b_dec
    loss  = mean over tokens of ||x - recon||^2
            + lambda * sum_i relu(gate_i) ||d_i||
            + ||x - (relu(gate) @ W_dec* + b_dec*)||^2

The starred decoder is a copy that gets no gradient: the last term teaches the gate alone, which the
Heaviside function H keeps from learning by the first. The penalty does not depend on how latents
are scaled (arXiv 2407.14435, "Gated (RI-L1)"), so decoder rows d_i have any norm. With a target L0,
lambda is steered towards it (`training.losses.base`).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from training.losses.base import BatchStats, Parameters, Penalty, SurrogateLoss, batch_stats


class GatedLoss(SurrogateLoss):
    """Loss of Gated SAEs; parameters W_enc, b_gate, b_mag, r_mag, W_dec, b_dec."""

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
        z = self.project(x, p)  # [batch, d_sae]
        gate = z + p["b_gate"]
        acts = torch.where(gate > 0, (p["r_mag"].exp() * z + p["b_mag"]).relu(), 0.0)
        squared_error = (x - self.decode(acts, p["W_dec"]) - p["b_dec"]).square().sum()
        opened = gate.relu()
        by_gate = self.decode(opened, p["W_dec"].detach()) + p["b_dec"].detach()
        auxiliary = (x - by_gate).square().sum()
        on = (acts > 0).float()
        l0 = self.l0(on)
        weight = self.weight(l0, penalty)
        lengths = self.shard.sum((opened * p["W_dec"].norm(dim=1)).sum())
        loss = (squared_error + auxiliary + weight * lengths) / len(x)
        return loss, batch_stats(loss, squared_error, x, mean, on, l0)

    def through_projection(
        self, parameters: Parameters, gradients: Parameters
    ) -> Float[Tensor, " d_sae"]:
        """As `AutogradLoss.through_projection`: by the gate's way and by the magnitude's."""
        return gradients["b_gate"] + parameters["r_mag"].exp() * gradients["b_mag"]
