"""A checkpoint of one process: a safetensors file, the place in the text as JSON in its header."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae_core.files import atomic_write
from training.shard import Shard, features_dim


class DamagedError(Exception):
    """A checkpoint that is not whole; says why."""


def save_whole(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write `tensors` and `state`; ValueError if the disk is full."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(on_cpu, temporary, metadata={"state": json.dumps(state)})
        except SafetensorError as error:
            # The library wraps the system's error in its own; the disk is the only cause here.
            raise ValueError(
                f"checkpoint {path} cannot be written ({error}): free some space, then give the "
                "same command again."
            ) from error


def load_whole(path: Path, shard: Shard) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The features that are `shard`'s, on the CPU, and the state; DamagedError if the file is not
    whole.
    """
    tensors = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = json.loads(file.metadata()["state"])
            for name in file.keys():  # noqa: SIM118
                dim = features_dim(name)
                if shard.alone or dim is None:
                    tensors[name] = file.get_tensor(name)
                else:
                    part = file.get_slice(name)
                    mine = shard.features(part.get_shape()[dim])
                    tensors[name] = part[:, mine] if dim else part[mine]
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DamagedError(error) from error
    return tensors, state
