"""What indexing gains from several GPUs of one host, and that the index is the same. Prints JSON.

    torchrun --nproc-per-node 2 -m benchmarks.index_multi --shape 2b --d-sae 16384 131072 \\
        --tokens 3000000 --corpus corpus.parquet --out benchmarks/results/index_multi.json

In one run, for each width, the first process builds the index alone while the others wait, then all
build it together, each after a short one that compiles kernels. The same number of tokens is read
by either, from the first row to the finished file; `--times` reads the corpus so often, each time
as other documents. Of the two indexes the counts of all features are compared, and all that is
shown of some.
"""

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Before NCCL starts: sums in the switch need a permission that not every container has.
os.environ.setdefault("NCCL_NVLS_ENABLE", "0")

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.gemma_shapes import machine
from benchmarks.index_speed import Bench
from benchmarks.measuring import Run
from sae_core.index import Index
from sae_core.index.build import Target, build_indexes
from sae_core.index.index_config import IndexConfig
from sae_core.index.ranks import ALONE, Ranks
from sae_core.index.schema import columns_of, connect
from training.processes import together

_WARM_UP = 60_000
"""Tokens of the index that compiles kernels."""
_FEATURES = 500
"""Features whose contexts are compared, evenly spaced."""


def compared(one: Path, other: Path) -> dict[str, Any]:
    """How many of the features two indexes say the same of."""
    columns = []
    for path in (one, other):
        connection = connect(path)
        statement = "SELECT active_tokens, max_act FROM features ORDER BY feature"
        columns.append(columns_of(connection, path, statement))
        connection.close()
    result: dict[str, Any] = {
        f"same_{name}": float(np.mean(columns[0][name] == columns[1][name])) for name in columns[0]
    }
    indexes = [Index.open(path) for path in (one, other)]
    try:
        d_sae = len(columns[0]["max_act"])
        features = np.linspace(0, d_sae - 1, min(_FEATURES, d_sae)).astype(int).tolist()
        pairs = [[index.feature(feature) for index in indexes] for feature in features]
        result["totals"] = [index.meta["totals"] for index in indexes]
    finally:
        for index in indexes:
            index.close()
    for name in pairs[0][0]:
        result[f"same_{name}_of_some"] = float(np.mean([a[name] == b[name] for a, b in pairs]))
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything; the first process prints it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", default="2b", choices=["demo", "2b", "9b", "tiny"])
    parser.add_argument("--d-sae", nargs="+", type=int, default=[16_384, 131_072])
    parser.add_argument("--layer", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=3_000_000)
    parser.add_argument("--row", type=int, default=128, help="tokens of a row, BOS included")
    parser.add_argument("--rows-per-batch", type=int, default=32)
    parser.add_argument("--l0", type=int, default=90)
    parser.add_argument("--corpus", nargs="+", required=True)
    parser.add_argument("--times", type=int, default=1, help="that the corpus is read")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=None, help="file to write the JSON to as well")
    given = parser.parse_args(arguments)
    given.corpus = given.corpus * given.times
    with together(given.device) as shard:
        if shard.alone:
            parser.error("start it under torchrun, with a process for each GPU.")
        ranks = Ranks(shard.rank, shard.world)
        cuda = given.device == "cuda"
        run = Run(
            device=torch.device(given.device),
            dtype=torch.bfloat16 if cuda else torch.float32,
            part_seconds=0.0,
            deadline=time.monotonic() + 3600,
            out=given.out if ranks.first else None,
        )
        record: Callable[..., None] = run.record if ranks.first else lambda *_: None
        record(("machine",), machine(run.device) | {"processes": ranks.world})
        names = ("shape", "layer", "tokens", "row", "rows_per_batch", "l0", "times")
        record(("settings",), {name: getattr(given, name) for name in names})
        # Only what an SAE's threshold is set by: all processes must have the same.
        bench = Bench(run, argparse.Namespace(**vars(given) | {"tokens": 2**15}))
        with tempfile.TemporaryDirectory() as folder:
            for d_sae in given.d_sae:
                width = partial(_width, bench, given, ranks, Path(folder))
                record((f"features_{d_sae}",), width(d_sae))
                gc.collect()
        if ranks.first:
            print(json.dumps(run.result, indent=2))


def _width(
    bench: Bench, given: argparse.Namespace, ranks: Ranks, folder: Path, d_sae: int
) -> dict[str, Any]:
    """One width: alone, and together."""
    sae, seconds = bench.sae(d_sae), {}
    paths = {name: folder / f"{name}_{d_sae}.duckdb" for name in ("one", "all")}
    for tokens in (_WARM_UP, given.tokens):
        cfg = IndexConfig(
            corpus=tuple(given.corpus),
            tokens=tokens,
            context_size=given.row,
            rows_per_batch=given.rows_per_batch,
            output_scores="off",
            checkpoint_tokens=2**40,
            map="pca",
        )
        for name, who in (("one", ALONE), ("all", ranks)):
            if who is ALONE and not ranks.first:
                took = 0.0
            else:
                target = [Target(sae=sae, out_path=paths[name])]
                work = partial(
                    build_indexes,
                    bench.model,
                    bench.tokenizer,
                    target,
                    cfg,
                    progress=lambda _: None,
                    ranks=who,
                )
                took, _ = bench.run.seconds(work)
            dist.all_reduce(torch.tensor(took))  # whoever is done waits for the others
            seconds[name] = took
    if not ranks.first:
        return {}
    found = {"seconds": seconds, "times_one": seconds["one"] / seconds["all"]}
    return found | compared(*paths.values())


if __name__ == "__main__":
    main()
