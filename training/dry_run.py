"""What a run will be, before it is one: `estimate(cfg)`.

Everything that can be wrong with the settings is found as `train` finds it; then the model reads a
few batches of the text, and every SAE takes a few steps on what came of them. Time and memory are
estimated from that probe, and are called so: later steps may be faster or slower than the first
ones, since fewer features are active in them. Nothing is written.
"""

import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sae_core.config import Site
from sae_core.progress_bar import reported
from sae_core.sites import site_width
from training.activations import ActivationBuffer, Harvest, Mark, buffer_capacity
from training.assembly import make_trainers
from training.loop import computing, load_checked, text_of
from training.optim import controls
from training.sae_trainer import SAETrainer, compiler
from training.text import Cursor
from training.train_checkpoint import KEPT
from training.train_config import TrainConfig

PROBE_SECONDS = 4.0
"""How long the model, and then the SAEs, are watched, once they are warm."""
MOST_STEPS, MOST_FORWARDS = 20, 8
"""Steps and forwards after which that is enough."""
_WARM = 2


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run trains, and what it will take by a short probe."""

    saes: tuple[str, ...]
    device: str
    precision: str
    steps: int
    tokens: int
    """Tokens that each SAE is trained on."""
    harvested_tokens: int
    """Tokens that the model reads for that; special ones do not count."""
    buffer_tokens: int
    buffer_bytes: int
    harvest_rate: float
    """Tokens that the model reads in a second; estimate."""
    step_seconds: float
    """Of one step of all SAEs; estimate."""
    seconds: float
    """Of the whole run without measuring what it saved; estimate."""
    memory_bytes: int
    """Of the device, or of the process on the CPU; estimate."""
    checkpoint_bytes: int
    """On the disk at most: two checkpoints are kept while a third is written."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON values; what is estimated stands apart."""
        values = {**asdict(self), "saes": list(self.saes)}
        names = ("harvest_rate", "step_seconds", "seconds", "memory_bytes")
        return values | {"estimate": {name: values.pop(name) for name in names}}


def estimate(cfg: TrainConfig) -> DryRun:
    """Probe a run for some seconds; ValueError with one sentence for what `train` would refuse."""
    model, tokenizer = load_checked(cfg)
    device = next(model.parameters()).device
    with computing(), reported(None, "probing", None) as report:
        return _probed(cfg, model, tokenizer, device, report)


def _probed(
    cfg: TrainConfig, model: Any, tokenizer: Any, device: torch.device, report: Any
) -> DryRun:
    sites = list(dict.fromkeys(plan.site for plan in cfg.plans))
    capacity = buffer_capacity(cfg.buffer_tokens, cfg.steps, cfg.batch)
    text = text_of(cfg, model, tokenizer, capacity)
    with closing(Harvest(model, sites, text, 4)) as harvest:
        x, rate = _read(harvest, cfg.batch, device, report)
    small = {site: each[: cfg.batch] for site, each in x.items()}
    moments = {site: (_scale(each), each.float().mean(0)) for site, each in small.items()}
    dtype = next(iter(x.values())).dtype
    trainers = make_trainers(cfg, moments, dtype, compiler(cfg.run.compile, device))
    step_seconds = _steps(cfg, trainers, small, device)
    # Its sizes alone: nothing is held for it here.
    harvest_tokens, held = ActivationBuffer.sizes(capacity, cfg.batch)
    row = sum(site_width(model, site) for site in sites) * dtype.itemsize
    tokens = cfg.steps * cfg.batch
    rounds = -(-tokens // harvest_tokens)
    harvested = held - harvest_tokens + rounds * harvest_tokens
    saved = sum(t.nbytes for trainer in trainers for t in trainer.state().values())
    probe = sum(each.nbytes for each in x.values())
    return DryRun(
        saes=tuple(plan.name for plan in cfg.plans),
        device=str(device),
        precision=str(dtype).removeprefix("torch."),
        steps=cfg.steps,
        tokens=tokens,
        harvested_tokens=harvested,
        buffer_tokens=held,
        buffer_bytes=held * row,
        harvest_rate=rate,
        step_seconds=step_seconds,
        seconds=harvested / rate + cfg.steps * step_seconds,
        memory_bytes=_peak(device, model) - probe + held * row,
        checkpoint_bytes=(KEPT + 1) * saved,
    )


def _read(
    harvest: Harvest, batch: int, device: torch.device, report: Any
) -> tuple[dict[Site, Tensor], float]:
    """At least a batch of activations at every site, and how many come in a second."""
    harvest.seek(Mark(Cursor(), 0))
    parts = [harvest.take(batch)]  # of the first forward, which warms up
    tokens, started = 0, _now(device)
    while True:
        more = harvest.take(batch)
        count = len(next(iter(more.values())))
        tokens += count
        report(count)
        if sum(len(next(iter(part.values()))) for part in parts) < batch:
            parts.append(more)
            continue
        passed = _now(device) - started
        if passed > PROBE_SECONDS or tokens > MOST_FORWARDS * batch:
            break
    return {site: torch.cat([part[site] for part in parts]) for site in parts[0]}, tokens / passed


def _steps(
    cfg: TrainConfig, trainers: list[SAETrainer], batch: dict[Site, Tensor], device: torch.device
) -> float:
    """Seconds of a step of all SAEs, once they are warm."""
    lrs = list(dict.fromkeys(plan.lr for plan in cfg.plans))
    row = controls(cfg, lrs, device)[0]

    def step() -> None:
        for trainer in trainers:
            trainer.step(batch[trainer.plan.site], row[lrs.index(trainer.plan.lr)])

    for _ in range(_WARM):
        step()
    started, count = _now(device), 0
    while count < MOST_STEPS and (count == 0 or _now(device) - started < PROBE_SECONDS):
        step()
        count += 1
    return (_now(device) - started) / count


def _scale(x: Tensor) -> float:
    """C: the root of the mean squared norm."""
    return float(x.float().square().sum(1).mean().sqrt())


def _now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
    return time.perf_counter()


def _peak(device: torch.device, model: Any) -> int:
    """Bytes that the device has had to hold, or the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if sys.platform == "win32":  # which keeps no such count for Python
        return sum(parameter.nbytes for parameter in model.parameters())
    import resource

    # macOS counts bytes here, Linux kilobytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
