"""Nested states of tensors and plain values as safetensors files.

Each tensor stands under the names of the keys that lead to it, joined by dots; `json` (uint8) is
all the rest as JSON, in which `{"tensor": NAME}` stands in a tensor's place.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor

_JSON, _TENSOR = "json", "tensor"


def to_bytes(state: dict[str, Any]) -> bytes:
    """The bytes of such a file."""
    return save(on_host(flat(state)))


def from_bytes(data: bytes) -> dict[str, Any]:
    """Inverse of `to_bytes`."""
    return nested(load(data))


def write(path: Path, state: dict[str, Any], marks: dict[str, str]) -> None:
    """Write a file; `marks` are its metadata."""
    save_file(on_host(flat(state)), path, metadata=marks)


def read_marks(path: Path) -> dict[str, str]:
    """The metadata of a file; ValueError if it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file.") from error


def read(path: Path) -> dict[str, Any]:
    """The state that `write` was given; ValueError if the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return nested({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: what it holds cannot be read.") from error


def flat(state: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file, where they are."""
    tensors: dict[str, Tensor] = {}

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value.detach().contiguous()
            return {_TENSOR: name}
        if isinstance(value, dict):
            return {
                key: plain(each, f"{name}.{key}" if name else key) for key, each in value.items()
            }
        if isinstance(value, list | tuple):
            return [plain(each, f"{name}.{i}") for i, each in enumerate(value)]
        return value

    text = json.dumps(plain(state, "")).encode()
    return tensors | {_JSON: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, no two in the same memory, as a file must have them."""
    memory: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.cpu()
        if own.untyped_storage().data_ptr() in memory:
            own = own.clone()
        memory.add(own.untyped_storage().data_ptr())
        tensors[name] = own
    return tensors


def nested(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Inverse of `flat`."""

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            if value.keys() == {_TENSOR}:
                return tensors[value[_TENSOR]]
            return {key: whole(each) for key, each in value.items()}
        if isinstance(value, list):
            return [whole(each) for each in value]
        return value

    return whole(json.loads(tensors[_JSON].numpy().tobytes()))
