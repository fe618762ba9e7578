"""The demo language model: its shape, its loss on rows of tokens, what is measured once saved.

Its architecture is Gemma 2's, Llama's or Mistral's, by transformers' own classes.
"""

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import cross_entropy
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from sae_core.tokens import special_ids, vocabulary
from training.lm_data import TokenRows

log = logging.getLogger(__name__)

AttentionKind = Literal["eager", "flex"]
Family = Literal["gemma2", "llama", "mistral"]
SmallLM = Gemma2ForCausalLM | LlamaForCausalLM | MistralForCausalLM
Masks = dict[str, Any] | Tensor | BlockMask
"""One mask for all layers, or that of each kind of layer by its name (Gemma 2)."""

_FLEX = "jumpscope_flex"
_ROWS_AT_ONCE = 32  # when measuring: 32 x 512 x 8,192 logits are 0.5 GB in float32

PROMPTS = (
    "It was late in the evening when",
    "“I cannot tell you,” said the doctor, “",
    "When the price of a good rises,",
    "def read_lines(path):\n",
    "The human body",
)
"""What the samples in the report begin with."""


@dataclass(frozen=True, kw_only=True)
class LMShape:
    """Shape of a small language model; the defaults give 10.5 million parameters."""

    family: Family = "gemma2"
    """Architecture: gemma2, llama or mistral."""
    vocab_size: int = 8192
    """Entries of the tokenizer, the four special tokens included."""
    hidden_size: int = 256
    """Width of the residual stream."""
    layers: int = 9
    """Decoder layers. Gemma 2's even ones (0, 2, ...) and all of Mistral's see only the sliding
    window."""
    heads: int = 4
    """Query heads."""
    kv_heads: int = 2
    """Key and value heads; divides `heads`."""
    head_dim: int = 64
    """Width of a head; also the softmax's scale, head_dim ** -0.5."""
    intermediate_size: int = 960
    """Width of the MLP."""
    sliding_window: int = 256
    """Positions that a sliding-window layer sees, its own included; Llama has no such layer."""
    max_positions: int = 1024
    """Positions that the configuration promises."""

    def __post_init__(self) -> None:
        if min(size for size in asdict(self).values() if isinstance(size, int)) < 1:
            raise ValueError("every size of the model must be 1 or more.")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads}).")
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}: rotary positions need an even number.")

    def build(self, tokenizer: Any) -> SmallLM:
        """A model with random float32 weights, from torch's generator, for a tokenizer's ids."""
        shared: dict[str, Any] = {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_positions,
            "tie_word_embeddings": True,
            "use_cache": True,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        }
        in_float32: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
        if self.family == "llama":
            return LlamaForCausalLM._from_config(LlamaConfig(**shared), **in_float32)
        shared["sliding_window"] = self.sliding_window
        if self.family == "mistral":
            return MistralForCausalLM._from_config(MistralConfig(**shared), **in_float32)
        config = Gemma2Config(
            **shared,
            query_pre_attn_scalar=self.head_dim,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
        )
        return Gemma2ForCausalLM._from_config(config, **in_float32)


def _flex_forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """A model's attention by torch's flex_attention: no `[pos, pos]` matrix in memory."""
    cap: float | None = options.get("softcap")

    def capped(score: Tensor, _b: Tensor, _h: Tensor, _q: Tensor, _k: Tensor) -> Tensor:
        assert cap is not None
        return cap * torch.tanh(score / cap)

    # Rotary positions leave query and key in float32 under autocast.
    out = flex_attention(
        query.to(value.dtype),
        key.to(value.dtype),
        value,
        None if cap is None else capped,
        mask,
        scale=options["scaling"],
        enable_gqa=True,
    )
    assert isinstance(out, Tensor)
    return out.transpose(1, 2).contiguous(), None


def attention_masks(
    model: SmallLM, positions: int, kind: AttentionKind, device: torch.device
) -> Masks:
    """Causal masks as `model` takes them; switches it to attention of this kind.

    Made once: rows have one length and no padding.
    """
    window: int | None = getattr(model.config, "sliding_window", None)
    if kind == "flex":
        AttentionInterface.register(_FLEX, _flex_forward)
    model.set_attn_implementation(_FLEX if kind == "flex" else "eager")

    def full() -> Tensor | BlockMask:
        return _mask(lambda _b, _h, q, k: q >= k, positions, kind, device)

    if window is None:
        return full()

    # flex_attention counts the arguments of these functions: batch, head, query, key.
    sliding = _mask(lambda _b, _h, q, k: (q >= k) & (q - k < window), positions, kind, device)
    if model.config.model_type == "gemma2":
        return {"full_attention": full(), "sliding_attention": sliding}
    return sliding


