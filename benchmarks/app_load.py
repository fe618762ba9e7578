"""The app under many people: what it answers and refuses, how long that takes, its memory.

    python -m benchmarks.app_load --clients 1 8 32 --seconds 180 --out app_load.json
    python -m benchmarks.app_load --steering 8
    python -m benchmarks.app_load --steering 16 --shape 2b --new-tokens 100

Clients of mixed work ask an app in a process of its own, each one thing after another without a
pause: pages, searches and features of the index, analyses of texts that nobody sent before, and
steering runs. Each kind goes through what people use, pages as pages, everything else through the
queue, as the pages and `gradio_client` do. A refusal is an answer that says the queue is full;
anything else that goes wrong is counted apart and ends the benchmark with status 1.

With `--steering N` nothing is mixed: N steering runs are asked for one after another, and by N
people at once, in turns and by the same app, whose batch they then are.

| measured | aim |
| --- | --- |
| tokens per second of 8 at once over one after another, demo on two cores | 2 |
| of 16 at once, Gemma 2 2B's shape on a GPU (without the app: `benchmarks.steering_together`) | 8 |
| seconds to the first token of each of these | 2 |
"""

import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
import tyro

from app.endpoints import ENDPOINTS
from app.settings import Settings
from benchmarks.app_latency import machine, percentiles, started
from benchmarks.compact_json import compact_json
from benchmarks.gemma_shapes import SHAPES, Bench, Sizes
from benchmarks.measuring import Run
from sae_core.bundle import write_bundle
from sae_core.formats.saelens import save_sae
from sae_core.placement import chosen_device, chosen_dtype

MIX = {"page": 30, "search": 25, "feature": 25, "analyse": 12, "steer": 8}
"""How often each kind of work is requested, in percent."""
PAGES = ("", "features", "features?feature={feature}", "prompt", "steer")
WORDS = ("sea", "ship", "law", "king", "night", "money", "war", "letter", "house", "river", "bread")
INDEX = {endpoint.name: number for number, endpoint in enumerate(ENDPOINTS)}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How many ask, and how long; on a machine that does nothing else."""

    bundle: str = "demo"
    """Folder of the bundle; `demo` is the bundled one."""
    clients: tuple[int, ...] = (1, 8, 32)
    """Clients at once, one run after another."""
    seconds: float = 180.0
    """Length of each run."""
    features: int = 4096
    """Features of the bundle's first SAE."""
    new_tokens: int = 20
    """Tokens of each steering run."""
    steering: int = 0
    """People who steer, one after another and at once, in place of the mixed work."""
    rounds: int = 5
    """Times that they do both."""
    shape: str = ""
    """Gemma 2's shape (2b, 9b, tiny) with random weights, in place of the bundle."""
    width: int = 16_384
    """Features of that model's SAE."""
    out: Path | None = None
    """File to write the JSON to as well."""

    def __post_init__(self) -> None:
        if self.shape and self.shape not in SHAPES:
            raise ValueError(f"shape {self.shape!r} is unknown: use one of {', '.join(SHAPES)}.")
        if self.steering and self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds} but must be 1 or more.")


