"""`jumpscope inspect`: what a bundle holds, from its files, without running the model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from app.commands.shared import JSONFlag, open_bundle, shown, table, to_json

if TYPE_CHECKING:
    from sae_core.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """List a bundle's language model and SAEs, with their measured quality and their indexes."""

    bundle: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[BUNDLE]")] = "demo"
    """Folder of the bundle; `demo` is the bundled one."""
    json: JSONFlag = False
    """Print JSON."""

    def execute(self) -> str:
        """The listing as JSON or text."""
        found = describe(open_bundle(self.bundle))
        return to_json(found) if self.json else _as_text(found)


def describe(bundle: "Bundle") -> dict[str, Any]:
    """The bundle as JSON values: `name`, `title`, `path`, `model`, and `saes` with their index."""
    from app.about import model_facts

    return {
        "name": bundle.name,
        "title": bundle.title,
        "path": str(bundle.path),
        "model": model_facts(bundle) or {"name": bundle.model},
        "saes": [_sae(bundle, name) for name in bundle.sae_names],
    }


def _sae(bundle: "Bundle", name: str) -> dict[str, Any]:
    from app.about import index_facts, open_index, sae_facts

    facts = sae_facts(bundle, name)
    path = bundle.index_path(name)
    index = None
    if path.is_file():
        facts_of_index = index_facts(open_index(bundle, name))
        index = {"file": str(path), "bytes": path.stat().st_size, **facts_of_index}
    return facts | {"index": index}


def _as_text(found: dict[str, Any]) -> str:
    model = ", ".join(f"{k} {shown(v)}" for k, v in found["model"].items() if v is not None)
    rows = [["SAE", "site", "layer", "d_sae", "L0", "FVU", "delta LM loss", "tokens indexed"]]
    keys = ("name", "site", "layer", "d_sae", "l0", "fvu", "delta_lm_loss")
    for sae in found["saes"]:
        indexed = (sae["index"] or {}).get("tokens")
        rows.append([*(shown(sae[key]) for key in keys), shown(indexed)])
    return f"{found['name']}: {found['title']}\nmodel: {model}\n\n{table(rows)}"
