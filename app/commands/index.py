"""`jumpscope index`: what every feature of an SAE fires on, as one DuckDB file for each SAE."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.commands.shared import DEMO, JSONFlag, chosen_bundle, shown, table, to_json
from sae_core.index.index_config import IndexConfig
from sae_core.placement import Device

if TYPE_CHECKING:
    from sae_core.index.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class BuildIndex(IndexConfig):
    """Index SAEs: stream a corpus through the model once and write each SAE's index.duckdb.

    While it runs, an index of what has been read so far is there for the app to show. An
    interrupted run goes on from its last checkpoint when the same command is given again. Under
    torchrun several GPUs share the text out.
    """

    corpus: tuple[str, ...] = ()
    """Parquet, JSONL or text files, folders, globs, URLs, or data sets of the hub (user/name, maybe
    with /folder and @revision)."""
    add_output_scores: JSONFlag = False
    """Read no corpus: measure the output scores of indexes that exist, and put them in."""
    add_map: JSONFlag = False
    """Read no corpus: compute the map of the features of indexes that exist (--map says how), and
    put it in."""
    merge: tuple[str, ...] = ()
    """Read no corpus: join indexes of other text, built with --keep-state, into what one pass over
    their texts in this order writes. Bundles, folders of indexes, or indexes."""
    json: JSONFlag = False
    """Print a summary as JSON."""

    def _check_corpus(self) -> None:
        options = self._options()
        if len(options) > 1:
            raise ValueError(f"give either {' or '.join(options)}, not both.")
        if not options:
            super()._check_corpus()
        elif self.corpus:
            raise ValueError(f"{options[0]} reads no corpus: leave --corpus out.")
        if len(self.merge) == 1:
            raise ValueError("--merge joins indexes: name two or more.")

    def _options(self) -> list[str]:
        """What is asked for in place of a corpus."""
        given = {
            "--add-output-scores": self.add_output_scores,
            "--add-map": self.add_map,
            "--merge": bool(self.merge),
        }
        return [name for name, is_given in given.items() if is_given]

    def execute(self) -> str | None:
        """Read, write, and say what was written; of several processes the first one says it."""
        options = self._options()
        if options and _processes() > 1:
            raise ValueError(f"{options[0]} is the work of one process: leave torchrun out.")
        if self.add_output_scores:
            return self._add()
        if self.add_map:
            return self._add_map()
        if self.merge:
            return self._merge()
        from sae_core.index.index_run import run_index

        names = [field.name for field in dataclasses.fields(IndexConfig)]
        given = {name: getattr(self, name) for name in names}
        if self.bundle == "demo":
            given["bundle"] = str(DEMO)
        with _ranks(self.device) as ranks:
            result = run_index(IndexConfig(**given), ranks)
        if not ranks.first:
            return None
        if self.json:
            return to_json(result)
        return _table(result, ("tokens", "documents", "bytes"))

    def _add(self) -> str:
        from sae_core.index.add_scores import add_output_scores

        # With a model `sae` names SAEs by id; the bundle made of them has no others.
        bundle = chosen_bundle(self.bundle, self.model, self.sae)
        names = () if self.model else self.sae
        result = add_output_scores(bundle, names, device=self.device, dtype=self.dtype)
        return to_json(result) if self.json else _table(result, ("features", "bytes"))

    def _add_map(self) -> str:
        from sae_core.index.add_map import add_map

        bundle = chosen_bundle(self.bundle, self.model, self.sae)
        names = () if self.model else self.sae
        result = add_map(bundle, names, method=self.map, device=self.device, seed=self.seed)
        return to_json(result) if self.json else _table(result, ("features", "method", "bytes"))

    def _merge(self) -> str:
        from sae_core.index.merge_run import run_merge

        result = run_merge(
            chosen_bundle(self.bundle, self.model, self.sae),
            () if self.model else self.sae,
            [Path(part) for part in self.merge],
            device=self.device,
            dtype=self.dtype,
            output_scores=self.output_scores,
        )
        return to_json(result) if self.json else _table(result, ("tokens", "documents", "bytes"))


def _processes() -> int:
    """How many torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextmanager
def _ranks(device: Device) -> Iterator["Ranks"]:
    """This process's place among those that torchrun has started."""
    from sae_core.index.ranks import ALONE, Ranks

    if "RANK" not in os.environ:
        yield ALONE
        return
    from training.processes import together

    with together(device) as shard:
        yield Ranks(shard.rank, shard.world)


def _table(result: Mapping[str, Any], keys: Sequence[str]) -> str:
    rows = [[entry["path"], *(shown(entry[key]) for key in keys)] for entry in result["indexes"]]
    return table([["index", *keys], *rows])
