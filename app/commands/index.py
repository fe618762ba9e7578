"""`jumpscope index`: what every feature of an SAE fires on, as one DuckDB file for each SAE."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.commands.shared import DEMO, JSONFlag, chosen_bundle, shown, table, to_json
from sae_core.index.index_config import IndexConfig


@dataclass(frozen=True, kw_only=True)
class BuildIndex(IndexConfig):
    """Index SAEs: stream a corpus through the model once and write each SAE's index.duckdb.

    While it runs, an index of what has been read so far is there for the app to show. An
    interrupted run goes on from its last checkpoint when the same command is given again.
    """

    corpus: tuple[str, ...] = ()
    """Parquet, JSONL or text files, folders, globs, URLs, or data sets of the hub (user/name, maybe
    with /folder and @revision)."""
    add_output_scores: JSONFlag = False
    """Read no corpus: measure the output scores of indexes that exist, and put them in."""
    json: JSONFlag = False
    """Print a summary as JSON."""

    def _check_corpus(self) -> None:
        if not self.add_output_scores:
            super()._check_corpus()
        elif self.corpus:
            raise ValueError("--add-output-scores reads no corpus: leave --corpus out.")

    def execute(self) -> str:
        """Read, write, and say what was written."""
        if self.add_output_scores:
            return self._add()
        from sae_core.index.index_run import run_index

        names = [field.name for field in dataclasses.fields(IndexConfig)]
        given = {name: getattr(self, name) for name in names}
        if self.bundle == "demo":
            given["bundle"] = str(DEMO)
        result = run_index(IndexConfig(**given))
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


def _table(result: Mapping[str, Any], keys: Sequence[str]) -> str:
    rows = [[entry["path"], *(shown(entry[key]) for key in keys)] for entry in result["indexes"]]
    return table([["index", *keys], *rows])
