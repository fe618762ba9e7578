"""What indexing an SAE costs beside running its language model: one machine, as JSON.

    python -m benchmarks.index_speed --shape 2b --d-sae 16384 131072 --tokens 1000000 \\
        --corpus corpus.parquet --out benchmarks/results/index_speed.json
    python -m benchmarks.index_speed --shape demo --tokens 60000 --corpus corpus.parquet

Measured for each width are

    model     the forwards alone, of the same rows, up to the SAE's layer
    index     `build_index` of the same text, from the first row to the finished file
    parts     where its time goes: model, statistics, writing, and what they consist of

`2b` has Gemma 2 2B's shape up to the layer, with random weights, and an SAE of random unit
directions whose one threshold leaves about `--l0` features active; `demo` is the bundle's model and
all features of its `DEMO_SAE`. Either reads the corpus in the demo's tokenizer: nothing is
downloaded. Parts are timed by CUDA events on a GPU, which stop nothing; writing by the clock. On a
GPU they overlap, and what is made beside the stream (`beside`) is waited for at its end
(`writing/waiting`); an index of a few tokens, not measured, comes first and compiles kernels.

Results are printed as they come. `--seconds` ends the whole: what is at work then is stopped, and
says how many tokens it had read. `--sae-dashboard PYTHON` lets SAEDashboard, installed for that
interpreter, make dashboards for `--features` of the same shape from the same rows.
"""

import argparse
import gc
import itertools
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config

from benchmarks.compact_json import compact_json
from benchmarks.gemma_shapes import SHAPES, machine, nbytes
from benchmarks.measuring import PartTimes, Run, cpu_seconds
from sae_core import attention
from sae_core.bundle import Bundle
from sae_core.config import SAEConfig, Site
from sae_core.corpus import TokenBatch, batches, documents, token_rows
from sae_core.index import build, forwards, gathered, in_processes, prepared, schema, write
from sae_core.index.batch_lists import BatchLists
from sae_core.index.describing import Describer
from sae_core.index.index_config import IndexConfig
from sae_core.index.pairs import PairCounts
from sae_core.index.prepared import Prepared
from sae_core.index.schema import IndexWriter
from sae_core.index.statistics import FeatureStatistics
from sae_core.progress_bar import silent
from sae_core.sae import SAE
from sae_core.sites import activations

DEMO = Path("app/demo")
DEMO_SAE = "resid_post-layer_4-l0_32"
_THRESHOLD_TOKENS = 2048
_WARM_UP_TOKENS = 2**15
_MODEL_SHARE = 0.25
"""Of the tokens, how many the model alone is timed on."""