def _mask(
    rule: Any, positions: int, kind: AttentionKind, device: torch.device
) -> Tensor | BlockMask:
    """Where `rule` lets a query see a key: `[1, 1, query, key]` of 0 and the lowest number, or
    flex_attention's form of it.
    """
    if kind == "flex":
        return create_block_mask(rule, None, None, positions, positions, device=str(device))
    at = torch.arange(positions, device=device)
    lowest = torch.finfo(torch.float32).min
    return torch.where(rule(0, 0, at[:, None], at[None, :]), 0.0, lowest)[None, None]


def row_losses(
    model: SmallLM, rows: Int[Tensor, "rows tokens"], masks: Masks, bos: int
) -> Float[Tensor, "rows predictions"]:
    """Cross-entropy in nats of each token of `rows` but the first; 0 where the token is BOS.

    BOS follows EOS by construction, so predicting it says nothing about text. bfloat16 autocast on
    CUDA, float32 elsewhere; the loss is float32.
    """
    inputs, targets = rows[:, :-1], rows[:, 1:]
    cuda = rows.device.type == "cuda"
    with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=cuda):
        hidden = model.model(input_ids=inputs, attention_mask=masks, use_cache=False)[0]
        logits = model.lm_head(hidden)
    logits = logits.float()  # rows, predictions, vocab
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    losses = cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=bos, reduction="none"
    )
    return losses.view(targets.shape)


def save_model(model: SmallLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Model in bfloat16 and tokenizer, in Hugging Face's layout. `model` becomes bfloat16."""
    model.set_attn_implementation("eager")
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # transformers writes weights that only their owner can read


def load_saved(folder: Path, device: torch.device) -> tuple[Any, Any]:
    """Model and tokenizer as users load them, but for the attention, which is the plain one."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return model.to(device), AutoTokenizer.from_pretrained(folder)


def measure_saved(
    folder: Path, stream: np.ndarray, context: int, device: torch.device
) -> dict[str, float | int]:
    """Loss of the model in `folder`, loaded as its users load it, on a stream of tokens.

    Means are over targets that are ordinary tokens (not BOS, EOS, padding). The rest of the stream
    that fills no row is left out.
    """
    model, tokenizer = load_saved(folder, device)
    rows = TokenRows(stream, context, tokenizer.bos_token_id, device)
    special = torch.tensor(sorted(special_ids(tokenizer)), device=device)
    lengths = torch.tensor([len(b) for b in vocabulary(tokenizer)], device=device)
    nats = torch.zeros((), dtype=torch.float64, device=device)
    tokens, text_bytes = 0, 0
    with torch.inference_mode():
        for batch in rows.in_order(_ROWS_AT_ONCE):
            targets = batch[:, 1:]
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits.float()
            losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            counts = ~torch.isin(targets, special).flatten()
            nats += losses[counts].double().sum()
            tokens += int(counts.sum())
            text_bytes += int(lengths[targets.flatten()[counts]].sum())
    return {
        "nats_per_token": float(nats) / tokens,
        "bits_per_byte": float(nats) / math.log(2) / text_bytes,
        "tokens": tokens,
        "bytes": text_bytes,
    }


def sample(folder: Path, device: torch.device, seed: int, new_tokens: int = 80) -> list[dict]:
    """What the saved model writes after each of PROMPTS: greedily, and at temperature 0.8."""
    model, tokenizer = load_saved(folder, device)
    written = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").to(device)
        for name, options in (
            ("greedy", {"do_sample": False}),
            ("temperature 0.8", {"do_sample": True, "temperature": 0.8, "top_k": 0}),
        ):
            torch.manual_seed(seed)
            out = model.generate(**ids, max_new_tokens=new_tokens, **options)
            text = tokenizer.decode(out[0], skip_special_tokens=True)
            written.append({"prompt": prompt, "method": name, "text": text})
    return written
