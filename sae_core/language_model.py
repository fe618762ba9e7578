"""Language models from a folder or the hub, ready for inference."""

from typing import Any

import torch
from safetensors import SafetensorError


def load_language_model(
    name: str, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> tuple[Any, Any]:
    """A causal language model and tokenizer from a folder or the hub, ready for inference.

    Attention is eager: Gemma 2's soft-capping has no other exact implementation everywhere.
    Raises ValueError with one sentence when it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, attn_implementation="eager"
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"the language model {name} cannot be loaded: {reason}") from error
    model.to(device).eval().requires_grad_(False)
    return model, tokenizer


def check_context(model: Any, context_size: int) -> None:
    """ValueError if prompts of `context_size` tokens are longer than the model reads."""
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and context_size > longest:
        raise ValueError(
            f"context_size is {context_size} but the model reads {longest} tokens at most."
        )
