"""Steering runs of many people as one batch against one after another, on one GPU, as JSON.

    python -m benchmarks.steering_together --out steering_together.json
    python -m benchmarks.steering_together --shape tiny --people 4

It measures `sae_core.shared_generation`, in which the app runs them, without the app: Gemma 2's
shape with random weights and a JumpReLU SAE, a thread a person. Each has a prompt, edits, a seed,
a temperature and a length of their own; as on the Steer page, the model's own continuation and the
steered one are two rows, and the edited features are watched. Both ways ask the same of the same
code: one after another, and all together, who come in the same instant or within a second at
random.

| measured | aim |
| --- | --- |
| tokens per second of 16 together over one after another, Gemma 2 2B's shape on a GPU | 8 |
| seconds to the first token of each of these | 2 |
| persons who get the ids that they get alone, and the step at which others part | all in float32 |
"""

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.compact_json import compact_json
from benchmarks.gemma_shapes import SHAPES, Bench, Sizes, machine
from benchmarks.measuring import Run
from sae_core.edits import Edit
from sae_core.generation_run import GenerationStep
from sae_core.shared_generation import SharedGeneration
from sae_core.splice import SplicedLM

MODES = ("set", "scale", "add", "ablate", "cap")
GREEDY = 4
"""Of so many people one draws the likeliest token, the others sample."""


@dataclass(frozen=True, kw_only=True)
class Got:
    """What a person has got."""

    steps: list[GenerationStep]
    seconds_to_first: float
    """From when they asked."""

    def ids(self) -> list[tuple[int, ...]]:
        """Both arms' tokens, step by step."""
        return [tuple(token.id for token in step.tokens if token) for step in self.steps]

    def activations(self) -> list[float]:
        """All that was watched, step by step."""
        tokens = (token for step in self.steps for token in step.tokens if token)
        return [value for token in tokens for value in (*token.own, *token.after)]


def jobs_of(lm: SplicedLM, people: int, tokens: int) -> list[dict[str, Any]]:
    """What so many ask for, of four fifths of `tokens` to all of them."""
    rng, d_sae = random.Random(0), lm.sae("sae").cfg.d_sae
    large = 4 * float(lm.sae("sae").effective_threshold().median())
    jobs = []
    for number in range(people):
        edits = [
            Edit(
                feature=rng.randrange(d_sae),
                mode=MODES[(number + n) % len(MODES)],  # pyright: ignore[reportArgumentType]
                value=large * rng.uniform(0.5, 2),
                sae="sae",
                positions=rng.choice(("continuation", "all")),
                fade=rng.choice((None, None, 40)),
            )
            for n in range(1 + number % 3)
        ]
        length = 8 + rng.randrange(121)
        jobs.append(
            {
                "ids": [2, *(rng.randrange(3, 2048) for _ in range(length - 1))],
                "arms": [[], edits],
                "max_new_tokens": round(tokens * rng.uniform(0.8, 1)),
                "temperature": 0.8 if number % GREEDY else 0.0,
                "seed": number,
                "watch": list(dict.fromkeys(("sae", edit.feature) for edit in edits)),
                "eos": frozenset(),
            }
        )
    return jobs


def one_after_another(shared: SharedGeneration, jobs: Sequence[dict[str, Any]]) -> list[Got]:
    """Each person when the one before is done."""
    return [_asked(shared, job) for job in jobs]


def together(
    shared: SharedGeneration, jobs: Sequence[dict[str, Any]], delays: Sequence[float]
) -> list[Got]:
    """All of them, each in a thread and after their delay."""
    got: dict[int, Got] = {}
    begin = threading.Barrier(len(jobs))

    def person(number: int) -> None:
        begin.wait()
        time.sleep(delays[number])
        got[number] = _asked(shared, jobs[number])

    threads = [threading.Thread(target=person, args=(n,)) for n in range(len(jobs))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return [got[number] for number in range(len(jobs))]


def _asked(shared: SharedGeneration, job: dict[str, Any]) -> Got:
    begin = time.perf_counter()
    steps = shared.generate(**job)
    made = [next(steps)]
    first = time.perf_counter() - begin
    made.extend(steps)
    assert len(made) == job["max_new_tokens"], "a run ended early"
    return Got(steps=made, seconds_to_first=first)


def alike(got: Sequence[Got], alone: Sequence[Got]) -> dict[str, Any]:
    """How many drew what they drew alone; at which step the others part; by how much what was
    watched differs up to there, over the largest that is watched.
    """
    parted, worst, largest = [], 0.0, 0.0
    for mine, own in zip(got, alone, strict=True):
        pairs = list(zip(mine.ids(), own.ids(), strict=True))
        same = next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))
        if same < len(pairs):
            parted.append(same)
        kept = len(mine.activations()) // len(pairs) * same
        values = np.array([mine.activations()[:kept], own.activations()[:kept]])
        if kept:
            worst = max(worst, float(np.abs(values[0] - values[1]).max()))
            largest = max(largest, float(np.abs(values).max()))
    return {
        "people": len(got),
        "identical": len(got) - len(parted),
        "parted_at_step": sorted(parted),
        "activations_differ": worst / largest if largest else 0.0,
    }


