"""A safetensors file as a container.

The library checks the file's structure; the numbers are then read front to back rather than
through its memory map, whose pages would stand in memory beside the SAE.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sae_core.formats.container import (
    Container,
    HashedFile,
    Header,
    block,
    damaged,
    pour,
    refuse_placeholder,
    row_chunks,
)

_FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class SafetensorsFile(Container):
    """The tensors of a safetensors file."""

    def __init__(self, path: Path) -> None:
        """Read and check the headers; ValueError if this is no whole safetensors file."""
        refuse_placeholder(path)
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise damaged(path, f"no safetensors file: {error}") from error
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            written = json.loads(file.read(length))
        written.pop("__metadata__", None)
        self.path = path
        self.headers: Mapping[str, Header] = {
            name: Header(tuple(entry["shape"]), entry["dtype"], entry["dtype"] in _FLOATS)
            for name, entry in written.items()
        }
        # Offsets are counted from the end of the headers.
        self._start = {
            name: 8 + length + entry["data_offsets"][0] for name, entry in written.items()
        }

    def number(self, name: str) -> float:
        """A tensor of one element as a number."""
        with safe_open(self.path, framework="pt") as file:
            return float(file.get_tensor(name))

    def read(self, into: Mapping[str, Tensor]) -> str:
        """As `Container.read`."""
        with HashedFile(self.path) as file:
            file.read(min(self._start.values()))
            for name in sorted(into, key=self._start.__getitem__):
                file.seek(self._start[name])
                pour(self._blocks(file, self.headers[name]), into[name], name, self.path)
            return file.hexdigest()

    def _blocks(self, file: HashedFile, header: Header) -> Iterator[Tensor]:
        dtype = _FLOATS[header.dtype]
        for count in row_chunks(header, dtype.itemsize):
            numbers = bytearray(count * dtype.itemsize)
            if file.readinto(numbers) != len(numbers):
                raise damaged(self.path, "it ends early")
            yield block(numbers, dtype, header)
