"""A bundle: a language model with SAEs and their indexes in one folder.

bundle.json                  name, title, model, saes, examples
model/                       Hugging Face layout (or a hub id in bundle.json)
saes/NAME/cfg.json           the SAE (or a hub id or path in bundle.json)
saes/NAME/sae_weights.safetensors
saes/NAME/index.duckdb       its feature index, once built
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_core import notebook
from sae_core.config import SAEConfig
from sae_core.file_hashes import remembered_sha256
from sae_core.files import atomic_write, is_version, stamp_of
from sae_core.formats.configs import read_config, weights_file
from sae_core.formats.origin import Origin
from sae_core.hub import fetch, parse_id

if TYPE_CHECKING:
    # What a bundle holds is listed without PyTorch, whose import takes seconds.
    import torch

    from sae_core.sae import SAE
    from sae_core.splice import SplicedLM

BUNDLE_FILE = "bundle.json"
INDEX_FILE = "index.duckdb"
FORMAT, VERSION = "jumpscope-bundle", 1
_KINDS = {str: "a text", list: "a list", dict: "an object"}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What `bundle.json` says, and the folder it lies in."""

    path: Path
    name: str
    title: str
    """One sentence that says what the model is."""
    model: str
    """Folder, relative to the bundle's, or a hub id `owner/name`, maybe with `@revision`."""
    sae_names: tuple[str, ...]
    sources: dict[str, str] = field(default_factory=dict)
    """Hub id or path of the SAEs whose weights lie elsewhere than in `saes/NAME`."""
    examples: dict[str, Any] = field(default_factory=dict)
    """Texts and edits the app shows first."""
    located: dict[str, tuple[Path, Origin | None]] = field(default_factory=dict, repr=False)
    """SAEs from the hub that have been looked for: name -> folder, and what the id says. While a
    process lives an id stays at the commit that it first stood for."""
    hashes: dict[str, str] = field(default_factory=dict, repr=False)
    """SHA-256 of weights files, as `content_hash` and `load_sae` last had them."""
    stamps: dict[str, tuple[Path, tuple[int, ...] | None]] = field(default_factory=dict, repr=False)
    """Those files, and `stamp_of` each at that time."""

    def __repr__(self) -> str:
        """Folder, model and SAEs in one line."""
        return f"Bundle({str(self.path)!r}: {self.model}, SAEs {', '.join(self.sae_names)})"

    def _repr_html_(self) -> str:
        """The model, and where each SAE's weights are and whether it has an index."""
        rows = [
            (
                name,
                self.sources.get(name, "here"),
                "yes" if self.index_path(name).is_file() else "no",
            )
            for name in self.sae_names
        ]
        return notebook.page(
            f"Bundle {self.name}",
            notebook.words(self.title),
            notebook.facts({"model": self.model, "folder": str(self.path)}),
            notebook.table(("SAE", "weights", "index"), rows),
        )

    @classmethod
    def open(cls, path: Path | str) -> "Bundle":
        """Read a bundle; ValueError with one sentence if it is none or lacks a part."""
        path = Path(path)
        file = path / BUNDLE_FILE
        if not file.is_file():
            raise ValueError(
                f"{path} is not a bundle: it has no {BUNDLE_FILE}; name the folder of one."
            )
        try:
            written = json.loads(file.read_text(encoding="utf-8"))
        except (RecursionError, ValueError) as error:
            reason = "nested too deep" if isinstance(error, RecursionError) else error
            raise ValueError(f"{file} is not a bundle's JSON ({reason}).") from error
        bundle = _parsed(path, written)
        bundle._check_model()
        bundle._check_saes()
        return bundle

    def _check_model(self) -> None:
        """ValueError if the model is a relative path that leads out of the bundle."""
        if not os.path.isabs(self.model) and _leads_out(self.model):
            raise ValueError(
                f"{self.path / BUNDLE_FILE} has a model outside the bundle: {self.model!r}; write "
                "its absolute path, or its hub id."
            )

    def _check_saes(self) -> None:
        """ValueError if there is none, a name or a relative path leads out, or a folder lacks."""
        file = self.path / BUNDLE_FILE
        if not self.sae_names:
            raise ValueError(f"{file} lists no SAE.")
        if len(set(self.sae_names)) < len(self.sae_names):
            raise ValueError(f"{file} lists two SAEs of one name.")
        for name in self.sae_names:
            inside = self.sae_path(name).resolve()
            saes = (self.path / "saes").resolve()
            if inside == saes or not inside.is_relative_to(saes):
                raise ValueError(f"{file} names an SAE outside the bundle: {name!r}.")
            source = self.sources.get(name)
            if source is None and not inside.is_dir():
                raise ValueError(f"{file} lists SAE {name!r} but {inside} does not exist.")
            if source is not None and not Path(source).is_absolute():
                there = (self.path / source).resolve()
                if not there.is_relative_to(self.path.resolve()):
                    raise ValueError(f"{file} has SAE {name!r} outside the bundle: {source!r}.")

    def sae_path(self, name: str) -> Path:
        """Folder of an SAE."""
        return self.path / "saes" / name

    def index_path(self, name: str) -> Path:
        """File of an SAE's index, whether it exists or not."""
        return self.sae_path(name) / INDEX_FILE

    def load_model(
        self,
        dtype: "torch.dtype | None" = None,
        device: "str | torch.device" = "cpu",
        **options: Any,
    ) -> tuple[Any, Any]:
        """The language model in `dtype` (None is float32) and its tokenizer; see
        `load_language_model` for the options.
        """
        import torch

        from sae_core.language_model import load_language_model

        dtype = dtype or torch.float32
        inside = self.path / self.model
        if inside.is_dir():
            return load_language_model(str(inside), dtype, device, **options)
        if self.model.partition("@")[0].count("/") != 1 or self.model.startswith((".", "/")):
            raise ValueError(
                f"bundle {self.name} has no folder {self.model}, and that is no hub id either."
            )
        return load_language_model(self.model, dtype, device, **options)

    def load_sae(self, name: str, device: "str | torch.device" = "cpu") -> "SAE":
        """One SAE in float32, downloaded if need be; ValueError with one sentence if it cannot be
        read, or naming the bundle's SAEs if it has none of that name.
        """
        from sae_core.formats.registry import read_sae

        path, origin = self._locate(name)
        # Before it is read: what is written meanwhile is noticed later.
        file = weights_file(path)
        stamp = stamp_of(file)
        sae = read_sae(path, device, origin=origin)
        if digest := sae.cfg.metadata.get("content_hash"):
            self.hashes[name], self.stamps[name] = digest, (file, stamp)
        return sae

    def sae_config(self, name: str) -> SAEConfig:
        """An SAE's configuration and measured numbers, without reading its weights.

        Its `content_hash` is there if its files have it, or once its weights have been read.
        """
        path, origin = self._locate(name)
        cfg = read_config(path, origin=origin)
        if name not in self.hashes:
            return cfg
        return replace(cfg, metadata={**cfg.metadata, "content_hash": self.hashes[name]})

    def content_hash(self, name: str) -> str:
        """SHA-256 of an SAE's weights file as it is now.

        It is read where that hash is not known of this very file (`sae_core.file_hashes`), whatever
        the SAE's other files say.
        """
        before = self.stamps.get(name)
        if before is not None and before[1] == stamp_of(before[0]) is not None:
            return self.hashes[name]
        file = weights_file(self._locate(name)[0])
        stamp = stamp_of(file)
        digest = remembered_sha256(file)
        self.hashes[name], self.stamps[name] = digest, (file, stamp)
        return digest

    def sae_source(self, name: str) -> str:
        """Path or hub id of an SAE's weights; ValueError if the bundle has no SAE of that name."""
        if name not in self.sae_names:
            raise ValueError(
                f"bundle {self.name} has no SAE {name!r}: it has {', '.join(self.sae_names)}."
            )
        if name not in self.sources:
            return str(self.sae_path(name))
        # A path relative to the bundle's folder; an absolute one stays what it is.
        inside = self.path / self.sources[name]
        return str(inside) if inside.exists() else self.sources[name]

    def _locate(self, name: str) -> tuple[Path, Origin | None]:
        """The folder or file of an SAE's weights, and for one from the hub what its id says."""
        source = self.sae_source(name)
        if self.sources.get(name) != source or Path(source).is_absolute():
            return Path(source), None
        if name not in self.located:
            sae_id = parse_id(source)
            if sae_id is None:
                raise ValueError(
                    f"bundle {self.name} has SAE {name!r} at {source!r}, which is neither a path "
                    "in it nor a hub id."
                )
            self.located[name] = fetch(sae_id)
        return self.located[name]

    def entries(self) -> list[str | dict[str, str]]:
        """The SAEs as `bundle.json` lists them."""
        return [
            {"name": name, "source": self.sources[name]} if name in self.sources else name
            for name in self.sae_names
        ]

    def load(
        self, dtype: "torch.dtype | None" = None, device: "str | torch.device" = "cpu"
    ) -> "SplicedLM":
        """The model with every SAE of the bundle."""
        from sae_core.splice import SplicedLM

        model, tokenizer = self.load_model(dtype, device)
        return SplicedLM(model, tokenizer, {n: self.load_sae(n, device) for n in self.sae_names})


