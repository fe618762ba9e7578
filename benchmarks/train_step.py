"""How long one training step takes: ours, other trainers', and the floors. Prints JSON.

    python benchmarks/train_step.py --out benchmarks/results/train_step.json

One process, one GPU, no language model: four batches of random activations, in rotation, with L0
matched. The arms:

    gemm                    the encoder's product alone, in bfloat16
    copy                    a large copy on the device: its bandwidth
    sparse                  our step (training.sparse_step), with a first moment, as the SAEs of
                            docs/pareto.md are trained
    sparse-published        the same without (beta1 0), as JumpReLU was published
    dense, dense-compiled   our dense step with a first moment, eager and with torch.compile
    topk-sparse, topk-dense-compiled
                            the same of our TopK (training.listed_step)
    gated-..., relu-...     the same of our Gated and ReLU, with --more
    saelens, saelens-compiled, dictionary-learning, sparsify, sparsify-adam
                            other trainers in their own loops (see train_step_peers.py)

    floor = gemm + the optimiser's bytes at the copy's bandwidth

A step must read and write the weights and both moments of both matrices in float32 and write their
bfloat16 copies: 52 bytes for each number of a row of W_enc and W_dec, for all features, since a
first moment moves those that are not active as well. Without one, it is 36 bytes, for the features
that are active in the batch.
"""

import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from train_step_peers import (
    Feed,
    dictionary_learning,
    matching_threshold,
    saelens,
    sparsify,
    stubs,
)

from benchmarks.compact_json import compact_json
from sae_core.config import Architecture
from training.listed_step import ListedStep
from training.losses import GatedLoss, JumpReLULoss, Loss, ReLULoss, TopKLoss
from training.losses.base import FeatureLoss
from training.optim import BETA2
from training.recipes import RECIPES
from training.sae_trainer import compiler
from training.sparse_step import SparseStep, feature_rows
from training.step import MAX_TOKENS_SINCE_FIRED, DenseStep, Setting, State, Step
from training.trained_form import initial_parameters

SHAPES = {"small": (2304, 16_384), "middle": (2304, 65_536), "large": (3584, 131_072)}
STEPS = {"small": (15, 50), "middle": (12, 40), "large": (10, 30)}
PACKAGES = ("torch", "triton", "sae-lens", "dictionary-learning", "eai-sparsify", "transformers")
BETA1 = 0.9
"""Of our JumpReLU step, as in docs/pareto.md."""
BYTES = 52
"""Of weights, moments and copies that an update moves for a number of W_enc and W_dec."""
BYTES_PUBLISHED = 36
"""The same without a first moment."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure; on a GPU that does nothing else."""

    shapes: tuple[str, ...] = tuple(SHAPES)
    """Of (2304, 16384) small, (2304, 65536) middle and (3584, 131072) large."""
    only: tuple[str, ...] = ()
    """Arms to run; none runs all."""
    more: bool = False
    """Also our Gated and ReLU steps."""
    batch: int = 4096
    """Tokens of a step."""
    l0: int = 64
    """Active features per token."""
    bandwidth: float = 0.001
    """Of our threshold window, for inputs of mean squared norm 1 (the default of `train`)."""
    out: Path | None = None
    """File to write the JSON to as well."""


def random_activations(
    batch: int, d_model: int, count: int = 4, device: str = "cuda"
) -> list[Tensor]:
    """Float32 batches of mean squared norm 1: a spectrum of 512 dimensions (or of all, if they are
    fewer), and 20 % noise.
    """
    generator = torch.Generator(device).manual_seed(0)
    rank = min(512, d_model)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    directions = torch.linalg.qr(normal(d_model, rank)).Q.T  # [rank, d_model]
    scale = torch.arange(1, rank + 1, device=device).rsqrt()
    scale = scale / scale.norm()
    batches = []
    for _ in range(count):
        signal = (normal(batch, rank) * scale) @ directions
        batches.append(0.8**0.5 * signal + 0.2**0.5 * normal(batch, d_model) / d_model**0.5)
    return batches


