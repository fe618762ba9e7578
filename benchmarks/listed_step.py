"""What JumpReLU's own sparse step is worth beside the other architectures' one. Prints JSON.

    python benchmarks/listed_step.py --out benchmarks/results/listed_step.json

One process, one GPU, no language model. The same JumpReLU loss, start and batches in three arms,
which take turns of a few steps each, so that none has the device at another temperature:

    sparse          `training.sparse_step`, as runs take it: kernels of its own, replayed
    sparse-started  the same, every kernel started from Python
    listed          `training.listed_step`: autograd over lists of entries, then the dense update

Before anything is timed, the first step of `listed` must have the gradients of `sparse`. `--device
cpu --shapes tiny` goes through all of it without a GPU, where the times say nothing.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
import tyro
from torch import Tensor
from train_step import SHAPES, constant_rate, machine, made_ready, random_activations

from benchmarks.compact_json import compact_json
from sae_core.jumprelu import half_width, jumprelu, step
from training.kernels.entries import Lists
from training.listed_step import ListedStep
from training.losses import Batch, BatchStats, JumpReLULoss, Parameters, target_l0_penalty
from training.losses.base import FeatureLoss, Limits, stats_of
from training.losses.feature_pairs import Features
from training.sae_trainer import compiler
from training.sparse_step import SparseStep
from training.step import DenseStep, State

ALL_SHAPES = {**SHAPES, "tiny": (64, 1024)}
ARMS: tuple[str, ...] = ("sparse", "sparse-started", "listed")
GRADIENTS_APART = 2e-2
"""Distance of first gradients over their norm: bfloat16 products are rounded to 8 bits."""
COUNTS_APART = 1e-3
"""The same of how often each feature is active: on a threshold, the last bit decides."""
WORTH_IT = 1.05
"""Ratio from which on two kinds of sparse step are worth having."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure; on a GPU that does nothing else."""

    shapes: tuple[str, ...] = tuple(SHAPES)
    """Of (2304, 16384) small, (2304, 65536) middle, (3584, 131072) large and (64, 1024) tiny."""
    batch: int = 4096
    """Tokens of a step."""
    l0: int = 64
    """Active features per token."""
    bandwidth: float = 0.001
    """Of the threshold window, for inputs of mean squared norm 1."""
    turns: int = 8
    """Turns of each arm after the one that warms up."""
    steps: int = 6
    """Steps of a turn."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where; cpu is for trying the script."""
    out: Path | None = None
    """File to write the JSON to as well."""


class ListedJumpReLU(FeatureLoss):
    """The loss of `JumpReLULoss` towards a target L0, over entries."""

    limits = Limits(most=0.1, bound=1.0)

    def __init__(self, *, bandwidth: float, products: torch.dtype) -> None:
        self.bandwidth = bandwidth
        super().__init__(products=products)

    def on(
        self, features: Features, parameters: Parameters, batch: Batch
    ) -> tuple[Tensor, BatchStats]:
        """As `FeatureLoss.on`; `features` are those of kernels `with_window`."""
        p, x = parameters, batch.x
        part = features.above(p["b_enc"])
        z, threshold = part.values, part.each(p["threshold"])
        acts = jumprelu(z, threshold, self.bandwidth)
        squared_error = (x - part.decode(acts, p["W_dec"]) - p["b_dec"]).square().sum()
        on = step(z, threshold, self.bandwidth)
        l0 = self.shard.sum(on.sum()) / len(x)
        loss = squared_error / len(x) + target_l0_penalty(l0, batch.penalty)
        with torch.no_grad():
            near = ((z - threshold).abs() < self.bandwidth / 2).float()
            active, in_window = part.by_feature(on), part.by_feature(near)
        return loss, stats_of(loss, squared_error, x, batch.mean, active, l0, in_window)


def with_window(device: torch.device, threshold: Tensor, bandwidth: float) -> ModuleType:
    """The kernels over lists, with an `above` that lists what a JumpReLU loss concerns: by token
    what is above `threshold`, by feature also what is within the window.
    """
    reach = bandwidth * half_width()
    kernels = ModuleType("with_window")
    if device.type == "cuda":
        from training.kernels import fused_lists as plainly
        from training.kernels import select
        from training.kernels.order import longest_first

        def above(z: Tensor, bias: Tensor, _zeros: Tensor, room: int) -> Lists:
            made = select._lists(z, bias, threshold, reach, room, torch.int32, torch.zeros)
            return Lists(
                row_start=made.row_start,
                feature=made.feature,
                place=made.kept,
                column_start=made.column_start,
                owner=made.owner,
                token=made.token,
                z=made.value,
                order=longest_first(made.column_start),
            )
    else:
        from training.kernels import plain_lists as plainly

        def above(z: Tensor, bias: Tensor, _zeros: Tensor, room: int) -> Lists:
            # By token as well, with activation 0: no other result.
            return plainly.above(z, bias, threshold - reach, room)

    vars(kernels).update({**vars(plainly), "above": above})
    return kernels


