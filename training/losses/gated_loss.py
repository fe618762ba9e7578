"""The loss of Gated SAEs (Rajamanoharan et al., arXiv 2404.16014), with RI-L1 on the gate.

    z     = (raw / C - b_dec) @ W_enc
    gate  = z + b_gate                               decides which features are active
    f     = H(gate) * relu(exp(r_mag) * z + b_mag)   and these how strongly
    recon = f @ W_dec + b_dec
    loss  = mean over tokens of ||x - recon||^2
            + lambda * sum_i relu(gate_i) ||d_i||
            + ||x - (relu(gate) @ W_dec + b_dec)||^2

The last term teaches the gate, which the Heaviside function H keeps from learning by the first. The
penalty does not depend on how latents are scaled (arXiv 2407.14435, "Gated (RI-L1)"), so decoder
rows d_i have any norm. With a target L0, lambda is steered towards it (`training.losses.base`).

The original loss holds the last term's decoder constant, with rows of norm 1. Where the penalty has
a gradient for the norms, that term must have one as well (the authors, in a comment on their
post): else nothing answers the penalty, which shrinks the rows without end while the encoder and
r_mag grow, and the gate, whose reconstruction then is too small, never settles.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from training.losses.base import Batch, BatchStats, Parameters, SurrogateLoss, stats_of
from training.losses.feature_pairs import Features


class GatedLoss(SurrogateLoss):
    """Loss of Gated SAEs; parameters W_enc, b_gate, b_mag, r_mag, W_dec, b_dec."""

    def on(
        self, features: Features, parameters: Parameters, batch: Batch
    ) -> tuple[Tensor, BatchStats]:
        """As `FeatureLoss.on`."""
        p, x = parameters, batch.x
        part = features.above(p["b_gate"])
        gate = part.values
        z = gate - part.each(p["b_gate"])
        magnitude = (part.each(p["r_mag"].exp()) * z + part.each(p["b_mag"])).relu()
        acts = torch.where(gate > 0, magnitude, 0.0)
        recon, norms = part.decode_and_norms(acts, p["W_dec"])
        squared_error = (x - recon - p["b_dec"]).square().sum()
        opened = gate.relu()
        by_gate = part.decode(opened, p["W_dec"]) + p["b_dec"]
        auxiliary = (x - by_gate).square().sum()
        on = (acts > 0).float()
        l0 = self.shard.sum(on.sum()) / len(x)
        weight = self.weight(l0, batch.penalty)
        lengths = self.shard.sum((opened * part.each(norms)).sum())
        loss = (squared_error + auxiliary + weight * lengths) / len(x)
        return loss, stats_of(loss, squared_error, x, batch.mean, part.by_feature(on), l0)

    def through_projection(
        self, parameters: Parameters, gradients: Parameters
    ) -> Float[Tensor, " d_sae"]:
        """As `AutogradLoss.through_projection`: by the gate's way and by the magnitude's."""
        return gradients["b_gate"] + parameters["r_mag"].exp() * gradients["b_mag"]
