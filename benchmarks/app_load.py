"""The app under many people: what it answers and refuses, how long that takes, its memory.

    python benchmarks/app_load.py --clients 1 8 32 --seconds 180 --out app_load.json

Clients of mixed work ask an app in a process of its own, each one thing after another without a
pause: pages, searches and features of the index, analyses of texts that nobody sent before, and
steering runs. Each kind goes through what people use, pages as pages, everything else through the
queue, as the pages and `gradio_client` do. A refusal is an answer that says the queue is full;
anything else that goes wrong is counted apart and ends the benchmark with status 1.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import tyro
from app_latency import machine, percentiles, started

from app.endpoints import ENDPOINTS

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
    out: Path | None = None
    """File to write the JSON to as well."""


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
        return self.random.randrange(self.options.features)

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

    async def ask(self, name: str, *arguments: Any) -> dict[str, Any]:
        """An endpoint's last answer through the queue."""
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


def main(options: Options) -> int:
    """Run all, print JSON; 1 if anything failed."""
    result: dict[str, Any] = {"machine": machine(), "mix_percent": MIX, "runs": []}
    with started(options.bundle) as (process, home):
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
        for clients in options.clients:
            measured = asyncio.run(run(home, watched, clients, options))
            result["runs"].append(measured)
            print(json.dumps(measured), file=sys.stderr, flush=True)
    written = json.dumps(result, indent=2)
    print(written)
    if options.out is not None:
        options.out.write_text(written + "\n")
    return int(any(each["failed"] for each in result["runs"]))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
