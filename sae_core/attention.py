"""Exact attention without arrays of prompt x prompt: eager's arithmetic, block by block.

    weights = softmax(mask(softcap * tanh(q k' * scaling / softcap)))    in float32

Gemma 2 caps its attention logits. PyTorch's fused attention cannot, and eager attention keeps
`[heads, T, T]` arrays, some 2 GiB each for Gemma 2 9B at 8,192 tokens. Here queries are taken in
blocks of at most `MOST_SCORES` scores, each against the keys that its mask lets it see, and the
mask stays a rule that is worked out for one block at a time. A prompt of one block goes through
eager's own operations in eager's order and gives the same bits; several blocks differ from eager
only by the order in which a product's terms are summed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

CHUNKED = "jumpscope_chunked"
"""Name of this implementation in transformers (`attn_implementation`), once registered."""

MOST_SCORES = 2**24
"""Most attention scores held at once over rows and heads: 64 MiB in float32, of which the softmax
needs two or three. Gemma 2 2B's prompts of up to 1,448 tokens are one block."""


def register() -> None:
    """Register `CHUNKED` with transformers; it may be called again."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(CHUNKED, chunked_attention)
    AttentionMaskInterface.register(CHUNKED, mask_rule)


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """Which keys each query sees, as a rule: `[rows, 1, queries, keys]` is never whole."""

    rows: int
    allows: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """(row, head, query, key) as broadcastable integer tensors -> True where the query sees it."""
    first_query: int | Tensor
    """Number of the first query in the text; `first_key` likewise."""
    first_key: int | Tensor
    keys: int
    device: torch.device | str
    _spans: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict, repr=False)
    _latest: dict[tuple[int, int, int, int], Tensor] = field(default_factory=dict, repr=False)

    def hidden(
        self, start: int, stop: int, first: int, last: int
    ) -> Bool[Tensor, "rows 1 queries keys"]:
        """True where queries start to stop - 1 do not see keys first to last - 1.

        The latest answer is kept: layers ask for the same block one after another.
        """
        block = (start, stop, first, last)
        if block not in self._latest:
            query = torch.arange(start, stop, device=self.device) + self.first_query
            key = torch.arange(first, last, device=self.device) + self.first_key
            row = torch.arange(self.rows, device=self.device)
            seen = self.allows(
                row[:, None, None, None],
                torch.zeros(1, 1, 1, 1, dtype=torch.long, device=self.device),
                query[:, None],
                key,
            )
            self._latest.clear()
            self._latest[block] = ~seen.expand(self.rows, 1, stop - start, last - first)
        return self._latest[block]

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """First key that any of these queries sees, and the one after the last."""
        if (start, stop) not in self._spans:
            seen = (~self.hidden(start, stop, 0, self.keys)).any(dim=0).any(dim=0).any(dim=0)
            numbers = seen.nonzero()[:, 0].tolist()
            # Padding sees nothing, and nothing reads what it gets.
            self._spans[start, stop] = (numbers[0], numbers[-1] + 1) if numbers else (0, self.keys)
        return self._spans[start, stop]


def mask_rule(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    *,
    mask_function: Callable[..., Tensor],
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    device: torch.device | str = "cpu",
    **_kwargs: Any,
) -> MaskRule | None:
    """What transformers asks for in place of a mask; None if every query sees every key."""
    from transformers.masking_utils import and_masks, padding_mask_function, prepare_padding_mask

    if (
        allow_is_causal_skip
        and attention_mask is None
        and q_length == 1
        and (local_size is None or kv_length < local_size)
        and isinstance(q_offset, int)
        and q_offset + 1 == kv_offset + kv_length
    ):
        return None  # one token after a cache that ends with it
    padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)  # pyright: ignore[reportArgumentType]
    if padding is not None:
        mask_function = and_masks(mask_function, padding_mask_function(padding))
    return MaskRule(
        rows=batch_size,
        allows=mask_function,
        first_query=q_offset,
        first_key=kv_offset,
        keys=kv_length,
        device=device,
    )


def chunked_attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch kv_heads keys width"],
    value: Float[Tensor, "batch kv_heads keys value_width"],
    attention_mask: MaskRule | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    **_kwargs: Any,
) -> tuple[Float[Tensor, "batch queries heads value_width"], None]:
    """Attention as transformers' eager functions compute it; the weights are not returned.

    `attention_mask` may stand for one row of a batch of several. Raises ValueError for a prepared
    4D mask, which is the array that this implementation avoids.
    """
    if isinstance(attention_mask, Tensor):
        raise ValueError(f"attention {CHUNKED} takes a 2D mask or none: give no 4D attention_mask.")
    rows, heads, queries, width = query.shape
    keys = key.shape[2]
    if attention_mask is None and queries > 1 and getattr(module, "is_causal", False):
        raise ValueError(f"{type(module).__name__} makes no mask for attention {CHUNKED}.")

    def attend(start: int, stop: int, first: int, last: int, k: Tensor, v: Tensor) -> Tensor:
        """Outputs [batch, heads, stop - start, value_width]; heads that share keys lie together."""
        shared = k.shape[1]
        q = query[:, :, start:stop].reshape(rows, shared, -1, width)
        scores = torch.matmul(q, k[:, :, first:last].transpose(2, 3))
        scores = scores * (width**-0.5 if scaling is None else scaling)
        if softcap is not None:
            scores = scores / softcap  # a line each, so that no more than two arrays live
            scores = torch.tanh(scores)
            scores = scores * softcap
        if attention_mask is not None:
            hidden = attention_mask.hidden(start, stop, first, last).to(scores.device)
            by_head = scores.view(rows, shared, -1, stop - start, last - first)
            least = torch.finfo(scores.dtype).min
            scores = by_head.masked_fill(hidden[:, :, None], least).view(scores.shape)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
        weights = nn.functional.dropout(weights, p=dropout, training=module.training)
        outputs = torch.matmul(weights, v[:, :, first:last])
        return outputs.view(rows, heads, stop - start, -1)

    size = max(1, MOST_SCORES // (rows * heads * keys))
    if queries <= size:
        # As eager repeats them: with other strides the same product may round differently.
        repeats = (-1, -1, heads // key.shape[1], -1, -1)
        k, v = (t[:, :, None].expand(repeats).flatten(1, 2) for t in (key, value))
        outputs = attend(0, queries, 0, keys, k, v)
    else:
        blocks = [(start, min(start + size, queries)) for start in range(0, queries, size)]
        rule = attention_mask
        outputs = torch.cat(
            [
                attend(*block, *(rule.span(*block) if rule else (0, keys)), key, value)
                for block in blocks
            ],
            dim=2,
        )
    return outputs.transpose(1, 2).contiguous(), None