class TimeUpError(RuntimeError):
    """`--seconds` are over."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """TimeUpError in the block once it has taken so long."""

    def stop(*_: Any) -> None:
        raise TimeUpError("stopped: no time left")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


DEVICE_PARTS = (
    ("model", forwards, "activations"),
    ("statistics", FeatureStatistics, "update"),
    ("statistics/reconstruction", FeatureStatistics, "_reconstruction"),
    ("statistics/lists", BatchLists, "of"),
    ("statistics/counts", FeatureStatistics, "_count"),
    ("statistics/contexts", FeatureStatistics, "_offer"),
    ("statistics/merge", FeatureStatistics, "_merge"),
    ("statistics/pairs", PairCounts, "add"),
)
HOST_PARTS = (
    ("beside/logits", prepared, "top_logits"),
    ("beside/neighbours", prepared, "neighbours"),
    ("beside/arrays", prepared, "decoder_arrays"),
    ("beside/map", prepared, "feature_map"),
    ("writing", gathered, "write_index"),
    ("writing/settling", FeatureStatistics, "settle"),
    ("writing/contexts", write, "choose"),
    ("writing/tokens", write, "store_tokens"),
    ("writing/top_tokens", write, "top_tokens"),
    ("writing/waiting", Prepared, "decoder"),
    ("writing/histograms", FeatureStatistics, "pre_activations"),
    ("writing/words", write, "word_forms"),
    ("writing/vocabulary", write, "_write_vocabulary"),
    ("writing/text", write, "_write_tokens"),
    ("writing/features", write, "_write_features"),
    ("writing/pages", write, "_write_pages"),
    ("writing/sources", write, "top_sources"),
    ("writing/starting", in_processes, "_started"),
    ("writing/tables", IndexWriter, "insert_arrays"),
    ("writing/highlights", Describer, "highlights"),
    ("writing/closing", schema, "_close"),
)


class Bench:
    """One model and tokenizer, and what is measured of indexing SAEs on it."""

    def __init__(self, run: Run, given: argparse.Namespace) -> None:
        self.run, self.given = run, given
        self.site = Site("resid_post", given.layer)
        if given.shape == "demo":
            bundle = Bundle.open(str(DEMO))
            self.model, self.tokenizer = bundle.load_model(run.dtype, run.device)
            self.demo_sae: SAE | None = bundle.load_sae(DEMO_SAE, run.device)
            assert self.demo_sae.cfg.site is not None
            self.site = self.demo_sae.cfg.site
        else:
            self.tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
            self.model, self.demo_sae = self._random_model(), None
        self.rows = self._batches()

    def _random_model(self) -> Any:
        attention.register()
        shape = SHAPES[self.given.shape] | {"num_hidden_layers": self.given.layer + 1}
        shape |= {"vocab_size": max(shape["vocab_size"], len(self.tokenizer))}
        with torch.device(self.run.device):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(
                Gemma2Config(**shape), dtype=self.run.dtype, attn_implementation=attention.CHUNKED
            )
        return model.eval().requires_grad_(False)

    def _batches(self) -> list[TokenBatch]:
        """The first rows of the corpus: as many as the model alone is timed on."""
        given = self.given
        rows = token_rows(documents(given.corpus), self.tokenizer, given.row)
        tokens, kept = 0, []
        for batch in batches(rows, self.tokenizer, given.rows_per_batch):
            kept.append(batch)
            tokens += int(batch.mask.sum())
            if tokens >= _MODEL_SHARE * given.tokens:
                break
        return kept

    def forward(self, batch: TokenBatch) -> torch.Tensor:
        """What the SAE reads, of a batch."""
        return activations(self.model, batch.input_ids.to(self.run.device), [self.site])[self.site]

    def model_alone(self) -> dict[str, float]:
        """Tokens per second of the forwards up to the layer."""
        self.forward(self.rows[0])
        seconds, _ = self.run.seconds(lambda: [self.forward(batch) for batch in self.rows] and None)
        tokens = sum(int(batch.mask.sum()) for batch in self.rows)
        return {"tokens": tokens, "tokens_per_s": tokens / seconds}

    @torch.no_grad()
    def whole_over_layers(self) -> float:
        """What a whole forward takes, with the logits of every token, over one up to the layer, in
        seconds of this process.
        """
        works = (self.forward, lambda batch: self.model(batch.input_ids, use_cache=False).logits)
        spent = [0.0, 0.0]
        for batch in self.rows[:8]:
            for n, work in enumerate(works):
                started = time.process_time()
                work(batch)
                spent[n] += time.process_time() - started
        return spent[1] / spent[0]

    @torch.no_grad()
    def sae(self, d_sae: int) -> SAE:
        """The demo's SAE; or unit directions, and one threshold that leaves `--l0` active."""
        if self.demo_sae is not None:
            return self.demo_sae
        x = torch.cat([self.forward(b)[b.mask.to(self.run.device)] for b in self.rows[:4]]).float()
        x = x[:_THRESHOLD_TOKENS]
        cfg = SAEConfig(
            architecture="jumprelu",
            d_model=x.shape[1],
            d_sae=d_sae,
            site=self.site,
            context_size=self.given.row,
        )
        with torch.device(self.run.device):
            torch.manual_seed(1)
            sae = SAE.build(cfg)
            for part in sae.W_dec.data.split(2**16):
                part.normal_()
                part /= part.norm(dim=1, keepdim=True)
        sae.W_enc.data.copy_(sae.W_dec.data.T)
        sae.b_dec.data.copy_(x.mean(dim=0))
        sae.b_enc.data.copy_(-(sae.b_dec @ sae.W_enc))
        some = x[:: max(1, len(x) * d_sae // 2**25)]
        largest = sae.pre_acts(some).flatten()
        threshold = largest.topk(min(self.given.l0, d_sae // 4) * len(some)).values[-1]
        sae.get_parameter("threshold").data.fill_(float(threshold))
        return sae

    def warm_up(self, d_sae: int) -> None:
        """An index of a few tokens, by which the device's kernels are compiled."""
        cfg = self.config(_WARM_UP_TOKENS)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index.duckdb"
            sae = self.sae(d_sae)
            build.build_index(self.model, self.tokenizer, sae, cfg, path, progress=silent)

    def config(self, tokens: int) -> IndexConfig:
        """How the index of so many tokens is built."""
        given = self.given
        return IndexConfig(
            corpus=tuple(given.corpus),
            tokens=tokens,
            context_size=given.row,
            rows_per_batch=given.rows_per_batch,
            output_scores="off",
            checkpoint_tokens=2**40,
            map=given.map,
        )

    def width(self, d_sae: int, model_rate: float, deadline: float) -> dict[str, Any]:
        """Everything about an SAE of so many features."""
        sae = self.sae(d_sae)
        weights = nbytes(self.model) + nbytes(sae)
        times, read = PartTimes(self.run.device.type == "cuda"), [0]
        cfg = self.config(self.given.tokens)

        def progress(tokens: int) -> None:
            read[0] += tokens

        with ExitStack() as stack:
            for parts, on_device in ((DEVICE_PARTS, True), (HOST_PARTS, False)):
                for name, owner, attribute in parts:
                    wrapped = times.timed(name, getattr(owner, attribute), on_device)
                    stack.enter_context(mock.patch.object(owner, attribute, wrapped))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            path = folder / "index.duckdb"
            work = partial(
                build.build_index, self.model, self.tokenizer, sae, cfg, path, progress=progress
            )
            started, meta, cpu = time.monotonic(), None, cpu_seconds()
            if self.run.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                with limit(deadline - time.monotonic()), self._profiled(d_sae):
                    seconds, meta = self.run.seconds(work)
            except TimeUpError:
                seconds = time.monotonic() - started
            result = {
                "finished": meta is not None,
                "tokens": read[0],
                "index_s": seconds,
                "index_over_model": seconds * model_rate / max(read[0], 1),
                "parts_s": times.seconds(),
            }
            if self.run.device.type == "cpu":
                result["cpu_s"] = cpu_seconds() - cpu
                result["cpu_over_forwards"] = result["cpu_s"] / result["parts_s"]["model"]
                result["whole_over_layers"] = self.whole_over_layers()
            if meta is not None:
                result["l0"] = meta["totals"]["l0"]
                result["file_bytes"] = path.stat().st_size
        at_the_end = [result["parts_s"].get(f"writing{n}", float("nan")) for n in ("", "/waiting")]
        result["writing_share"] = sum(at_the_end) / seconds
        if self.run.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated()
            result |= {"peak_bytes": peak, "peak_over_weights_bytes": peak - weights}
        return result

    @contextmanager
    def _profiled(self, d_sae: int) -> Iterator[None]:
        """With `--profile FOLDER`, a table of the device's and the host's work."""
        folder = self.given.profile
        if folder is None:
            yield
            return
        kinds = [torch.profiler.ProfilerActivity.CPU]
        cuda = self.run.device.type == "cuda"
        if cuda:
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=kinds) as profiler:
            yield
        folder.mkdir(parents=True, exist_ok=True)
        order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=60, max_name_column_width=60)
        (folder / f"profile_{d_sae}.txt").write_text(table)

    def sae_dashboard(self, d_sae: int) -> dict[str, Any]:
        """SAEDashboard on the same rows, in an interpreter of its own."""
        given = self.given
        with tempfile.TemporaryDirectory() as folder:
            rows = token_rows(documents(given.corpus), self.tokenizer, given.row)
            whole = (row.ids for row in rows if len(row.ids) == given.row)
            tokens = np.stack(list(itertools.islice(whole, given.tokens // given.row)))
            np.save(Path(folder) / "tokens.npy", tokens)
            settings = {
                "shape": SHAPES[given.shape],
                "layer": given.layer,
                "d_sae": d_sae,
                "features": given.features,
                "l0": given.l0,
                "device": self.run.device.type,
            }
            (Path(folder) / "settings.json").write_text(json.dumps(settings))
            command = [given.sae_dashboard, "benchmarks/index_speed_peer.py", folder]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=max(1.0, self.run.deadline - time.monotonic()),
            )
            if done.returncode:
                raise RuntimeError(done.stderr[-300:])
            return json.loads(done.stdout.splitlines()[-1])


def options(text: str | None) -> argparse.ArgumentParser:
    """What is read, by what model and SAE; `text` is the module's own."""
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    parser.add_argument("--shape", default="demo", choices=["demo", "2b", "9b", "tiny"])
    parser.add_argument("--d-sae", nargs="+", type=int, default=[16_384], help="not with demo")
    parser.add_argument("--layer", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--row", type=int, default=128, help="tokens of a row, BOS included")
    parser.add_argument("--rows-per-batch", type=int, default=32)
    parser.add_argument("--l0", type=int, default=90)
    parser.add_argument("--corpus", nargs="+", required=True)
    parser.add_argument("--map", default="pca", choices=["pca", "umap"])
    parser.add_argument("--seconds", type=float, default=240.0, help="after that all is stopped")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=None, help="file to write the JSON to as well")
    return parser


def begun(given: argparse.Namespace, out: Path | None) -> Run:
    """Measurements with these options, which it has noted."""
    run = Run(
        device=torch.device(given.device),
        dtype=torch.bfloat16 if given.device == "cuda" else torch.float32,
        part_seconds=0.0,
        deadline=time.monotonic() + given.seconds,
        out=out,
    )
    run.record(("machine",), machine(run.device) | {"duckdb": version("duckdb")})
    random = () if given.shape == "demo" else ("layer", "l0")
    names = ("shape", "tokens", "row", "rows_per_batch", *random)
    run.record(("settings",), {name: getattr(given, name) for name in names})
    return run


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure everything, print it as JSON, and return it."""
    parser = options(__doc__)
    parser.add_argument("--profile", type=Path, default=None, help="folder for profiler tables")
    parser.add_argument("--sae-dashboard", default=None, metavar="PYTHON")
    parser.add_argument("--features", type=int, default=256, help="of SAEDashboard")
    given = parser.parse_args(arguments)
    if given.sae_dashboard and given.shape == "demo":
        parser.error("SAEDashboard is compared on random weights: give --shape 2b or 9b.")
    run = begun(given, given.out)
    bench = Bench(run, given)
    run.part(("model",), bench.model_alone)
    if run.device.type == "cuda":
        bench.warm_up(min(given.d_sae))
    for d_sae in [bench.demo_sae.cfg.d_sae] if bench.demo_sae else given.d_sae:
        rate = run.result["model"]["tokens_per_s"]
        run.part((f"features_{d_sae}",), partial(bench.width, d_sae, rate, run.deadline))
        if given.sae_dashboard:
            run.part((f"sae_dashboard_{d_sae}",), partial(bench.sae_dashboard, d_sae))
        gc.collect()
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
    print(compact_json(run.result))
    return run.result


if __name__ == "__main__":
    main()
