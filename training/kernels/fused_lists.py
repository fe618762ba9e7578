"""What a loss over lists of entries takes, in Triton: the functions of `plain_lists`."""

from training.kernels.decode import centre
from training.kernels.gradients import decoder_gradients, encoder_gradient, group_maxima, sums
from training.kernels.parts import partial_recon
from training.kernels.select import above

__all__ = [
    "above",
    "centre",
    "decoder_gradients",
    "encoder_gradient",
    "group_maxima",
    "partial_recon",
    "sums",
]