def made_ready(
    raw: Tensor,
    d_sae: int,
    l0: int,
    architecture: Architecture,
    *,
    rows: bool,
    beta1: float | None = None,
) -> tuple[State, Setting]:
    """An SAE at its start, with about `l0` features active per token of `raw`; `rows`: as sparse
    steps hold it; `beta1`: Adam's, the architecture's own if None.
    """
    device, recipe = raw.device, RECIPES[architecture]
    parameters = initial_parameters(raw.shape[1], d_sae, 0.01, 0, device, recipe)
    with torch.no_grad():
        threshold = matching_threshold(raw, parameters["W_enc"], l0)
        if architecture == "jumprelu":
            parameters["threshold"].fill_(threshold)
        elif architecture != "topk":  # active where the first bias lifts them above 0
            parameters[recipe.biases[0]].fill_(-threshold)
    if rows:
        parameters = feature_rows(parameters)

    def constant(value: float) -> Tensor:
        return torch.tensor(value, device=device)

    setting = Setting(
        scale=constant(1.0),
        mean=torch.zeros_like(parameters["b_dec"]).detach(),
        coefficient=constant(1.0 if architecture == "jumprelu" else 0.0),
        target=constant(float(l0)),
        gain=constant(0.01 if architecture == "jumprelu" else 0.0),
    )
    return State.of(parameters, recipe.rule.beta1 if beta1 is None else beta1), setting


def constant_rate(steps: int, device: torch.device) -> Tensor:
    """The `Control` of each step, at a learning rate that keeps the L0 where it is."""
    rows = [(1e-9, 1.0, 1 - BETA2 ** (t + 1), t + 1.0) for t in range(steps)]
    return torch.tensor(rows, device=device)


def ours(
    batches: Sequence[Tensor],
    d_sae: int,
    l0: int,
    feed: Feed,
    *,
    kind: str,
    bandwidth: float,
    architecture: Architecture = "jumprelu",
    beta1: float | None = None,
) -> dict[str, Any]:
    """Our step: `sparse`, `dense` or `dense-compiled`; `beta1`: the architecture's own if None."""
    device, rule = batches[0].device, RECIPES[architecture].rule
    if beta1 is not None:
        rule = replace(rule, beta1=beta1)
    state, setting = made_ready(
        batches[0], d_sae, l0, architecture, rows=kind == "sparse", beta1=rule.beta1
    )
    # Of a sparse step, the update alone is compiled, if it is the dense one's.
    eager = kind == "dense" or (kind == "sparse" and architecture == "jumprelu")
    compile_ = compiler("off" if eager else "default", device)
    loss = _loss(architecture, l0, bandwidth, compile_)
    step: Step = DenseStep(state, loss, setting, compile_, rule)
    if kind == "sparse" and isinstance(loss, JumpReLULoss):
        step = SparseStep(state, loss, setting, step, rule=rule)
    elif kind == "sparse":
        assert isinstance(loss, FeatureLoss)
        step = ListedStep(state, loss, setting, step)
    for control, raw in zip(constant_rate(feed.total, device), feed, strict=True):
        step(raw, control)
    milliseconds = feed.milliseconds()
    tokens = feed.total * len(batches[0])
    totals = state.totals
    assert bool(torch.isfinite(totals["scalars"]).all())
    result = {
        "settings": f"bfloat16 products, {architecture}, lr 1e-9, beta1 {rule.beta1:g}",
        "milliseconds": milliseconds,
        "l0": float(totals["active"].sum()) / tokens,
    }
    if architecture == "jumprelu":
        result["settings"] += f", bandwidth {bandwidth:g}"
        result["in_window_per_token"] = round(float(totals["in_window"].sum()) / tokens, 1)
        if kind == "sparse":
            with torch.no_grad():
                result["active_rows"] = _active_rows(batches, state.plain)
    return result


def _loss(
    architecture: Architecture, l0: int, bandwidth: float, compile_: Callable[..., Any]
) -> Loss:
    how: dict[str, Any] = {"products": torch.bfloat16, "compiler": compile_}
    if architecture == "jumprelu":
        return JumpReLULoss(bandwidth=bandwidth, **how)
    if architecture == "topk":
        return TopKLoss(k=l0, dead_tokens=MAX_TOKENS_SINCE_FIRED, **how)
    return (GatedLoss if architecture == "gated" else ReLULoss)(targeted=False, **how)


