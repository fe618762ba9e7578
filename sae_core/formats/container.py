"""Files that hold named tensors, poured into an SAE's parameters without a second copy of them.

An SAE of a million features is 19 GB. So a container's headers are read first, the parameters are
made from them, and the numbers are then copied in a few rows at a time, made float32, checked and
hashed in the same pass: memory is the SAE and one chunk.
"""

import hashlib
import io
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 1 << 22
"""How much of a file is in memory at once; at least one row of a matrix."""

BAD_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
"""What zipfile raises while it reads a damaged archive."""


@dataclass(frozen=True)
class Header:
    """What a container says about a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: str
    """Its dtype, in the container's own words."""
    is_float: bool

    @property
    def row(self) -> int:
        """Numbers in one row; a scalar and a vector have rows of one number."""
        count = 1
        for size in self.shape[1:]:
            count *= size
        return count


class DamagedError(ValueError):
    """What is wrong with the container at `path`: it is empty, damaged or cut short."""

    def __init__(self, path: Path, wrong: str) -> None:
        super().__init__(f"{path} is {wrong}: copy or download it again.")
        self.path, self.wrong = path, wrong


class Container(ABC):
    """A file of named tensors; making one reads and checks its headers."""

    path: Path
    headers: Mapping[str, Header]

    @abstractmethod
    def read(self, into: Mapping[str, Tensor]) -> str:
        """Fill the tensors of `into`, of the stored shapes, and return the file's SHA-256.

        ValueError with one sentence where the file is damaged or a value is not finite.
        """


def pour(blocks: Iterable[Tensor], target: Tensor, name: str, path: Path) -> None:
    """Copy consecutive rows into `target`; ValueError where one of its values is not finite."""
    rows = target if target.ndim else target[None]
    start = 0
    for block in blocks:
        part = rows[start : start + len(block)]
        part.copy_(block)
        # Looked at in the target's dtype, in which a large number may have overflowed; the
        # extremes are NaN if anything is.
        low, high = part.aminmax()
        if not (bool(low.isfinite()) and bool(high.isfinite())):
            raise ValueError(f"{name} in {path} holds values that are not finite.")
        start += len(block)
    assert start == len(rows)


def row_chunks(header: Header, item_bytes: int) -> Iterator[int]:
    """How many numbers to read at a time: whole rows, about `CHUNK_BYTES`, until all are read."""
    left = header.shape[0] if header.shape else 1
    step = max(1, CHUNK_BYTES // max(1, header.row * item_bytes))
    while left > 0:
        yield min(step, left) * header.row
        left -= step


class HashedFile(io.RawIOBase):
    """A file that is hashed while it is read; one that is read in order is read once."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed with this object
        self._sha = hashlib.sha256()
        self._hashed = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; what is skipped for good is read for the hash at the end."""
        if whence == os.SEEK_SET and offset < 0:  # where a zip's directory is damaged
            raise EOFError("it points before its start")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The place of the next byte."""
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` and return the number of bytes; fewer than its length at the file's end."""
        at = self._file.tell()
        count = self._file.readinto(buffer)
        if at <= self._hashed < at + count:
            self._sha.update(memoryview(buffer)[self._hashed - at : count])
            self._hashed = at + count
        return count

    def hexdigest(self) -> str:
        """SHA-256 of the whole file."""
        self.seek(self._hashed)
        rest = bytearray(CHUNK_BYTES)
        while self.readinto(rest):
            pass
        return self._sha.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def refuse_placeholder(path: Path) -> None:
    """ValueError for a file that is missing, empty, a Git LFS pointer or a web page."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist.")
    with open(path, "rb") as file:
        start = file.read(256)
    if not start:
        raise DamagedError(path, "empty")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not the weights: run git lfs pull.")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ValueError(
            f"{path} is a web page saved in place of the weights: download the file itself."
        )


def damaged(path: Path, reason: object) -> DamagedError:
    """The error for a container that cannot be read."""
    said = " ".join(str(reason).split()).rstrip(".")
    return DamagedError(path, f"damaged or cut short ({said})")


def block(numbers: bytearray, dtype: torch.dtype, header: Header) -> Tensor:
    """Rows of a tensor from their bytes, sharing the memory."""
    tensor = torch.frombuffer(numbers, dtype=dtype)
    return tensor.view(-1, *header.shape[1:]) if header.shape else tensor
