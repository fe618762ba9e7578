"""Tokens whose pre-activations stand for those of all: kept as what the SAE reads.

Of up to 16,384 tokens all are in the sample; beyond, every second up to twice as many, every fourth
up to four times as many and so on: those whose random priority 2, 4, ... divides. So the sample is
settled by which tokens have been read, neither by their order nor by who read them, and a token in
it stands for as many as any other.
"""

from typing import Any

import torch
from torch import Tensor

MOST = 2**14
"""Tokens in the sample, give or take the chance in their choice: more than half as many, at most
as many."""
_PARTS = 64
"""Parts kept apart before they become one."""


def stride(tokens: int) -> int:
    """Of how many tokens one is in the sample when `tokens` have been read."""
    return 1 << max(0, (tokens - 1) // MOST).bit_length()


class TokenSample:
    """The sample of one SAE's inputs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stride = 1
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        # Of each: inputs, priorities, and places in the stream, by which they are sorted.

    def add(self, x: Tensor, priority: Tensor, place: Tensor, tokens: int) -> None:
        """Choose from inputs `x [n, d_model]`; `tokens` have been read, these among them. `place`
        orders tokens as they stand in the stream.
        """
        self._stride = max(self._stride, stride(tokens))
        chosen = priority % self._stride == 0
        if bool(chosen.any()):
            self._parts.append((x[chosen], priority[chosen], place[chosen]))
        if len(self._parts) > _PARTS:
            self._join()

    def inputs(self, tokens: int) -> Tensor:
        """The sample of all `tokens` that have been read, in the order of the stream, float32."""
        if not self._parts:
            return torch.empty((0, 0), device=self._device)
        self._stride = max(self._stride, stride(tokens))
        self._join()
        return self._parts[0][0].float()

    def _join(self) -> None:
        """One part of all, sorted, without those that the stride leaves out."""
        x, priority, place = (torch.cat(column) for column in zip(*self._parts, strict=True))
        chosen = (priority % self._stride == 0).nonzero()[:, 0]
        order = chosen[place[chosen].argsort()]
        self._parts = [(x[order], priority[order], place[order])]

    def clear(self) -> None:
        """Forget all tokens."""
        self._parts, self._stride = [], 1

    def absorb(self, state: dict[str, Any], rows: int = 0) -> None:
        """Take in another sample, of tokens that are `rows` rows further in the stream than it
        says.
        """
        if state:
            self._stride = max(self._stride, state["stride"])
            x, priority, place = (state[name].to(self._device) for name in _COLUMNS)
            self._parts.append((x, priority, place + (rows << 16)))

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs; nothing while there are no tokens."""
        if not self._parts:
            return {}
        self._join()
        columns = zip(_COLUMNS, self._parts[0], strict=True)
        return {"stride": self._stride, **dict(columns)}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.clear()
        self.absorb(state)


_COLUMNS = ("x", "priority", "place")
