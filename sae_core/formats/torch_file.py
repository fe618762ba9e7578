"""A PyTorch file (torch.save) as a container: only tensors and plain values are unpickled.

PyTorch maps the file into memory and does not compare its checksums, so that is done in a pass of
its own, with the hash; the pages are then still in the system's cache.
"""

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.formats.container import (
    BAD_ZIP,
    CHUNK_BYTES,
    Container,
    HashedFile,
    Header,
    damaged,
    pour,
    refuse_placeholder,
    row_chunks,
)

# What unpickling bytes that are no pickle may come upon, whole PyTorch files apart.
_UNREADABLE = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
    OSError,
)


class TorchFile(Container):
    """The tensors of a state dict, and what else the file holds in `values`."""

    def __init__(self, path: Path, inside: str | None = None) -> None:
        """Map the file; ValueError if it is no state dict of tensors.

        If it is a dict of several things, the state dict is its entry `inside`.
        """
        refuse_placeholder(path)
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} is no PyTorch file, or holds more than tensors, which is not unpickled: "
                "save the state dict alone."
            ) from error
        except _UNREADABLE as error:
            raise damaged(path, "no whole PyTorch file") from error
        if isinstance(loaded, dict) and isinstance(loaded.get(inside), dict):
            self.values: dict[str, Any] = {k: v for k, v in loaded.items() if k != inside}
            loaded = loaded[inside]
        else:
            self.values = {}
        if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
            raise ValueError(f"{path} holds no state dict: it must map names to tensors.")
        self.path = path
        self._tensors: dict[str, Tensor] = loaded
        self.headers: Mapping[str, Header] = {
            name: Header(
                tuple(tensor.shape),
                str(tensor.dtype).removeprefix("torch."),
                tensor.dtype.is_floating_point,
            )
            for name, tensor in loaded.items()
        }

    def number(self, name: str) -> float:
        """A tensor of one element as a number."""
        return float(self._tensors[name])

    def read(self, into: Mapping[str, Tensor]) -> str:
        """As `Container.read`."""
        digest = self._checked()
        for name, target in into.items():
            tensor, header = self._tensors[name], self.headers[name]
            counts = [count // header.row for count in row_chunks(header, tensor.dtype.itemsize)]
            blocks = (tensor if tensor.ndim else tensor[None]).split(counts)
            pour(blocks, target, name, self.path)
        return digest

    def _checked(self) -> str:
        """The file's hash; ValueError where a member does not match its checksum."""
        with HashedFile(self.path) as file:
            if _is_zip(self.path):
                try:
                    with zipfile.ZipFile(file) as archive:  # pyright: ignore[reportArgumentType]
                        for info in sorted(archive.infolist(), key=lambda i: i.header_offset):
                            with archive.open(info) as member:
                                while member.read(CHUNK_BYTES):
                                    pass
                except BAD_ZIP as error:
                    raise damaged(self.path, error) from error
            return file.hexdigest()


def _is_zip(path: Path) -> bool:
    """Whether it starts as files do since PyTorch 1.6; those before are not mapped."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"