@dataclass
class Tally:
    """What became of the requests."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


class RefusedError(Exception):
    """The queue is full."""


class Client:
    """One person who never pauses."""

    def __init__(self, home: str, options: Options, number: int) -> None:
        self.random = random.Random(number)
        self.options = options
        limits = httpx.Limits(max_connections=4)
        self.http = httpx.AsyncClient(base_url=home, timeout=300, limits=limits)

    async def work(self, until: float, tally: Tally) -> None:
        """Ask until the time is over."""
        async with self.http:
            while time.monotonic() < until:
                kind = self.random.choices(list(MIX), list(MIX.values()))[0]
                begin = time.perf_counter()
                try:
                    await getattr(self, kind)()
                except RefusedError:
                    tally.refused[kind] += 1
                    # Whoever is refused comes back a little later.
                    await asyncio.sleep(1)
                except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
                    tally.failed.append(f"{kind}: {type(error).__name__}: {error}"[:300])
                else:
                    tally.seconds[kind].append(time.perf_counter() - begin)

    def text(self, words: int) -> str:
        """A text that nobody has sent before."""
        chosen = " ".join(self.random.choices(WORDS, k=words))
        return f"{chosen} {self.random.randrange(10**9)}"

    def feature_number(self) -> int:
        options = self.options
        return self.random.randrange(options.width if options.shape else options.features)

    async def page(self) -> None:
        path = self.random.choice(PAGES).format(feature=self.feature_number())
        response = await self.http.get(f"/{path}", headers={"accept": "text/html"})
        assert response.status_code == 200, response.status_code
        assert "</html>" in response.text

    async def search(self) -> None:
        answer = await self.ask("search_features", self.random.choice(WORDS))
        assert "features" in answer

    async def feature(self) -> None:
        number = self.feature_number()
        assert (await self.ask("feature", number))["feature"] == number

    async def analyse(self) -> None:
        answer = await self.ask("prompt_features", self.text(40))
        assert answer["totals"]["tokens"] > 40

    async def steer(self) -> None:
        edits = [{"feature": self.feature_number(), "mode": "ablate"}]
        tokens = self.options.new_tokens
        answer = await self.ask("steer", self.text(6), edits, None, tokens)
        assert answer["done"]

    async def continued(self, text: str, edit: dict[str, Any]) -> tuple[int, float]:
        """How many tokens a steering run has made, and when the first were there."""
        heard: list[float] = []
        answer = await self.ask(
            "steer",
            text,
            [edit],
            None,
            self.options.new_tokens,
            0.8,
            heard=lambda: heard.append(time.perf_counter()),
        )
        # The first answer has none yet; of a short run, only the last has.
        return len(answer["base"]) + len(answer["steered"]), heard[min(1, len(heard) - 1)]

    async def ask(
        self, name: str, *arguments: Any, heard: Callable[[], Any] = lambda: None
    ) -> dict[str, Any]:
        """An endpoint's last answer through the queue; `heard` is called at each."""
        session = f"{self.random.getrandbits(64):x}"
        body = {"data": list(arguments), "fn_index": INDEX[name], "session_hash": session}
        joined = await self.http.post("/gradio_api/queue/join", json=body)
        if joined.status_code == 503:
            raise RefusedError
        assert joined.status_code == 200, joined.text
        address = f"/gradio_api/queue/data?session_hash={session}"
        async with self.http.stream("GET", address) as stream:
            async for line in stream.aiter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if message["msg"] in ("process_generating", "process_completed"):
                    heard()
                if message["msg"] == "process_completed":
                    assert message["success"], message["output"]
                    return message["output"]["data"][0]
        raise AssertionError("the stream ended without an answer")


async def memory(process: psutil.Process, until: float, every: float) -> list[float]:
    """The app's resident memory over time in MB."""
    samples = []
    while time.monotonic() < until:
        samples.append(round(process.memory_info().rss / 1e6, 1))
        await asyncio.sleep(every)
    return samples


async def run(home: str, process: psutil.Process, clients: int, options: Options) -> dict[str, Any]:
    """One run of so many clients."""
    tally = Tally()
    begin = time.monotonic()
    until = begin + options.seconds
    people = [Client(home, options, 1000 * clients + n) for n in range(clients)]
    cpu = process.cpu_times()
    rss, *_ = await asyncio.gather(
        memory(process, until, options.seconds / 20), *(p.work(until, tally) for p in people)
    )
    took = time.monotonic() - begin
    used = process.cpu_times()
    return {
        "clients": clients,
        "seconds": round(took, 1),
        "served": {kind: len(tally.seconds[kind]) for kind in MIX},
        "served_per_second": round(sum(map(len, tally.seconds.values())) / took, 2),
        "refused": {kind: tally.refused[kind] for kind in MIX},
        "failed": tally.failed[:20],
        "latency": {kind: percentiles(tally.seconds[kind]) for kind in MIX if tally.seconds[kind]},
        "rss_mb": rss,
        "cpu_cores": round((used.user + used.system - cpu.user - cpu.system) / took, 2),
    }


