"""How long the app takes for what users wait for: prints JSON with p50 and p99.

    python benchmarks/app_latency.py --bundle demo --out latency.json

| measured | aim |
| --- | --- |
| analysis of a prompt of 64 tokens, not cached | p50 100 ms on 4 cores |
| a feature's page from the index | p99 20 ms |
| steered tokens per second over plain ones, in turns within one run | 0.9 |
| start of `jumpscope demo` to the first page served | 5 s |
| a page in Chromium, from its address to its content | 0.5 s, 12 requests |

The first three are measured inside one process, without HTTP; the start and Chromium's pages on an
app in a process of its own. Each measurement is warmed up first and asserts that it did the work.
The floor of the start, an interpreter that imports Gradio alone, is measured beside it.
"""

import json
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from app.commands.shared import open_bundle
from app.endpoints import Api
from app.engine.workbench import Workbench
from app.service import overview
from app.settings import Settings
from app.web.pages import PAGES, page_html
from benchmarks.compact_json import compact_json
from sae_core.edits import Edit
from sae_core.generation import generate
from sae_core.tokens import encode_text

PROMPT_TOKENS = 64
WARM_UPS = 5


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and how often; on a machine that does nothing else."""

    bundle: str = "demo"
    """Folder of the bundle; `demo` is the bundled one."""
    sae: str = ""
    """Name of the SAE; empty is the bundle's first."""
    threads: int = 0
    """PyTorch threads; 0 is the app's default."""
    prompts: int = 100
    """Prompts to analyse."""
    pages: int = 500
    """Feature pages to read."""
    generations: int = 8
    """Plain generations, and as many steered ones."""
    new_tokens: int = 40
    """Tokens of each generation."""
    starts: int = 3
    """Starts of the whole app in a process of its own; 0 skips them and Chromium's pages."""
    visits: int = 5
    """Times that Chromium opens each page; 0 skips it."""
    out: Path | None = None
    """File to write the JSON to as well."""

    def __post_init__(self) -> None:
        for name in ("prompts", "pages", "generations", "new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)} but must be 1 or more.")


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """Mean, p50, p90, p99 and maximum in milliseconds."""
    ms = np.array(list(seconds)) * 1e3
    p50, p90, p99 = np.percentile(ms, [50, 90, 99])
    times = {"mean_ms": ms.mean(), "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "max_ms": ms.max()}
    return {name: round(float(value), 2) for name, value in times.items()} | {"n": len(ms)}


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def texts(api: Api, sae: str, count: int) -> list[str]:
    """Different texts of `PROMPT_TOKENS` tokens with BOS, from the contexts in the index."""
    engine = api.workbench.load()
    rng = random.Random(0)
    alive = np.flatnonzero(api.workbench.index(sae).frequencies() > 0).tolist()
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        words = ""
        while len(encode_text(engine.lm.tokenizer, words)) <= PROMPT_TOKENS:
            groups = api.feature(rng.choice(alive), sae)["groups"]
            contexts = [context for group in groups for context in group["contexts"]]
            words += "".join(rng.choice(contexts)["tokens"]) + "\n" if contexts else ""
        # Cutting characters until the text has the right number of tokens; some have no such cut.
        while len(ids := encode_text(engine.lm.tokenizer, words)) > PROMPT_TOKENS:
            words = words[:-1]
        if len(ids) == PROMPT_TOKENS:
            chosen[words] = None
    return list(chosen)


def measure_prompts(api: Api, sae: str, count: int) -> dict[str, Any]:
    """Whole analyses, as the Prompt page and `/prompt_features` ask for them."""
    different = texts(api, sae, count + WARM_UPS)
    for text in different[:WARM_UPS]:
        assert len(api.prompt_features(text, sae)["tokens"]) == PROMPT_TOKENS
    seconds = [timed(lambda t=t: api.prompt_features(t, sae)) for t in different[WARM_UPS:]]
    return percentiles(seconds) | {"tokens": PROMPT_TOKENS, "aim": "p50 100 ms on 4 cores"}


def measure_pages(api: Api, sae: str, count: int) -> dict[str, Any]:
    """Reading random features from the index, and drawing their pages."""
    page = next(page for page in PAGES if page.name == "features")

    def draw(feature: int) -> str:
        query = {"feature": str(feature), "sae": sae}
        return page_html(api.workbench, page, query, page.view(api.workbench, query))

    d_sae = len(api.workbench.index(sae).frequencies())
    rng = random.Random(0)
    chosen = [rng.randrange(d_sae) for _ in range(count + WARM_UPS)]
    for feature in chosen[:WARM_UPS]:
        assert api.feature(feature, sae)["feature"] == feature
    chosen = chosen[WARM_UPS:]
    read = [timed(lambda f=f: api.feature(f, sae)) for f in chosen]
    assert f"#{chosen[0]}" in draw(chosen[0])
    drawn = [timed(lambda f=f: draw(f)) for f in chosen]
    searched = [timed(lambda: api.search_features(sae=sae)) for _ in range(min(count, 100))]
    return {
        "read": percentiles(read) | {"aim": "p99 20 ms"},
        "read_and_drawn": percentiles(drawn),
        "list_of_50": percentiles(searched),
    }


def measure_steering(api: Api, sae: str, runs: int, new_tokens: int) -> dict[str, Any]:
    """Tokens per second without and with an edit, one row each, and of the pair that pages show.

    The generations of a run take turns token by token, so that whatever else the machine does
    falls on all alike. Rates are those of the median token after the first, which reads the prompt.
    """
    engine = api.workbench.load()
    with engine.spliced([sae]):
        pass
    summary = api.search_features(sae=sae, sort="max_act", limit=1)["features"][0]
    feature, value = summary["feature"], 0.5 * summary["max_act"]
    ids = encode_text(engine.lm.tokenizer, texts(api, sae, 1)[0])[: PROMPT_TOKENS // 2]
    edit = Edit(feature=feature, mode="set", value=value, sae=sae)
    arms = {"plain": [[]], "steered": [[edit]], "pair": [[], [edit]]}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for seed in range(runs + 1):
        generations = {
            name: generate(
                engine.lm,
                ids,
                rows,
                max_new_tokens=new_tokens + 1,
                temperature=1.0,
                seed=seed,
                watch=[] if name == "plain" else [(sae, feature)],
            )
            for name, rows in arms.items()
        }
        for step in range(new_tokens + 1):
            for name, generation in generations.items():
                start = time.perf_counter()
                grown = next(generation, None)
                # Run 0 warms up; a generation that met EOS has no more tokens to time.
                if seed and step and grown is not None:
                    seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    return {
        "tokens_per_second": {name: round(1 / median, 1) for name, median in medians.items()},
        "steered_over_plain": round(medians["plain"] / medians["steered"], 3),
        "pair_over_plain": round(medians["plain"] / medians["pair"], 3),
        "step": {name: percentiles(times) for name, times in seconds.items()},
        "aim": "steered over plain 0.9",
    }


@contextmanager
def started(bundle: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The app in a process of its own, begun just now, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    what = ["demo"] if bundle == "demo" else ["serve", bundle]
    command = [sys.executable, "-m", "app.cli", *what, "--port", str(port), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process, f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(timeout=30)


def measure_start(bundle: str) -> tuple[float, float, float | None]:
    """Seconds to the first page and to the first analysis, and the process's memory then in MB."""
    start = time.perf_counter()
    with started(bundle) as (process, home):
        assert b"</html>" in _answer(process, home)
        page = time.perf_counter() - start
        call = f"{home}gradio_api/call/v2/prompt_features"
        ask = urllib.request.Request(
            call,
            data=json.dumps({"text": "The first prompt.", "limit": 10}).encode(),
            headers={"Content-Type": "application/json"},
        )
        event = json.loads(_answer(process, ask))["event_id"]
        answer = _answer(process, f"{home}gradio_api/call/prompt_features/{event}")
        assert b"event: complete" in answer
        assert b"delta_lm_loss" in answer
        return page, time.perf_counter() - start, memory_mb(process.pid)


def measure_floor() -> float:
    """Seconds until an interpreter that imports Gradio, and does nothing else, has ended."""
    command = [sys.executable, "-c", "import gradio"]
    quiet = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}
    return timed(lambda: subprocess.run(command, check=True, env=quiet))


PAGES_OF_CHROMIUM = {
    "overview": ("", ".stats"),
    "features": ("features", "table.features tbody tr"),
    "feature": ("features?feature=3954", ".context .tokens"),
    "prompt": ("prompt", "#prompt-text"),
    "steer": ("steer", ".idea b"),
}
"""Address and what stands there once the page has its content; `.idea b` is drawn by its script."""


def measure_chromium(bundle: str, visits: int) -> dict[str, Any]:
    """Each page in a fresh session of Chromium: time from asking to content, and requests."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        raise RuntimeError(f"Chromium is not installed: install one of {', '.join(names)}")
    pages: dict[str, Any] = {}
    with started(bundle) as (process, home), sync_playwright() as playwright:
        _answer(process, home)
        # The model and its first check are not what is measured here.
        deadline = time.monotonic() + 120
        while b'"loading":false' not in _answer(process, f"{home}state"):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        time.sleep(8)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (address, content) in PAGES_OF_CHROMIUM.items():
            seconds, requests = [], []
            for _ in range(visits + 1):
                context = browser.new_context(viewport={"width": 1440, "height": 900})
                page = context.new_page()
                urls: list[str] = []
                page.on("request", lambda request, urls=urls: urls.append(request.url))
                begin = time.perf_counter()
                page.goto(home + address, wait_until="commit")
                page.locator(content).first.wait_for()
                seconds.append(time.perf_counter() - begin)
                page.wait_for_load_state("load")
                requests.append(len(urls))
                context.close()
            pages[name] = percentiles(seconds[1:]) | {"requests": max(requests[1:])}
        browser.close()
    return pages | {"aim": "p50 500 ms, 12 requests"}


def _answer(process: subprocess.Popen[bytes], ask: str | urllib.request.Request) -> bytes:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(ask, timeout=60) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"the app answered {error.code}: {error.read()[:300]!r}") from error
        except OSError:
            if process.poll() is not None:
                assert process.stderr is not None
                said = process.stderr.read().decode()
                raise RuntimeError(f"the app ended while starting: {said[-2000:]}") from None
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def memory_mb(pid: int | str = "self") -> float | None:
    """Resident memory of a process; None where the system does not say (outside Linux)."""
    status = Path(f"/proc/{pid}/status")
    if not status.is_file():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024, 1)


def machine() -> dict[str, Any]:
    """What it ran on."""
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    model = [line.partition(":")[2].strip() for line in names if line.startswith("model name")]
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "gradio", "duckdb")},
    }


def main(options: Options) -> dict[str, Any]:
    """Measure everything, print it as JSON, and return it."""
    bundle = open_bundle(options.bundle)
    workbench = Workbench(Settings(threads=options.threads), bundle)
    api = Api(workbench)
    sae = workbench.sae_name(options.sae)
    loading = timed(workbench.load)
    before = memory_mb()
    result: dict[str, Any] = {
        "machine": machine(),
        "bundle": bundle.name,
        "sae": sae,
        "model": overview.model_facts(workbench),
        "load_model_s": round(loading, 2),
        "prompt_64_tokens": measure_prompts(api, sae, options.prompts),
        "feature_page": measure_pages(api, sae, options.pages),
        "steering": measure_steering(api, sae, options.generations, options.new_tokens),
        "memory_mb": {"model_loaded": before, "after": memory_mb()},
    }
    if options.starts:
        starts = [measure_start(options.bundle) for _ in range(options.starts)]
        pages, analyses, memory = zip(*starts, strict=True)
        first = float(np.median(pages))
        floor = float(np.median([measure_floor() for _ in range(options.starts)]))
        result["start"] = {
            "first_page_s": [round(seconds, 2) for seconds in pages],
            "first_page_median_s": round(first, 2),
            "floor_import_gradio_s": round(floor, 2),
            "over_floor": round(first / floor, 2),
            "first_analysis_s": [round(seconds, 2) for seconds in analyses],
            "memory_mb": list(memory),
            "aim": "5 s to the first page",
        }
    if options.starts and options.visits:
        result["chromium"] = measure_chromium(options.bundle, options.visits)
    written = compact_json(result)
    print(written)
    if options.out is not None:
        options.out.write_text(written + "\n")
    return result


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
