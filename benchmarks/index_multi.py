"""What indexing gains from several GPUs of one host, and whether the index is the same.

    torchrun --nproc-per-node 2 -m benchmarks.index_multi --shape 2b --d-sae 16384 131072 \\
        --tokens 3000000 --corpus corpus.parquet --out index_multi.json

In one run, for each width, the first process builds the index alone while the others wait, then all
build it together, each after a short one that compiles kernels. Counts of all features are
compared, and all that is shown of some.
"""

import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

# Before NCCL starts: containers may not have the switch add up.
os.environ.setdefault("NCCL_NVLS_ENABLE", "0")

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.index_speed import Bench, begun, options
from sae_core.index import Index
from sae_core.index.build import Target, build_indexes
from sae_core.index.index_pass import Pass
from sae_core.index.ranks import ALONE, Ranks
from sae_core.index.schema import columns_of, connect
from sae_core.progress_bar import silent
from training.processes import together

_WARM_UP, _FOR_SAE = 60_000, 2**15
"""Tokens of the short index, and those that set the threshold."""
_SOME = 500
"""Features compared in all that is shown."""
_COUNTS = "SELECT active_tokens, max_act FROM features ORDER BY feature"


def compared(paths: list[Path]) -> dict[str, float]:
    """Share of features of which two indexes say the same."""
    counts = []
    for path in paths:
        connection = connect(path)
        counts.append(columns_of(connection, path, _COUNTS))
        connection.close()
    one, other = counts
    result = {f"same_{name}": float(np.mean(one[name] == other[name])) for name in one}
    indexes = [Index.open(path) for path in paths]
    last = len(one["max_act"]) - 1
    some = np.linspace(0, last, min(_SOME, last + 1)).astype(int).tolist()
    pairs = [[index.feature(feature) for index in indexes] for feature in some]
    for index in indexes:
        index.close()
    for name in pairs[0][0]:
        result[f"same_{name}_of_some"] = float(np.mean([a[name] == b[name] for a, b in pairs]))
    return result


@contextmanager
def handing_over(seconds: dict[str, float], name: str) -> Iterator[None]:
    """The seconds from the last token until this process has all that was counted, or has given it
    away; the wait for whoever is slower is among them.
    """
    real = Pass._hand_over

    def timed(self: Pass) -> None:
        torch.cuda.synchronize()
        started = time.perf_counter()
        real(self)
        torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - started

    with mock.patch.object(Pass, "_hand_over", timed):
        yield


def measured(bench: Bench, tokens: int, d_sae: int, ranks: Ranks, folder: Path) -> dict[str, Any]:
    """A width: alone, and together."""
    sae, seconds = bench.sae(d_sae), {}
    paths = {name: folder / f"{name}_{d_sae}.duckdb" for name in ("one", "all")}
    for read in (_WARM_UP, tokens):
        for name, who in (("one", ALONE), ("all", ranks)):
            took = torch.zeros(1)
            if ranks.first or who is ranks:
                work, target = bench.config(read), Target(sae=sae, out_path=paths[name])
                given = (bench.model, bench.tokenizer, [target], work)
                with handing_over(seconds, f"{name}_handing_over"):
                    took[0], _ = bench.run.seconds(
                        lambda given=given, who=who: build_indexes(
                            *given, progress=silent, ranks=who
                        )
                    )
            dist.all_reduce(took, dist.ReduceOp.MAX)
            seconds[name] = float(took)
    if not ranks.first:
        return {}
    times = seconds["one"] / seconds["all"]
    return {"seconds": seconds, "times_one": times, **compared([*paths.values()])}


def main() -> None:
    """Measure; the first process writes it down."""
    parser = options(__doc__)
    parser.add_argument("--times", type=int, default=1, help="that the corpus is read")
    given = parser.parse_args()
    given.corpus = given.corpus * given.times
    with together(given.device) as shard, tempfile.TemporaryDirectory() as folder:
        if shard.alone:
            parser.error("start it under torchrun, a process for each GPU.")
        ranks = Ranks(shard.rank, shard.world)
        run = begun(given, given.out if ranks.first else None)
        bench = Bench(run, Namespace(**vars(given) | {"tokens": _FOR_SAE}))
        for d_sae in given.d_sae:
            found = measured(bench, given.tokens, d_sae, ranks, Path(folder))
            if ranks.first:
                run.record((f"features_{d_sae}",), {"processes": ranks.world, **found})


if __name__ == "__main__":
    main()
