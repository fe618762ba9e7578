"""From a decoder's last hidden states to logits, a few positions at a time.

`[positions, vocabulary]` is the largest array of a forward: with Gemma's 256,000 entries a prompt
of 8,192 tokens takes 4 GB in bfloat16, and every operation on it as much again. No loss needs more
than one position at a time.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_CHUNK = 2**24
"""Elements of the largest float32 array over the vocabulary: 64 MB."""


def hidden_states(
    model: Any, input_ids: Int[Tensor, "batch pos"]
) -> Float[Tensor, "rows pos hidden"]:
    """What the head reads, normed. Hooks may have changed the number of rows."""
    return model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state


def head(model: Any, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocab"]:
    """The logits of these hidden states, as the model's own forward computes them."""
    logits = model.get_output_embeddings()(hidden)
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / divisor
    return logits


def chunks(model: Any, positions: int) -> Iterator[slice]:
    """Slices of so few positions that a float32 array over the vocabulary stays small."""
    size = max(1, _CHUNK // int(model.get_output_embeddings().weight.shape[0]))
    for start in range(0, positions, size):
        yield slice(start, min(start + size, positions))
