"""`jumpscope inspect`: what a bundle or an SAE is, from its files; its numbers, if asked for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from app.commands.checking import checks_as_text, run_checks
from app.commands.shared import JSONFlag, chosen_bundle, open_bundle, shown, table, to_json
from sae_core.placement import Device, DType
from sae_core.text_options import TextOptions

if TYPE_CHECKING:
    from sae_core.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Say what a bundle holds, or what an SAE is, whatever its format and wherever it is.

    Of a bundle: its language model and its SAEs, with their measured quality and their indexes. Of
    an SAE: its kind, sites, widths and origin, and the hash of its weights. With --check, the model
    runs on some text, and L0 and FVU are compared with the declared ones.
    """

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[BUNDLE|SAE]")] = "demo"
    """Folder of a bundle (`demo` is the bundled one), folder or file of an SAE, or its hub id."""
    check: JSONFlag = False
    """Check every SAE: do its numbers fit, and if not, how are its weights meant to be read?"""
    model: str = ""
    """To check an SAE that is in no bundle: hub id of its language model, or its folder."""
    sae: str = ""
    """Check this SAE of the bundle alone; with model: hub id of the SAE, or its folder."""
    text: tuple[str, ...] = ()
    """Parquet, JSONL or text files, folders, globs, URLs, or data sets of the hub to check on; by
    default a text that is shipped, of many kinds."""
    text_options: TextOptions = field(default_factory=TextOptions)
    """How documents are read from the files of text."""
    tokens: int = 4000
    """Tokens to check on."""
    device: Device = "auto"
    """Where the model runs; `auto` is CUDA if there is a device, else the CPU."""
    dtype: DType = "auto"
    """The model's dtype; `auto` is float32 on the CPU, bfloat16 on CUDA."""
    save: JSONFlag = False
    """Keep the check's result with the SAE, where `inspect` and the app find it."""
    json: JSONFlag = False
    """Print JSON."""

    def execute(self) -> str:
        """The listing, or the checks, as JSON or text."""
        from sae_core.bundle import BUNDLE_FILE

        if self.check:
            checks = self._checks()
            return to_json(checks) if self.json else checks_as_text(checks)
        if self.save or self.model or self.sae or self.text or self._reads_otherwise:
            raise ValueError("save, model, sae and text belong to a check: add --check.")
        if self.what == "demo" or (Path(self.what) / BUNDLE_FILE).is_file():
            facts = describe(open_bundle(self.what))
            return to_json(facts) if self.json else _bundle_as_text(facts)
        facts = describe_sae(self.what)
        return to_json(facts) if self.json else _sae_as_text(facts)

    @property
    def _reads_otherwise(self) -> bool:
        return self.text_options != TextOptions()

    def _checks(self) -> dict[str, Any]:
        if self._reads_otherwise and not self.text:
            raise ValueError("text_column and split say how text is read: name files with --text.")
        if self.model:
            bundle = chosen_bundle("", self.model, [self.sae or self.what])
        else:
            bundle = open_bundle(self.what)
        chosen = [self.sae] if self.sae and not self.model else bundle.sae_names
        return run_checks(
            bundle,
            chosen,
            text=self.text,
            text_options=self.text_options,
            tokens=self.tokens,
            device=self.device,
            dtype=self.dtype,
            save=self.save,
        )


def describe(bundle: "Bundle") -> dict[str, Any]:
    """The bundle as JSON values: `name`, `title`, `path`, `model`, and `saes` with their index."""
    from app.engine.facts import model_facts

    return {
        "name": bundle.name,
        "title": bundle.title,
        "path": str(bundle.path),
        "model": model_facts(bundle),
        "saes": [_sae(bundle, name) for name in bundle.sae_names],
    }


def describe_sae(source: str) -> dict[str, Any]:
    """An SAE as JSON values; ValueError with one sentence if it cannot be had or read."""
    from app.engine.facts import config_facts
    from sae_core.files import sha256
    from sae_core.formats import read_config, recognise, weights_file
    from sae_core.sources import locate

    path, origin = locate(source)
    cfg = read_config(path, origin=origin)
    file = weights_file(path)
    facts = config_facts(cfg)
    return {
        "source": source,
        "format": recognise(path),
        **facts,
        "content_hash": facts["content_hash"] or sha256(file),
        "file": str(file),
        "bytes": file.stat().st_size,
        "measured": cfg.metadata.get("measured") or {},
    }


def _sae(bundle: "Bundle", name: str) -> dict[str, Any]:
    from dataclasses import asdict

    from app.engine.facts import sae_facts, text_facts
    from app.engine.indexes import NoIndexError, open_index
    from sae_core.check import saved_check

    facts = sae_facts(bundle, name) | {"check": saved_check(bundle, name)}
    path = bundle.index_path(name)
    try:
        index = {"file": str(path), **text_facts(open_index(bundle, name))}
    except NoIndexError as error:
        return facts | {"index": None, "missing": asdict(error.missing)}
    return facts | {"index": index | {"bytes": path.stat().st_size}, "missing": None}


def _bundle_as_text(facts: dict[str, Any]) -> str:
    model = ", ".join(f"{k} {shown(v)}" for k, v in facts["model"].items() if v is not None)
    rows = [
        ["SAE", "site", "layer", "d_sae", "L0", "FVU", "delta LM loss", "tokens indexed", "check"]
    ]
    keys = ("name", "site", "layer", "d_sae", "l0", "fvu", "delta_lm_loss")
    for sae in facts["saes"]:
        indexed = (sae["index"] or {}).get("tokens")
        check = sae["check"] and f"{sae['check']['verdict']}, {sae['check']['date']}"
        rows.append([*(shown(sae[key]) for key in keys), shown(indexed), shown(check)])
    return f"{facts['name']}: {facts['title']}\nmodel: {model}\n\n{table(rows)}"


def _sae_as_text(described: dict[str, Any]) -> str:
    facts = {key: value for key, value in described.items() if key != "measured"}
    facts |= {f"measured {key}": value for key, value in described["measured"].items()}
    facts["skip"] = "yes" if facts["skip"] else None
    return table([[key, shown(value)] for key, value in facts.items() if value is not None])
