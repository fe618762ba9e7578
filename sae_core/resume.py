"""One forward of a text that others go on from, each with something changed.

In a causal model a change at token p of block L leaves three things as they are: every token before
p, every block before L at all tokens, and the keys and values of both. `BaseForward` computes them
once. `resumed` then runs tokens from p on through the blocks from L on, as many rows as are wanted,
over the keys and values of the tokens before.

The model runs by its own code. Blocks that are not needed return what they returned in the first
forward, and a cache (`sae_core.prefix_cache`) hands out the shared keys without keeping any: so
masks, sliding windows, positions and soft caps are the model's.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.config import Site
from sae_core.sites import capture, layers


class BaseForward:
    """A plain forward of one text, and what other forwards share with it.

    `after` lists blocks after which others may go on (-1, the embeddings, is always possible), and
    `sites` activations to keep. Callers hold the model's lock. ValueError for a model whose cache
    is not one of keys and values.
    """

    def __init__(
        self, model: Any, ids: Sequence[int], after: Iterable[int] = (), sites: Sequence[Site] = ()
    ) -> None:
        from sae_core.prefix_cache import keys_of, whole_cache

        self.model = model
        device = model.get_input_embeddings().weight.device
        self.ids = torch.tensor([list(ids)], device=device)
        _, self._blocks = layers(model)
        self._after: dict[int, Any] = {}
        cache = whole_cache(model)
        with torch.no_grad(), capture(model, sites) as captured, self._kept(after):
            output = model.base_model(input_ids=self.ids, past_key_values=cache, use_cache=True)
        self.sites: dict[Site, Float[Tensor, "1 pos width"]] = dict(captured)
        self.hidden: Float[Tensor, "1 pos hidden"] = output.last_hidden_state
        """What the head reads."""
        self.keys = keys_of(cache)
        """Keys and values `[1, heads, pos, width]` of each block."""
        assert len(self.keys) == len(self._blocks)

    @contextmanager
    def _kept(self, after: Iterable[int]) -> Iterator[None]:
        """Inside the block, keep what these blocks return, whole."""

        def keeper(number: int) -> Any:
            def keep(_module: nn.Module, _args: Any, output: Any) -> None:
                self._after[number] = output

            return keep

        handles = [
            self._blocks[number].register_forward_hook(keeper(number))
            for number in sorted(set(after))
            if number >= 0
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def resumed(
        self, rows: int, start: int, stop: int, after: int
    ) -> Float[Tensor, "rows pos hidden"]:
        """What the head reads at tokens start to stop - 1 of `rows` equal rows, run from the output
        of block `after` on (-1: from the embeddings).

        Hooks make the rows differ. They may sit on block `after` itself, where they see its output,
        and on later ones. Gradients are the caller's to switch on or off.
        """
        ids = self.ids[:, start:stop]
        if after < 0:
            ids = ids.expand(rows, -1)
        cache: dict[str, Any] = {"use_cache": False}
        if start:
            from sae_core.prefix_cache import prefix_cache

            cache = {"use_cache": True, "past_key_values": prefix_cache(self.keys, start)}
        # One row of positions and masks serves all rows: they broadcast.
        with self._skipped(rows, start, stop, after):
            return self.model.base_model(input_ids=ids, **cache).last_hidden_state

    @contextmanager
    def _skipped(self, rows: int, start: int, stop: int, after: int) -> Iterator[None]:
        """Inside the block, blocks up to `after` return what that one returned before."""
        skipped = list(self._blocks)[: after + 1]
        own = [block.__dict__.get("forward") for block in skipped]

        def forward(*_args: Any, **_kwargs: Any) -> Any:
            output = self._after[after]
            x = output[0] if isinstance(output, tuple) else output
            x = x[:, start:stop].expand(rows, -1, -1)
            return (x, *output[1:]) if isinstance(output, tuple) else x

        try:
            for block in skipped:
                block.__dict__["forward"] = forward
            yield
        finally:
            for block, before in zip(skipped, own, strict=True):
                if before is None:
                    block.__dict__.pop("forward", None)
                else:  # a model that is spread over devices has its own there
                    block.__dict__["forward"] = before
