"""Tokens per second of a training step on one GPU and on several of one host. Prints JSON.

    torchrun --nproc-per-node 2 benchmarks/train_multi.py --out benchmarks/results/train_multi.json

No language model: batches of random activations in rotation, the same on every GPU, with L0 matched
(see `train_step.py`). In one run, the first GPU takes the step of one process while the others
wait, then all take it together, their features shared out; several times in turns. A GPU's own time
between two steps is measured by events; the slowest one's median counts.
"""

import itertools
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# Before NCCL starts: sums in the switch need a permission that not every container has.
os.environ.setdefault("NCCL_NVLS_ENABLE", "0")

import torch
import torch.distributed as dist
import tyro
from torch import Tensor
from torch.cuda.nccl import version as nccl_version
from train_step import machine, random_activations
from train_step_peers import matching_threshold

from benchmarks.compact_json import compact_json
from training.kernels.shards import ShardKernels
from training.losses import JumpReLULoss
from training.optim import BETA2
from training.processes import together
from training.sae_trainer import compiler
from training.shard import ALONE, Shard
from training.sparse_step import SparseStep, feature_rows, kernels_for
from training.step import DenseStep, Setting, State, Step
from training.trained_form import initial_parameters


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure; on GPUs that do nothing else."""

    d_model: int = 2304
    """Width of the activations."""
    d_sae: int = 65_536
    """Features."""
    batch: int = 4096
    """Tokens of a step."""
    l0: int = 64
    """Active features per token."""
    bandwidth: float = 0.001
    """Of the threshold's window, for inputs of mean squared norm 1."""
    steps: int = 60
    """Of one measurement, a quarter of which warms up."""
    kinds: tuple[Literal["sparse", "dense"], ...] = ("sparse", "dense")
    """Steps that are measured."""
    turns: int = 3
    """Times that each is measured."""
    out: Path | None = None
    """File to write the JSON to as well."""


def made(kind: str, shard: Shard, batches: list[Tensor], options: Options) -> Step:
    """A step of an SAE of which `shard` is held."""
    device = batches[0].device
    parameters = initial_parameters(options.d_model, options.d_sae, 0.01, 0, device, shard=shard)
    with torch.no_grad():
        # The threshold of one half of random features is that of all, up to noise.
        l0 = options.l0 // shard.world
        threshold = matching_threshold(batches[0], parameters["W_enc"], l0)
        parameters["threshold"].fill_(threshold)
    if kind == "sparse":
        parameters = feature_rows(parameters)

    def constant(value: float) -> Tensor:
        return torch.tensor(value, device=device)

    state = State.of(parameters)
    setting = Setting(
        scale=constant(1.0),
        mean=torch.zeros(options.d_model, device=device),
        coefficient=constant(1.0),
        target=constant(float(options.l0)),
        gain=constant(0.01),
    )
    compile_ = compiler("default", device)
    loss = JumpReLULoss(
        bandwidth=options.bandwidth, products=torch.bfloat16, compiler=compile_, shard=shard
    )
    dense = DenseStep(state, loss, setting, compile_, shard=shard)
    if kind == "dense":
        return dense
    kernels = None if shard.alone else ShardKernels(shard, kernels_for(device))
    return SparseStep(state, loss, setting, dense, kernels=kernels)


def measured(step: Step, batches: list[Tensor], options: Options) -> float:
    """Median milliseconds of a step."""
    rows = [(1e-9, 1.0, 1 - BETA2 ** (t + 1), t + 1.0) for t in range(options.steps)]
    controls = torch.tensor(rows, device=batches[0].device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(options.steps + 1)]
    events[0].record()
    for i, control in enumerate(controls):
        step(batches[i % len(batches)], control)
        events[i + 1].record()
    torch.cuda.synchronize()
    times = [a.elapsed_time(b) for a, b in itertools.pairwise(events)]
    return statistics.median(times[options.steps // 4 :])


def main(options: Options) -> None:
    """Measure; the first process prints."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    with together("cuda") as shard:
        if shard.alone:
            raise SystemExit("start it under torchrun, with a process for each GPU.")
        batches = random_activations(options.batch, options.d_model)
        measurements: dict[str, Any] = {}
        for kind in options.kinds:
            times: dict[str, list[float]] = {"one": [], "all": []}
            for _ in range(options.turns):
                for name, part in (("one", ALONE), ("all", shard)):
                    took = 0.0
                    if shard.first or part is shard:
                        torch.cuda.reset_peak_memory_stats()
                        took = measured(made(kind, part, batches, options), batches, options)
                        measurements[f"{kind}_{name}_peak_gb"] = round(
                            torch.cuda.max_memory_allocated() / 1e9, 2
                        )
                    torch.cuda.empty_cache()
                    slowest = torch.tensor(took)
                    dist.all_reduce(slowest, dist.ReduceOp.MAX)
                    times[name].append(float(slowest))
            one, every = (statistics.median(times[name]) for name in ("one", "all"))
            measurements[kind] = {
                "one_gpu_ms": [round(t, 3) for t in times["one"]],
                "all_gpus_ms": [round(t, 3) for t in times["all"]],
                "one_gpu_tokens_per_s": round(options.batch / one * 1e3),
                "all_gpus_tokens_per_s": round(options.batch / every * 1e3),
                "times_one_gpu": round(one / every, 3),
            }
        if shard.first:
            shape = {"d_model": options.d_model, "d_sae": options.d_sae, "batch": options.batch}
            nccl = ".".join(map(str, nccl_version()))
            result = {
                "machine": {**machine(), "gpus": shard.world, "nccl": nccl},
                **shape,
                **measurements,
            }
            text = compact_json(result)
            print(text)
            if options.out is not None:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(text + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
