"""Whether a device computes what a model is: Apple's GPUs are compared with the CPU at load.

Some releases of PyTorch have been wrong there, and say nothing: a matrix product of certain shapes
or an attention mask came out as other numbers. So a model is loaded on the CPU, reads a short text
there, moves, and reads it again; where the logits differ, it is refused.
"""

from typing import Any

import torch
from torch import Tensor

CHECKED = ("mps",)
"""Kinds of devices that are not taken on trust."""
PROBE_TOKENS = 48
"""Length of the text: some tens of positions show a wrong mask."""
TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 1e-1, torch.float16: 5e-2}
"""Largest relative difference of a token's logits. Sums in another order make less than a tenth of
it over tens of layers; a wrong product or mask makes more than all of it."""


def move_checked(model: Any, device: torch.device) -> Any:
    """`model` on `device`; ValueError with the reason if its logits are others than on the CPU,
    where it is now.
    """
    ids = (torch.arange(PROBE_TOKENS) * 7919 + 11) % int(model.config.get_text_config().vocab_size)
    expected = _logits(model, ids)
    moved = model.to(device)
    said = _difference(expected, _logits(moved, ids.to(device)))
    if not said <= TOLERANCE[model.dtype]:
        raise ValueError(
            f"device {device.type} computes other logits than the CPU for this model (they differ "
            f"by {said:.1%} on {PROBE_TOKENS} tokens) with PyTorch {torch.__version__}: give "
            "--device cpu, or install another version of PyTorch"
        )
    return moved


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    """`[tokens, vocabulary]`, float32 on the CPU."""
    return model(input_ids=ids[None], use_cache=False).logits[0].float().cpu()


def _difference(expected: Tensor, logits: Tensor) -> float:
    """The largest relative difference of a token's logits, centred; NaN if one is no number."""
    centred = expected - expected.mean(-1, keepdim=True)
    other = logits - logits.mean(-1, keepdim=True)
    return float(((other - centred).norm(dim=-1) / centred.norm(dim=-1).clamp(min=1e-6)).max())
