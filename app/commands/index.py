"""`jumpscope index`: what every feature of an SAE fires on, as one DuckDB file beside it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from app.commands.shared import JSONFlag, open_bundle, shown, table, to_json
from sae_core.index.config import IndexConfig


@dataclass(frozen=True, kw_only=True)
class BuildIndex(IndexConfig):
    """Index SAEs: stream a corpus through the model once and write each SAE's index.duckdb.

    An interrupted run goes on from its last checkpoint when the same command is given again.
    """

    json: JSONFlag = False
    """Print a summary as JSON."""

    def execute(self) -> str:
        """Read, write, and say what was written."""
        from tqdm import tqdm

        from app.engine import chosen_device, chosen_dtype
        from app.settings import Settings
        from sae_core.bundle import load_language_model
        from sae_core.formats.saelens import load_sae
        from sae_core.index.build import Target, build_indexes

        folders = self._folders()
        settings = Settings(device=self.device, dtype=self.dtype)
        device = chosen_device(settings)
        dtype = chosen_dtype(settings, device)
        saes = [load_sae(folder, device) for folder in folders]
        if self.bundle:
            model, tokenizer = open_bundle(self.bundle).load_model(dtype, device)
        else:
            model, tokenizer = load_language_model(self.model, dtype, device)
        names = [field.name for field in dataclasses.fields(IndexConfig)]
        cfg = IndexConfig(**{name: getattr(self, name) for name in names})
        targets = [
            Target(sae=sae, out_path=folder / "index.duckdb")
            for sae, folder in zip(saes, folders, strict=True)
        ]
        with tqdm(total=self.tokens, unit="token", unit_scale=True, desc="indexing") as bar:
            metas = build_indexes(model, tokenizer, targets, cfg, progress=bar.update)
        found = [
            {
                "sae": str(folder),
                "index": str(target.out_path),
                "bytes": target.out_path.stat().st_size,
                "tokens": meta["tokens"],
                "documents": meta["documents"],
            }
            for folder, target, meta in zip(folders, targets, metas, strict=True)
        ]
        if self.json:
            return to_json({"indexes": found})
        keys = ("tokens", "documents", "bytes")
        rows = [[str(entry["index"]), *(shown(entry[key]) for key in keys)] for entry in found]
        return table([["index", *keys], *rows])

    def _folders(self) -> list[Path]:
        """Folders of the SAEs to index."""
        if self.model:
            return [Path(path) for path in self.sae_path]
        if not self.bundle:
            raise ValueError("give --bundle, or --model and --sae-path.")
        bundle = open_bundle(self.bundle)
        for name in self.sae:
            bundle.sae_config(name)  # complains about a name that the bundle does not have
        return [bundle.sae_path(name) for name in self.sae or bundle.sae_names]
