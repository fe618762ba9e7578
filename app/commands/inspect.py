"""`jumpscope inspect`: what a bundle holds, from its files, without running the model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from app.commands.shared import open_bundle, shown, table, to_json

if TYPE_CHECKING:
    from sae_core.bundle import Bundle

MEASURED = ("l0", "fvu", "delta_lm_loss")
"""Numbers shown for each SAE, as they were measured when it was saved."""


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """List a bundle's language model and SAEs, with their measured quality and their indexes."""

    bundle: tyro.conf.Positional[str] = "demo"
    """Folder of the bundle; `demo` is the bundled one."""
    json: bool = False
    """Print JSON."""

    def execute(self) -> str:
        """The listing as JSON or text."""
        found = describe(open_bundle(self.bundle))
        return to_json(found) if self.json else _as_text(found)


def describe(bundle: "Bundle") -> dict[str, Any]:
    """The bundle as JSON values: `name`, `title`, `model` and `saes`, each with its index."""
    return {
        "name": bundle.name,
        "title": bundle.title,
        "path": str(bundle.path),
        "model": _model(bundle),
        "saes": [_sae(bundle, name) for name in bundle.sae_names],
    }


def _model(bundle: "Bundle") -> dict[str, Any]:
    folder = bundle.path / bundle.model
    found: dict[str, Any] = {"name": bundle.model}
    if folder.is_dir():
        config = json.loads((folder / "config.json").read_text())
        found |= {
            "architecture": (config.get("architectures") or [config.get("model_type", "")])[0],
            "parameters": _parameters(folder),
            "layers": config.get("num_hidden_layers"),
            "d_model": config.get("hidden_size"),
            "vocabulary": config.get("vocab_size"),
        }
    return found


def _parameters(folder: Path) -> int:
    """Numbers in the folder's safetensors files; tied weights are there once."""
    import math

    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - not a dict
    return total


def _sae(bundle: "Bundle", name: str) -> dict[str, Any]:
    from sae_core.formats.saelens import load_config

    cfg = load_config(bundle.sae_path(name))
    site = cfg.site
    measured = cfg.metadata.get("measured") or {}
    path = bundle.index_path(name)
    found: dict[str, Any] = {
        "name": name,
        "architecture": cfg.architecture,
        "site": None if site is None else site.kind,
        "layer": None if site is None else site.layer,
        "d_model": cfg.d_model,
        "d_sae": cfg.d_sae,
        "context_size": cfg.context_size,
        **{key: measured.get(key) for key in MEASURED},
        "measured_tokens": measured.get("tokens"),
        "content_hash": cfg.metadata.get("content_hash"),
        "index": None,
    }
    if path.is_file():
        from sae_core.index import Index

        with Index.open(path) as index:
            meta = index.meta
        found["index"] = {
            "file": str(path),
            "bytes": path.stat().st_size,
            "tokens": meta["tokens"],
            "documents": meta["documents"],
        }
    return found


def _as_text(found: dict[str, Any]) -> str:
    model = found["model"]
    head = [
        f"{found['name']}: {found['title']}",
        "model: " + ", ".join(f"{k} {shown(v)}" for k, v in model.items() if v is not None),
        "",
    ]
    rows = [["SAE", "site", "layer", "d_sae", "L0", "FVU", "delta LM loss", "tokens indexed"]]
    for sae in found["saes"]:
        index = sae["index"] or {}
        keys = ("name", "site", "layer", "d_sae", *MEASURED)
        rows.append([*(shown(sae[key]) for key in keys), shown(index.get("tokens"))])
    return "\n".join([*head, table(rows)])