def _active_rows(batches: Sequence[Tensor], p: dict[str, Tensor]) -> int:
    """Features active in a batch."""
    counts = []
    for x in batches:
        active = torch.zeros_like(p["b_enc"], dtype=torch.bool)
        for part in x.split(512):
            active |= ((part @ p["W_enc"] + p["b_enc"]) > p["threshold"]).any(dim=0)
        counts.append(int(active.sum()))
    return round(statistics.mean(counts))


def gemm(batches: Sequence[Tensor], d_sae: int, _l0: int, feed: Feed) -> dict[str, Any]:
    """The encoder's product in bfloat16, its weights one row per feature."""
    x = [batch.to(torch.bfloat16) for batch in batches]
    W = torch.randn(d_sae, x[0].shape[1], device="cuda").to(torch.bfloat16)
    z = torch.empty(len(x[0]), d_sae, dtype=torch.bfloat16, device="cuda")
    for i, _ in enumerate(feed):
        torch.mm(x[i % len(x)], W.T, out=z)
    return {"settings": "bfloat16", "milliseconds": feed.milliseconds()}


def copy(_batches: Sequence[Tensor], _d_sae: int, _l0: int, feed: Feed) -> dict[str, Any]:
    """A copy of 4.3 GB on the device."""
    source = torch.ones(2**30, device="cuda")
    target = torch.empty_like(source)
    for _ in feed:
        target.copy_(source)
    milliseconds = feed.milliseconds()
    moved = 2 * source.numel() * source.element_size()
    rate = moved / statistics.median(milliseconds) / 1e9
    return {"settings": "float32", "milliseconds": milliseconds, "terabytes_per_s": round(rate, 3)}


def arms(options: Options) -> dict[str, Callable[..., dict[str, Any]]]:
    """By name; each takes batches, d_sae, L0 and a feed."""
    ours_ = partial(ours, bandwidth=options.bandwidth)
    jumprelu = partial(ours_, beta1=BETA1)
    available: dict[str, Callable[..., dict[str, Any]]] = {
        "copy": copy,
        "gemm": gemm,
        "sparse": partial(jumprelu, kind="sparse"),
        "sparse-published": partial(ours_, kind="sparse"),
        "dense-compiled": partial(jumprelu, kind="dense-compiled"),
        "dense": partial(jumprelu, kind="dense"),
        "saelens-compiled": partial(saelens, compiled=True),
        "saelens": partial(saelens, compiled=False),
        "dictionary-learning": dictionary_learning,
        "topk-sparse": partial(ours_, kind="sparse", architecture="topk"),
        "topk-dense-compiled": partial(ours_, kind="dense-compiled", architecture="topk"),
        "sparsify": partial(sparsify, optimizer="signum"),
        "sparsify-adam": partial(sparsify, optimizer="adam"),
    }
    for name in ("gated", "relu"):
        architecture = "standard" if name == "relu" else name
        for kind in ("sparse", "dense-compiled"):
            if options.more or f"{name}-{kind}" in options.only:
                available[f"{name}-{kind}"] = partial(ours_, kind=kind, architecture=architecture)
    unknown = sorted(set(options.only) - set(available))
    if unknown:
        raise ValueError(f"unknown arm {', '.join(unknown)}: use {', '.join(available)}.")
    return {
        name: arm for name, arm in available.items() if not options.only or name in options.only
    }


def measured(
    arm: Callable[..., dict[str, Any]], name: str, shape: str, batches: list[Tensor], l0: int
) -> dict[str, Any]:
    """One arm at one shape; if it fails, why."""
    d_model, d_sae = SHAPES[shape]
    if name.startswith("saelens"):
        # SAELens' convention for its inputs: a mean norm of the root of the width.
        batches = [x * d_model**0.5 for x in batches]
    started = time.monotonic()
    feed = Feed(batches, *STEPS[shape])
    try:
        result = arm(batches, d_sae, l0, feed)
    except Exception as error:  # a peer that is absent or fails must not end the others
        return {"arm": name, "failed": f"{type(error).__name__}: {error}"[:500]}
    milliseconds = sorted(result.pop("milliseconds"))
    p20, median, p80 = (
        round(milliseconds[int(share * (len(milliseconds) - 1))], 3) for share in (0.2, 0.5, 0.8)
    )
    return {
        "arm": name,
        "median_ms": median,
        "p20_ms": p20,
        "p80_ms": p80,
        "tokens_per_s": round(len(batches[0]) / median * 1e3),
        "peak_gb": round(feed.peak_bytes / 1e9, 2),
        **{k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()},
        "steps": len(milliseconds),
        "seconds": round(time.monotonic() - started, 1),
    }


