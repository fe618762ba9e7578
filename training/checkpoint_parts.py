"""Checkpoints of several processes: each writes its own features, any number of them reads them.

A checkpoint is a folder of safetensors files, written and read through torch.distributed.checkpoint
(DCP), and state.json. It is written under another name, to which a process that was killed leaves
it, and renamed by the first process when all have written and flushed. Whoever continues asks for
the features that are its own; DCP takes them from whichever files hold them.
"""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import Shard as Split

from sae_core.files import atomic_write
from training.checkpoint_file import DamagedError
from training.shard import Shard, features_dim

STATE_FILE = "state.json"


def save_parts(path: Path, tensors: dict[str, Tensor], state: dict[str, Any], shard: Shard) -> None:
    """Write `tensors`, this process's features of them, to the folder `path`.

    All processes call this together; ValueError on all of them if one cannot write.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    if shard.first:
        # Of a run that was killed while it wrote.
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    shard.barrier()
    parts = {name: _part(name, t.detach().cpu().contiguous(), shard) for name, t in tensors.items()}
    try:
        writer = _dcp("HuggingFaceStorageWriter")(str(temporary), save_distributed=True)
        save(parts, storage_writer=writer)
    except CheckpointException as error:
        raise ValueError(
            f"checkpoint {path} cannot be written ({_cause(error)}): free some space, then give "
            "the same command again."
        ) from error
    if shard.first:
        files = sum(1 for _ in temporary.glob("*.safetensors"))
        with atomic_write(temporary / STATE_FILE) as written:
            written.write_text(json.dumps({"files": files, "state": state}))
        shutil.rmtree(path, ignore_errors=True)  # there is one only if it was damaged
        temporary.rename(path)
    shard.barrier()


def load_parts(path: Path, shard: Shard) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """This process's features, on the CPU, and the state; DamagedError on all processes if
    something is missing. All call this together.
    """
    reader = _dcp("HuggingFaceStorageReader")(str(path))
    try:
        header = json.loads((path / STATE_FILE).read_text())
        state, files = header["state"], sum(1 for _ in path.glob("*.safetensors"))
        if files != header["files"]:
            raise DamagedError(f"{files} of {header['files']} files")
        parts = {}
        for name, entry in reader.read_metadata().state_dict_metadata.items():
            size, dim = list(entry.size), features_dim(name)
            if dim is not None:
                size[dim] //= shard.world
            parts[name] = _part(name, torch.empty(size, dtype=entry.properties.dtype), shard)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load(parts, storage_reader=reader, no_dist=shard.alone)
    except (SafetensorError, FileNotFoundError, json.JSONDecodeError, KeyError) as error:
        raise DamagedError(error) from error
    except CheckpointException as error:
        raise DamagedError(_cause(error)) from error
    return {n: p.to_local() if isinstance(p, DTensor) else p for n, p in parts.items()}, state


def _part(name: str, tensor: Tensor, shard: Shard) -> Tensor:
    """A tensor that knows which features it holds; whole ones as they are."""
    dim = features_dim(name)
    if shard.alone or dim is None:
        return tensor
    mesh = init_device_mesh("cpu", (shard.world,))
    return DTensor.from_local(tensor, mesh, [Split(dim)], run_check=False)


def _cause(error: CheckpointException) -> str:
    """The first process's error that made DCP give up."""
    causes = [cause for cause, _ in error.failures.values()]
    return str(causes[0]) if causes else str(error)


def _dcp(name: str) -> Any:
    """A class of DCP's; ValueError where PyTorch is too old to have it."""
    if not hasattr(dcp, name):
        raise ValueError(
            f"PyTorch {torch.__version__} cannot save the parts of a run in several processes: "
            "install 2.9 or newer."
        )
    return getattr(dcp, name)
