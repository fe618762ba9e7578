"""Measurements one after another under a time limit, with every result kept at once."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.compact_json import compact_json, tabled
from sae_core.index.in_processes import ENDING


@dataclass
class Run:
    """Where it runs, how long it may take, and the results so far."""

    device: torch.device
    dtype: torch.dtype
    part_seconds: float
    """Aimed length of one measurement."""
    deadline: float
    """On `time.monotonic`'s clock; no part starts after it."""
    out: Path | None
    """File that always holds all results so far."""
    result: dict[str, Any] = field(default_factory=dict)

    def record(self, path: Sequence[str], value: Any) -> None:
        """Keep a result under `path`, show it, and write all results so far."""
        place = self.result
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value = rounded(value)
        print("/".join(path), json.dumps(value), file=sys.stderr, flush=True)
        if self.out is not None:
            temporary = self.out.with_name(self.out.name + ".tmp")
            temporary.write_text(compact_json(tabled(self.result)) + "\n")
            temporary.replace(self.out)

    def part(self, path: Sequence[str], measure: Callable[[], Any]) -> None:
        """Record what `measure` finds, or that time is up, or how it failed."""
        if time.monotonic() > self.deadline:
            self.record(path, "skipped: no time left")
            return
        try:
            self.record(path, measure())
        except (RuntimeError, ValueError, OSError, AssertionError) as error:
            # One part that does not fit must not cost the others' results.
            self.record(path, f"failed: {type(error).__name__}: {str(error)[:300]}")

    def wait(self) -> None:
        """Until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """How long `work` takes, and what it returns."""
        self.wait()
        started = time.perf_counter()
        made = work()
        self.wait()
        return time.perf_counter() - started, made

    def in_turns(self, works: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
        """Seconds of each work, one after another, until the part's time is over: 3 turns or more.

        The first turn warms up and is not counted.
        """
        times: dict[str, list[float]] = {name: [] for name in works}
        until = time.monotonic() + self.part_seconds
        while min(map(len, times.values())) < 4 or time.monotonic() < until:
            for name, work in works.items():
                times[name].append(self.seconds(work)[0])
        return {name: seconds[1:] for name, seconds in times.items()}

    def peak(self, work: Callable[[], Any]) -> int | None:
        """Most bytes that tensors took on the device during `work`; None on the CPU."""
        if self.device.type != "cuda":
            work()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return torch.cuda.max_memory_allocated()


def cpu_seconds() -> float:
    """Of this process with all its threads, and of those that it started and that have ended; of
    those that made pages the end is waited for.
    """
    for thread in threading.enumerate():
        if thread.name == ENDING:
            thread.join()
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class PartTimes:
    """Seconds spent inside functions and methods, by the device's clock or the host's; on a CPU
    with one thread those of the thread that calls, which other work does not lengthen.
    """

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        alone = not cuda and torch.get_num_threads() == 1
        self._clock = time.thread_time if alone else time.perf_counter
        self._spans: dict[str, list[tuple[Any, Any]]] = {}

    def timed(self, name: str, function: Callable[..., Any], on_device: bool) -> Any:
        """`function`, adding what it takes to the part `name`."""

        def mark(start: Any = None) -> Any:
            if not (self._cuda and on_device):
                return self._clock()
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start = mark()
            try:
                return function(*args, **kwargs)
            finally:
                self._spans.setdefault(name, []).append((start, mark()))

        return wrapped

    def seconds(self) -> dict[str, float]:
        """Each part's sum."""
        if self._cuda:
            torch.cuda.synchronize()
        return {
            name: sum(b - a if isinstance(a, float) else a.elapsed_time(b) / 1000 for a, b in spans)
            for name, spans in self._spans.items()
        }


def spread(values: Iterable[float], digits: int = 4) -> dict[str, float]:
    """Median, 20th and 80th percentile, and how many."""
    values = list(values)
    p20, p50, p80 = np.percentile(values, [20, 50, 80])
    stats = {"p20": p20, "p50": p50, "p80": p80}
    return {name: round(float(value), digits) for name, value in stats.items()} | {"n": len(values)}


def ratios(above: list[float], below: list[float]) -> dict[str, float]:
    """Spread of the quotients of works that ran in the same turn."""
    return spread(a / b for a, b in zip(above, below, strict=True))


def rounded(value: Any) -> Any:
    """Floats in `value`, at any depth, to six digits."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
