"""The memory of the devices that the model runs on, and what is said when it is full."""

import ctypes
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    import torch


_M_MMAP_THRESHOLD: Final = -3
_LARGE: Final = 1 << 20
"""Bytes from which on a block of memory is the system's again as soon as it is freed."""


def give_back_freed_memory() -> None:
    """Let glibc return large blocks when they are freed.

    Left to itself it keeps blocks of up to 32 MB for later, with what is small and stays between
    them: after a hundred analyses of different texts that is as much as the model takes.
    """
    if (mallopt := _of_glibc("mallopt")) is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def give_back_free_pages() -> None:
    """Give back the pages that are free between small blocks in use; takes some milliseconds."""
    if (malloc_trim := _of_glibc("malloc_trim")) is not None:
        malloc_trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc's allocator; None where there is another one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def free_and_total(devices: "Sequence[torch.device]") -> tuple[int, int]:
    """Bytes that are free for tensors on some devices together, and all that they have.

    Free on CUDA includes what PyTorch holds without using it; on the processor it is what the
    operating system could give without swapping.
    """
    sizes = [_cuda(each) if each.type == "cuda" else _processor() for each in devices]
    return sum(free for free, _ in sizes), sum(total for _, total in sizes)


def _cuda(device: "torch.device") -> tuple[int, int]:
    import torch

    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + held, total


def _processor() -> tuple[int, int]:
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def gigabytes(count: int) -> str:
    """Bytes as words: `1.2 GB`, `340 MB`."""
    for size, unit in ((10**9, "GB"), (10**6, "MB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1000:.3g} kB"


@contextmanager
def refused_when_full(sentence: str) -> Iterator[None]:
    """Inside the block a CUDA device that runs out of memory is a ValueError that says `sentence`.

    What the failed computation held is free again when the error leaves the block.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        # The traceback's frames hold the tensors of the computation for as long as anybody holds
        # the error, as the one raised here does.
        traceback.clear_frames(error.__traceback__)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise ValueError(sentence) from None