def summary(rows: list[dict[str, Any]], d_model: int, d_sae: int) -> dict[str, Any]:
    """The floor, and our step as a multiple of it, of our compiled one and of peers' JumpReLU; our
    TopK, Gated and ReLU likewise."""
    by_arm = {row["arm"]: row for row in rows if "failed" not in row}
    ms = {name: row["median_ms"] for name, row in by_arm.items()}
    ratios: dict[str, Any] = {}
    for name in ("topk", "gated", "relu"):
        if {f"{name}-sparse", f"{name}-dense-compiled"} <= ms.keys():
            times = ms[f"{name}-dense-compiled"] / ms[f"{name}-sparse"]
            ratios[f"{name}_times_own_compiled"] = round(times, 3)
    others = [ms[n] for n in ("sparsify", "sparsify-adam") if n in ms]
    if others and "topk-sparse" in ms:
        ratios["topk_times_sparsify"] = round(min(others) / ms["topk-sparse"], 3)
    if "sparse" not in ms:
        return ratios
    if "gemm" in ms and "copy" in ms:
        rate = by_arm["copy"]["terabytes_per_s"] * 1e9  # bytes per ms
        floor = ms["gemm"] + d_sae * d_model * BYTES / rate
        ratios["floor_ms"] = round(floor, 3)
        ratios["over_floor"] = round(ms["sparse"] / floor, 3)
        if "sparse-published" in ms:
            moved = by_arm["sparse-published"]["active_rows"] * d_model * BYTES_PUBLISHED
            floor = ms["gemm"] + moved / rate
            ratios["published_floor_ms"] = round(floor, 3)
            ratios["published_over_floor"] = round(ms["sparse-published"] / floor, 3)
    peers = {n: ms[n] for n in ("saelens", "saelens-compiled", "dictionary-learning") if n in ms}
    if peers:
        best = min(peers, key=peers.__getitem__)
        ratios["fastest_peer"] = best
        ratios["times_fastest_peer"] = round(peers[best] / ms["sparse"], 3)
        if "sparse-published" in ms:
            ratios["published_times_fastest_peer"] = round(peers[best] / ms["sparse-published"], 3)
    if "dense-compiled" in ms:
        ratios["times_own_compiled"] = round(ms["dense-compiled"] / ms["sparse"], 3)
    return ratios


def machine(device: str = "cuda") -> dict[str, Any]:
    """What it ran on."""
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            result[package] = None
    result["cuda"] = torch.version.cuda
    result["date"] = time.strftime("%Y-%m-%d")
    return result


def main(options: Options) -> dict[str, Any]:
    """Measure, print each arm as it ends and the whole as JSON, and return it."""
    chosen = arms(options)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    result: dict[str, Any] = {"machine": machine(), "batch": options.batch, "shapes": {}}
    with stubs() as absent:
        result["stubs"] = absent
        for shape in options.shapes:
            d_model, d_sae = SHAPES[shape]
            batches = random_activations(options.batch, d_model)
            rows = []
            for name, arm in chosen.items():
                rows.append(measured(arm, name, shape, batches, options.l0))
                print(shape, json.dumps(rows[-1]), flush=True)
                gc.collect()
                torch._dynamo.reset()
                torch.cuda.empty_cache()
            measurements = {
                "d_model": d_model,
                "d_sae": d_sae,
                "summary": summary(rows, d_model, d_sae),
                "arms": rows,
            }
            print(shape, json.dumps(measurements["summary"]), flush=True)
            result["shapes"][shape] = measurements
            if options.out is not None:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(compact_json(result) + "\n")
    return result


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