async def steering(home: str, options: Options) -> dict[str, Any]:
    """So many steering runs one after another and at once, in turns."""
    people = [Client(home, options, number) for number in range(options.steering)]
    edit = {"feature": people[0].feature_number(), "mode": "set", "value": 4.0}
    await people[0].continued(people[0].text(6), edit)  # loads the SAE

    async def in_turn() -> list[tuple[int, float]]:
        return [await each.continued(each.text(6), edit) for each in people]

    async def at_once() -> list[tuple[int, float]]:
        return list(await asyncio.gather(*(e.continued(e.text(6), edit) for e in people)))

    ways = {"one_after_another": in_turn, "at_once": at_once}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    firsts: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            made = await way()
            took = time.perf_counter() - begin
            speeds[name].append(sum(tokens for tokens, _ in made) / took)
            firsts[name] += [first - begin for _, first in made]
    for each in people:
        await each.http.aclose()
    gains = [many / one for one, many in zip(*speeds.values(), strict=True)]
    return {
        "people": options.steering,
        "new_tokens": options.new_tokens,
        "shape": options.shape or options.bundle,
        "tokens_per_second": {
            name: round(statistics.median(each), 1) for name, each in speeds.items()
        },
        "gain": {"median": round(statistics.median(gains), 2), "least": round(min(gains), 2)},
        "seconds_to_first_token": {name: percentiles(each) for name, each in firsts.items()},
        "failed": [],
    }


def random_bundle(folder: Path, shape: str, width: int) -> str:
    """Write a model of this shape with random weights and an SAE of so many features, for the
    device that the app will choose.
    """
    device = chosen_device(Settings.from_environment().device)
    run = Run(
        device=device,
        dtype=chosen_dtype(Settings.from_environment().dtype, device),
        part_seconds=0,
        deadline=0,
        out=None,
    )
    sizes = Sizes(widths=(width,), prompt_tokens=256, long_tokens=256, new_tokens=1)
    bench = Bench(run, shape, sizes, folder)
    bench.lm.model.save_pretrained(folder / "model")
    bench.tokenizer.save_pretrained(folder / "model")
    save_sae(bench.random_sae(width), folder / "saes" / "random")
    write_bundle(folder, name=shape, title=f"Random {shape}.", model="model", saes=["random"])
    del bench
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return str(folder)


def main(options: Options) -> int:
    """Run all, print JSON; 1 if anything failed."""
    if options.steering:
        os.environ["JUMPSCOPE_MAX_GENERATIONS"] = str(options.steering)
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle
        if options.shape:
            bundle = random_bundle(Path(folder), options.shape, options.width)
        return _measured(bundle, options)


def _measured(bundle: str, options: Options) -> int:
    result: dict[str, Any] = {"machine": machine(), "runs": []}
    with started(bundle) as (process, home):
        deadline = time.monotonic() + 120
        while True:
            try:
                if not httpx.get(f"{home}state", timeout=60).json()["loading"]:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, "the app did not start"
            time.sleep(0.5)
        # The first check is no part of this.
        time.sleep(10)
        watched = psutil.Process(process.pid)
        if options.steering:
            result["runs"].append(asyncio.run(steering(home, options)))
        else:
            result["mix_percent"] = MIX
            for clients in options.clients:
                measured = asyncio.run(run(home, watched, clients, options))
                result["runs"].append(measured)
                print(json.dumps(measured), file=sys.stderr, flush=True)
    written = compact_json(result)
    print(written)
    if options.out is not None:
        options.out.write_text(written + "\n")
    return int(any(each["failed"] for each in result["runs"]))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