def arm(
    name: str, batches: Sequence[Tensor], d_sae: int, options: Options
) -> tuple[SparseStep | ListedStep, State]:
    """A way of taking the step, and the state that it changes, at its start."""
    device = batches[0].device
    state, setting = made_ready(batches[0], d_sae, options.l0, "jumprelu", rows=True)
    how: dict[str, Any] = {"bandwidth": options.bandwidth, "products": torch.bfloat16}
    if name != "listed":
        loss = JumpReLULoss(**how)
        dense = DenseStep(state, loss, setting)
        return SparseStep(state, loss, setting, dense, replay=name == "sparse"), state
    # The update is the dense step's, and compiled as it is there.
    compile_ = compiler("default" if device.type == "cuda" else "off", device)
    listed = ListedJumpReLU(**how)
    dense = DenseStep(state, listed, setting, compile_)
    kernels = with_window(device, state.plain["threshold"], options.bandwidth)
    return ListedStep(state, listed, setting, dense, kernels=kernels), state


def distance(result: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((result - expected).norm() / expected.norm())


def check_gradients(batches: Sequence[Tensor], d_sae: int, options: Options) -> dict[str, float]:
    """How far the gradients of one step of `listed` are from those of `sparse`, by parameter;
    AssertionError if that is more than rounding.
    """
    control = constant_rate(1, batches[0].device)[0]
    states = []
    for name in ("sparse", "listed"):
        take, state = arm(name, batches, d_sae, options)
        take(batches[0], control)
        assert take._fitted, f"{name} took a dense step"
        states.append(state)
    sparse, listed = states
    apart = {"active": distance(listed.totals["active"], sparse.totals["active"])}
    assert apart["active"] < COUNTS_APART, f"counts of active tokens: {apart['active']} apart"
    assert float(sparse.totals["in_window"].sum()) > 0, "no threshold learns anything"
    for name, v in sparse.second.items():
        # A first step's second moments are (1 - beta2) g^2.
        apart[name] = distance(listed.second[name].sqrt(), v.sqrt())
        assert apart[name] < GRADIENTS_APART, f"gradients of {name} are {apart[name]} apart"
    return apart


def milliseconds(work: Callable[[], None], device: torch.device) -> Callable[[], float]:
    """Start `work`; returns what tells how long it took, once the device is done."""
    if device.type != "cuda":
        started = time.perf_counter()
        work()
        took = 1e3 * (time.perf_counter() - started)
        return lambda: took
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    work()
    after.record()
    return lambda: before.elapsed_time(after)


def in_turns(batches: Sequence[Tensor], d_sae: int, options: Options) -> dict[str, list[float]]:
    """Milliseconds of each step of each arm, without those of the turn that warms up."""
    device = batches[0].device
    controls = constant_rate((options.turns + 2) * options.steps, device)
    arms = {name: arm(name, batches, d_sae, options) for name in ARMS}
    taken = dict.fromkeys(ARMS, 0)
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    for turn in range(options.turns + 1):
        # Twice as long at first: a step is recorded after a few, others are compiled.
        count = options.steps if turn else 2 * options.steps
        for name, (take, _) in arms.items():
            answers = []
            for _ in range(count):
                i = taken[name]
                raw, control = batches[i % len(batches)], controls[i]
                answers.append(milliseconds(partial(take, raw, control), device))
                taken[name] += 1
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                times[name] += [answer() for answer in answers]
    for name, (take, state) in arms.items():
        assert take._fitted, f"{name} took a dense step"
        assert bool(torch.isfinite(state.totals["scalars"]).all()), name
        l0 = float(state.totals["active"].sum()) / (taken[name] * len(batches[0]))
        assert abs(l0 / options.l0 - 1) < 0.2, f"{name} ran at an L0 of {l0}"
    return times


def measured(shape: str, options: Options) -> dict[str, Any]:
    """All arms at one shape."""
    d_model, d_sae = ALL_SHAPES[shape]
    batches = random_activations(options.batch, d_model, device=options.device)
    result: dict[str, Any] = {"d_model": d_model, "d_sae": d_sae}
    result["gradients_apart"] = check_gradients(batches, d_sae, options)
    if options.device == "cuda":
        torch.cuda.empty_cache()
    times = in_turns(batches, d_sae, options)
    for name, values in times.items():
        p20, *_, p80 = statistics.quantiles(values, n=5)
        spread = {"median_ms": statistics.median(values), "p20_ms": p20, "p80_ms": p80}
        result[name] = {key: round(value, 3) for key, value in spread.items()}
        result[name]["steps"] = len(values)
    for name in ARMS[:2]:
        ratio = result["listed"]["median_ms"] / result[name]["median_ms"]
        result[f"listed_over_{name}"] = round(ratio, 3)
    result["listed_suffices"] = result["listed_over_sparse"] <= WORTH_IT
    return result


def main(options: Options) -> dict[str, Any]:
    """Measure, print each shape as it ends and the whole as JSON, and return it."""
    if unknown := set(options.shapes) - set(ALL_SHAPES):
        raise ValueError(f"unknown shape {', '.join(unknown)}: use {', '.join(ALL_SHAPES)}.")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    result: dict[str, Any] = {
        "machine": machine(options.device),
        "batch": options.batch,
        "l0": options.l0,
        "bandwidth": options.bandwidth,
        "shapes": {},
    }
    for shape in options.shapes:
        result["shapes"][shape] = measured(shape, options)
        print(shape, json.dumps(result["shapes"][shape]), flush=True)
        if options.device == "cuda":
            torch._dynamo.reset()
            torch.cuda.empty_cache()
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(compact_json(result) + "\n")
    print(compact_json(result))
    return result


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
