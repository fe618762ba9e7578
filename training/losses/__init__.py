"""What SAEs are trained to do, one file per architecture; `base` has what they share."""

from training.losses.base import (
    AutogradLoss,
    Batch,
    BatchStats,
    Loss,
    Parameters,
    Penalty,
    l0_penalty,
    steered,
    surrogate_weight,
    target_l0_penalty,
    unchanged,
)
from training.losses.gated_loss import GatedLoss
from training.losses.jumprelu_loss import Extras, JumpReLULoss
from training.losses.relu_loss import ReLULoss
from training.losses.topk_loss import TopKLoss

__all__ = [
    "AutogradLoss",
    "Batch",
    "BatchStats",
    "Extras",
    "GatedLoss",
    "JumpReLULoss",
    "Loss",
    "Parameters",
    "Penalty",
    "ReLULoss",
    "TopKLoss",
    "l0_penalty",
    "steered",
    "surrogate_weight",
    "target_l0_penalty",
    "unchanged",
]
