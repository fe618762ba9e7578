"""NumPy's .npz, a zip of .npy files, as a container: nothing in it is unpickled.

`numpy.load` makes every array in memory before it can be copied, so the members are streamed here.
Reading a member to its end makes zipfile compare its CRC.
"""

import math
import tokenize
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from sae_core.formats.container import (
    BAD_ZIP,
    Container,
    HashedFile,
    Header,
    damaged,
    pour,
    refuse_placeholder,
    row_chunks,
)

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # savez, savez_compressed
_ENCRYPTED = 0x1
_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class NpzFile(Container):
    """The arrays of an .npz file."""

    def __init__(self, path: Path) -> None:
        """Read and check the headers; ValueError if this is no whole .npz file."""
        refuse_placeholder(path)
        self.path = path
        self.headers: Mapping[str, Header] = {}
        self._order: list[str] = []
        with self._open(HashedFile(path)) as archive:
            for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
                if not info.filename.endswith(".npy"):
                    raise ValueError(f"{path} holds {info.filename}, which is no NumPy array.")
                if info.compress_type not in _COMPRESSIONS or info.flag_bits & _ENCRYPTED:
                    raise ValueError(f"{path} is packed in an unknown way: write it with savez.")
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as member:
                    shape, _, dtype = self._header(member)
                    bytes_left = info.file_size - member.tell()
                if not dtype.hasobject and bytes_left != math.prod(shape) * dtype.itemsize:
                    raise damaged(path, f"{name} is shorter or longer than its shape")
                self.headers[name] = Header(shape, str(dtype), dtype.kind == "f")
                self._order.append(name)

    def read(self, into: Mapping[str, Tensor]) -> str:
        """As `Container.read`."""
        file = HashedFile(self.path)
        with self._open(file) as archive:
            for name in self._order:
                if name in into:
                    with archive.open(f"{name}.npy") as member:
                        self._pour(member, into[name], name)
            return file.hexdigest()

    def _pour(self, member: Any, target: Tensor, name: str) -> None:
        shape, fortran, dtype = self._header(member)
        if fortran and len(shape) > 1:
            # Column by column: the transpose, row by row.
            shape, target = shape[::-1], target.mT
        header = Header(shape, str(dtype), True)

        def blocks() -> Iterator[Tensor]:
            for count in row_chunks(header, dtype.itemsize):
                content = member.read(count * dtype.itemsize)
                if len(content) != count * dtype.itemsize:
                    raise damaged(self.path, f"{name} is shorter than its shape")
                numbers = np.frombuffer(content, dtype=dtype)
                with np.errstate(over="ignore"):  # becomes inf, which is refused
                    numbers = numbers.astype(np.float32)
                tensor = torch.from_numpy(numbers)
                yield tensor.view(-1, *shape[1:]) if shape else tensor
            if member.read(1):  # to the end, where the CRC is compared
                raise damaged(self.path, f"{name} is longer than its shape")

        pour(blocks(), target, name, self.path)

    def _header(self, member: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
        try:
            return _READ_HEADER[npy.read_magic(member)](member)
        except (ValueError, KeyError, tokenize.TokenError) as error:
            raise damaged(self.path, f"no NumPy array: {error}") from error

    @contextmanager
    def _open(self, file: HashedFile) -> Iterator[zipfile.ZipFile]:
        try:
            with file, zipfile.ZipFile(file) as archive:  # pyright: ignore[reportArgumentType]
                yield archive
        except BAD_ZIP as error:
            raise damaged(self.path, f"no whole .npz file: {error}") from error
