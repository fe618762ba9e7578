"""A whole number that the device is asked for while it goes on working: `Readback`."""

import torch
from jaxtyping import Int
from torch import Tensor


class Readback:
    """Asks for one number at a time; only the answer is waited for."""

    def __init__(self, device: torch.device) -> None:
        on_cuda = device.type == "cuda"
        self._number = torch.empty(1, dtype=torch.int32, pin_memory=on_cuda)
        self._there = torch.cuda.Event() if on_cuda else None

    def ask(self, number: Int[Tensor, " 1"]) -> None:
        """Have the device tell this number (int32) once it gets there."""
        self._number.copy_(number, non_blocking=True)
        if self._there is not None:
            self._there.record()

    def answer(self) -> int:
        """What was asked for last; waits until the device has got there."""
        if self._there is not None:
            self._there.synchronize()
        return int(self._number)