def measured(run: Run, lm: SplicedLM, people: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Both ways in turns."""
    jobs = jobs_of(lm, people, tokens)
    made = sum(2 * job["max_new_tokens"] for job in jobs)
    rng = random.Random(1)
    room = torch.cuda.mem_get_info()[0] // 4 if run.device.type == "cuda" else None
    shared = SharedGeneration(lm, room)
    ways = {
        "one_after_another": lambda: one_after_another(shared, jobs),
        "together": lambda: together(shared, jobs, [0.0] * people),
        "within_a_second": lambda: together(shared, jobs, [rng.random() for _ in jobs]),
    }
    # So that nothing measured is the first of its kind.
    together(shared, [job | {"max_new_tokens": 3} for job in jobs], [0.0] * people)
    one_after_another(shared, [job | {"max_new_tokens": 3} for job in jobs[:2]])
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    firsts: dict[str, list[float]] = {name: [] for name in ways}
    got: dict[str, list[Got]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds, got[name] = run.seconds(way)
            speeds[name].append(made / seconds)
            firsts[name] += [each.seconds_to_first for each in got[name]]
    alone = speeds["one_after_another"]
    gains = {name: [a / b for a, b in zip(speeds[name], alone, strict=True)] for name in ways}
    return {
        "people": people,
        "new_tokens": made,
        "rounds": rounds,
        "tokens_per_second": {name: statistics.median(each) for name, each in speeds.items()},
        "gain": {
            name: {"median": statistics.median(each), "least": min(each)}
            for name, each in gains.items()
            if name != "one_after_another"
        },
        "seconds_to_first_token": {
            name: {
                **{f"p{p}": float(np.percentile(each, p)) for p in (50, 99)},
                "max": max(each),
            }
            for name, each in firsts.items()
        },
        "as_alone": {
            name: alike(each, got["one_after_another"])
            for name, each in got.items()
            if name != "one_after_another"
        },
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure everything, print it as JSON, and return it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", default="2b", choices=list(SHAPES))
    parser.add_argument("--width", type=int, default=16_384, help="features of the SAE")
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of the longest run")
    parser.add_argument("--rounds", type=int, default=2)
    dtypes = ["bfloat16", "float32"]
    parser.add_argument("--dtypes", nargs="+", default=dtypes, choices=dtypes)
    parser.add_argument("--minutes", type=float, default=1.5, help="after that nothing starts")
    parser.add_argument("--out", type=Path, default=None, help="file to write the JSON to as well")
    given = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    run = Run(
        device=device,
        dtype=torch.bfloat16,
        part_seconds=0,
        deadline=time.monotonic() + 60 * given.minutes,
        out=given.out,
    )
    run.record(("machine",), machine(device) | {"shape": given.shape, "width": given.width})
    sizes = Sizes(widths=(given.width,), prompt_tokens=256, long_tokens=256, new_tokens=1)
    for dtype in given.dtypes:
        run.dtype = getattr(torch, dtype)
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(run, given.shape, sizes, Path(folder))
            bench.lm.add("sae", bench.random_sae(given.width))
            # Once is enough to see in float32 that ids are the same.
            rounds = given.rounds if dtype == "bfloat16" else 1
            part = partial(measured, run, bench.lm, given.people, given.tokens, rounds)
            run.part((dtype,), part)
            del bench, part
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(compact_json(run.result))
    return run.result


if __name__ == "__main__":
    main(sys.argv[1:])
