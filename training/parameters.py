"""An SAE in the form it is trained in: how it starts, and how it becomes one that takes raw input.

Trained on x = raw / C, with the pre-encoder bias b_dec subtracted. Saved as (Gemma Scope, app. A)

    b_enc' = C b_enc - C b_dec @ W_enc        b_dec' = C b_dec        threshold' = C threshold

with W_enc and W_dec unchanged, so that the five tensors take raw activations and give raw ones.
"""

import torch
from torch import Tensor

from sae_core.config import SAEConfig
from sae_core.sae import SAE
from training.losses import Parameters

THRESHOLD_FLOOR = 1e-6
"""Thresholds stay at or above this, in units of the scaled input, so that they are positive."""


def initial_parameters(
    d_model: int, d_sae: int, threshold: float, seed: int, device: torch.device | str = "cpu"
) -> Parameters:
    """Float32 leaves: W_dec with He-uniform rows scaled to norm 1, W_enc its transpose, biases 0.

    The threshold is a parameter itself, not its logarithm: Adam moves a parameter by about lr a
    step, which for a logarithm is lr times the threshold and freezes small ones. It is float32
    because in bfloat16 a step of 1e-4 on a threshold of 0.04 is rounded away.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = (6 / d_model) ** 0.5
    W_dec = torch.empty(d_sae, d_model).uniform_(-bound, bound, generator=generator)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    start = {
        "W_enc": W_dec.T.contiguous(),
        "b_enc": torch.zeros(d_sae),
        "W_dec": W_dec,
        "b_dec": torch.zeros(d_model),
        "threshold": torch.full((d_sae,), max(threshold, THRESHOLD_FLOOR)),
    }
    return {name: tensor.to(device).requires_grad_() for name, tensor in start.items()}


def folded(parameters: Parameters, scale: float, cfg: SAEConfig) -> SAE:
    """The SAE of configuration `cfg` that does to raw activations what was trained on raw / scale.

    On the processor, float32; the sums are made in float64.
    """
    p = {name: tensor.detach().cpu().double() for name, tensor in parameters.items()}
    folded_tensors: dict[str, Tensor] = {
        "W_enc": p["W_enc"],
        "b_enc": scale * (p["b_enc"] - p["b_dec"] @ p["W_enc"]),
        "W_dec": p["W_dec"],
        "b_dec": scale * p["b_dec"],
        "threshold": scale * p["threshold"],
    }
    sae = SAE.build(cfg)
    for name, tensor in folded_tensors.items():
        getattr(sae, name).data = tensor.float()
    return sae
