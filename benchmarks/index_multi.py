"""What indexing gains from several GPUs of one host, and whether the index is the same.

    torchrun --nproc-per-node 2 -m benchmarks.index_multi --shape 2b --d-sae 16384 131072 \\
        --tokens 3000000 --corpus corpus.parquet --out index_multi.json

In one run, for each width, the first process builds the index alone while the others wait, then all
build it together, each after a short one that compiles kernels. Counts of all features are
compared, and all that is shown of some. Of every process the parts that its time went to are told,
as by `index_speed`, and `hand_over`: when it began, how long it took until the first process had
everything, and what of that was merging (`settling`), the wait for what is made `beside`, taking
over (`absorbing`) and, of the other processes, giving it away, the wait for the first included
(`sending`).
"""

import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

# Before NCCL starts: containers may not have the switch add up.
os.environ.setdefault("NCCL_NVLS_ENABLE", "0")

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.index_speed import DEVICE_PARTS, HOST_PARTS, Bench, begun, options
from benchmarks.measuring import PartTimes
from sae_core.index import Index
from sae_core.index.build import Target, build_indexes
from sae_core.index.index_pass import Pass
from sae_core.index.prepared import Prepared
from sae_core.index.ranks import ALONE, Ranks
from sae_core.index.schema import columns_of, connect
from sae_core.index.statistics import FeatureStatistics
from sae_core.progress_bar import silent
from sae_core.sae import SAE
from training.processes import together

_WARM_UP, _FOR_SAE = 60_000, 2**15
"""Tokens of the short index, and those that set the threshold."""
_SOME = 500
"""Features compared in all that is shown."""
_HAND_OVER = (
    ("hand_over", Pass, "_hand_over"),
    ("hand_over/beside", Prepared, "share"),
    ("hand_over/settling", FeatureStatistics, "settle"),
    ("hand_over/sending", Ranks, "send_to_first"),
    ("hand_over/absorbing", FeatureStatistics, "absorb"),
)
_COUNTS = "SELECT active_tokens, max_act FROM features ORDER BY feature"


def compared(paths: list[Path]) -> dict[str, float]:
    """Share of features of which two indexes say the same."""
    counts = []
    for path in paths:
        connection = connect(path)
        counts.append(columns_of(connection, path, _COUNTS))
        connection.close()
    one, other = counts
    result = {name: float(np.mean(one[name] == other[name])) for name in one}
    indexes = [Index.open(path) for path in paths]
    last = len(one["max_act"]) - 1
    some = np.linspace(0, last, min(_SOME, last + 1)).astype(int).tolist()
    pairs = [[index.feature(feature) for index in indexes] for feature in some]
    for index in indexes:
        index.close()
    for name in pairs[0][0]:
        result[f"{name}_of_some"] = float(np.mean([a[name] == b[name] for a, b in pairs]))
    return result


@contextmanager
def parts_of(cuda: bool, found: dict[str, float]) -> Iterator[None]:
    """What parts of the block take on this process."""
    times, started = PartTimes(cuda), time.perf_counter()
    with ExitStack() as stack:
        for parts, on_device in ((DEVICE_PARTS, True), (HOST_PARTS, False), (_HAND_OVER, False)):
            for name, owner, attribute in parts:
                wrapped = times.timed(name, getattr(owner, attribute), on_device)
                stack.enter_context(mock.patch.object(owner, attribute, wrapped))
        hand_over = Pass._hand_over

        def begin(self: Pass) -> None:
            found["hand_over/began"] = time.perf_counter() - started
            hand_over(self)

        stack.enter_context(mock.patch.object(Pass, "_hand_over", begin))
        yield
    found |= times.seconds()


def build(bench: Bench, tokens: int, sae: SAE, path: Path, ranks: Ranks) -> dict[str, Any]:
    """Seconds of an index, and the parts that they went to on each of its processes."""
    bench.run.wait()
    target, found = Target(sae=sae, out_path=path), {}
    given = (bench.model, bench.tokenizer, [target], bench.config(tokens))
    with parts_of(bench.run.device.type == "cuda", found):
        seconds, _ = bench.run.seconds(lambda: build_indexes(*given, progress=silent, ranks=ranks))
    found["whole"] = seconds
    if not ranks.first:
        ranks.send_to_first([found])
        return {}
    parts = [found, *ranks.from_others()]
    return {"seconds": max(each["whole"] for each in parts), "parts_s": parts}


def measured(bench: Bench, tokens: int, d_sae: int, ranks: Ranks, folder: Path) -> None:
    """A width: alone, and together."""
    sae, record = bench.sae(d_sae), bench.run.record
    paths = {name: folder / f"{name}_{d_sae}.duckdb" for name in ("one", "all")}
    seconds = {}
    for read in (_WARM_UP, tokens):
        for name, who in (("one", ALONE), ("all", ranks)):
            dist.all_reduce(torch.zeros(1))  # all begin together
            if ranks.first or who is ranks:
                found = build(bench, read, sae, paths[name], who)
                if ranks.first and read == tokens:
                    record((f"features_{d_sae}", name), {"processes": who.world, **found})
                    seconds[name] = found["seconds"]
    if ranks.first:
        record((f"features_{d_sae}", "times_one"), seconds["one"] / seconds["all"])
        record((f"features_{d_sae}", "same"), compared([*paths.values()]))


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
            measured(bench, given.tokens, d_sae, ranks, Path(folder))


if __name__ == "__main__":
    main()
