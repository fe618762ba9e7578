"""`jumpscope index`: what every feature of an SAE fires on, as one DuckDB file for each SAE."""

import dataclasses
from dataclasses import dataclass

from app.commands.shared import DEMO, JSONFlag, shown, table, to_json
from sae_core.index.index_config import IndexConfig


@dataclass(frozen=True, kw_only=True)
class BuildIndex(IndexConfig):
    """Index SAEs: stream a corpus through the model once and write each SAE's index.duckdb.

    An interrupted run goes on from its last checkpoint when the same command is given again.
    """

    json: JSONFlag = False
    """Print a summary as JSON."""

    def execute(self) -> str:
        """Read, write, and say what was written."""
        from sae_core.index.index_run import run_index

        names = [field.name for field in dataclasses.fields(IndexConfig)]
        given = {name: getattr(self, name) for name in names}
        if self.bundle == "demo":
            given["bundle"] = str(DEMO)
        result = run_index(IndexConfig(**given))
        if self.json:
            return to_json(result)
        keys = ("tokens", "documents", "bytes")
        rows = [
            [entry["path"], *(shown(entry[key]) for key in keys)] for entry in result["indexes"]
        ]
        return table([["index", *keys], *rows])
