"""The processes of a run under torchrun: how they meet, and how they end together.

    torchrun --nproc-per-node 2 -m app.cli train ...

torchrun gives each process its rank in the environment. The first one speaks for all: the others
write no logs, and of an error that several of them run into, one sentence is said once.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from sae_core.placement import Device, chosen_device
from training.graph import RecordedHalves
from training.shard import ALONE, Shard

LOST = (
    "another process of this run has ended, and so does this one: give the same command again to "
    "go on from the last checkpoint."
)


@contextmanager
def together(device: Device) -> Iterator[Shard]:
    """Join the processes that torchrun has started; a run without torchrun is `ALONE`. Processes
    that have joined already stay as they are: inside one such block there may be several runs.

    Each takes the CUDA device of its number on its host, or the CPU. Errors are turned into
    one sentence of one process: ValueError there, SystemExit on the others.
    """
    world = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if world == 1:
        yield ALONE
        return
    if dist.is_initialized():
        yield Shard(dist.get_rank(), dist.get_world_size())
        return
    rank = int(os.environ["RANK"])
    before = logging.root.manager.disable
    if rank:
        logging.disable(logging.WARNING)
    try:
        backend = _backend(device)
        store, rank, world = next(iter(rendezvous("env://")))
        try:
            dist.init_process_group(backend, store=store, rank=rank, world_size=world)
            yield Shard(rank, world)
            # Not after an error: this waits for processes that are gone.
            RecordedHalves.forget_all()
            dist.destroy_process_group()
        except KeyboardInterrupt:
            if rank:
                raise SystemExit(130) from None
            raise
        except Exception as error:  # whatever it is, one process alone tells it
            first = _first_to_fail(store)
            lost = _is_lost(error)
            if (lost or isinstance(error, ValueError)) and not first:
                raise SystemExit(2) from error
            if lost:
                raise ValueError(LOST) from error
            raise
    finally:
        logging.disable(before)


def _backend(device: Device) -> str:
    """gloo for tensors on the CPU, NCCL for those on this process's CUDA device."""
    if chosen_device(device).type != "cuda":
        return "gloo"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise ValueError(
            f"process {local} of this host finds {torch.cuda.device_count()} CUDA devices only: "
            "start as many processes as there are (--nproc-per-node)."
        )
    torch.cuda.set_device(local)
    return "cpu:gloo,cuda:nccl"


def _first_to_fail(store: Any) -> bool:
    """Whether no other process has failed before; the store outlives those that did."""
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:
        return True  # the store ended with its process, which cannot say anything any more


def _is_lost(error: Exception) -> bool:
    """Whether an error says that another process does not answer."""
    if isinstance(error, dist.DistError):
        return True
    # gloo's errors have no type of their own.
    return type(error) is RuntimeError and "gloo" in str(error)