def write_bundle(
    path: Path | str,
    *,
    name: str,
    title: str,
    model: str,
    saes: Sequence[str | dict[str, str]],
    examples: dict[str, Any] | None = None,
) -> Bundle:
    """Write `bundle.json` into a folder that holds the SAEs already, and open it.

    `saes` are names, or `{"name", "source"}` for SAEs whose weights lie elsewhere.
    """
    written = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "title": title,
        "model": model,
        "saes": list(saes),
        "examples": examples or {},
    }
    with atomic_write(Path(path) / BUNDLE_FILE) as temporary:
        temporary.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    return Bundle.open(path)


def _parsed(path: Path, written: Any) -> Bundle:
    """The bundle that `bundle.json` in the folder `path` describes; ValueError with one sentence if
    an entry is missing, of another type, or of a format or version that is not known.
    """
    file = path / BUNDLE_FILE

    def entry(name: str, kind: type, where: Any, default: Any = None) -> Any:
        value = where.get(name, default)
        if value is None:
            raise ValueError(f"{file} lacks the entry {name!r}.")
        if not isinstance(value, kind):
            raise ValueError(f"{file} has {name!r} of another kind than {_KINDS[kind]}.")
        return value

    if not isinstance(written, dict):
        raise ValueError(f"{file} is not a bundle's JSON (it is no object).")
    if written.get("format") != FORMAT:
        raise ValueError(f"{file} is of an unknown format: its 'format' is not {FORMAT!r}.")
    if not is_version(written.get("version"), VERSION):
        said = str(written.get("version"))[:20]
        raise ValueError(
            f"{file} is of version {said} but this Jumpscope reads version {VERSION}: install a "
            "newer one."
        )
    sources = {}
    names = []
    for sae in entry("saes", list, written):
        if isinstance(sae, dict):
            name = entry("name", str, sae)
            sources[name] = entry("source", str, sae)
        elif isinstance(sae, str):
            name = sae
        else:
            raise ValueError(f"{file} lists an SAE that is neither a name nor a name and a source.")
        if "\0" in name + sources.get(name, ""):
            raise ValueError(f"{file} names an SAE with a character that no path has.")
        names.append(name)
    examples = entry("examples", dict, written, {})
    for runs in entry("prompts", list, examples, []), entry("steer", list, examples, []):
        for run in runs:
            edits = entry("edits", list, run, []) if isinstance(run, dict) else []
            if not all(isinstance(edit, dict) for edit in edits):
                raise ValueError(f"{file} has an example with an edit that is no object.")
    return Bundle(
        path=path,
        name=entry("name", str, written),
        title=entry("title", str, written, entry("name", str, written)),
        model=entry("model", str, written),
        sae_names=tuple(names),
        sources=sources,
        examples=examples,
    )


def _leads_out(path: str) -> bool:
    """Whether a relative path leaves the folder that it starts from."""
    return os.path.normpath(path).split(os.sep)[0] == os.pardir
