"""A bundle: a language model with SAEs and their indexes in one folder.

bundle.json                  name, title, model, saes, examples
model/                       Hugging Face layout (or a hub id in bundle.json)
saes/NAME/cfg.json           the SAE (sae_core.formats.saelens)
saes/NAME/sae_weights.safetensors
saes/NAME/index.duckdb       its feature index, once built
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sae_core.config import SAEConfig
from sae_core.files import atomic_write
from sae_core.formats.saelens import load_config, load_sae
from sae_core.language_model import load_language_model
from sae_core.sae import SAE
from sae_core.splice import SplicedLM

BUNDLE_FILE = "bundle.json"
INDEX_FILE = "index.duckdb"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What `bundle.json` says, and the folder it lies in."""

    path: Path
    name: str
    title: str
    """One sentence that says what the model is."""
    model: str
    """Folder, relative to the bundle's, or a hub id `owner/name`."""
    sae_names: tuple[str, ...]
    examples: dict[str, Any] = field(default_factory=dict)
    """Texts and edits the app offers first."""

    @classmethod
    def open(cls, path: Path | str) -> "Bundle":
        """Read a bundle; ValueError with one sentence if it is none or lacks a part."""
        path = Path(path)
        file = path / BUNDLE_FILE
        if not file.is_file():
            raise ValueError(f"{path} is not a bundle: it has no {BUNDLE_FILE}.")
        try:
            written = json.loads(file.read_text())
            bundle = cls(
                path=path,
                name=str(written["name"]),
                title=str(written.get("title", written["name"])),
                model=str(written["model"]),
                sae_names=tuple(str(name) for name in written["saes"]),
                examples=dict(written.get("examples", {})),
            )
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise ValueError(f"{file} is not a bundle's JSON ({error}).") from error
        except KeyError as error:
            raise ValueError(f"{file} lacks the entry {error}.") from error
        if not bundle.sae_names:
            raise ValueError(f"{file} lists no SAE.")
        for name in bundle.sae_names:
            inside = bundle.sae_path(name).resolve()
            if not inside.is_relative_to((path / "saes").resolve()):
                raise ValueError(f"{file} names an SAE outside the bundle: {name!r}.")
            if not inside.is_dir():
                raise ValueError(f"{file} lists SAE {name!r} but {inside} does not exist.")
        return bundle

    def sae_path(self, name: str) -> Path:
        """Folder of an SAE."""
        return self.path / "saes" / name

    def index_path(self, name: str) -> Path:
        """File of an SAE's index, whether it exists or not."""
        return self.sae_path(name) / INDEX_FILE

    def load_model(
        self, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> tuple[Any, Any]:
        """The language model (evaluation mode, eager attention) and its tokenizer."""
        inside = self.path / self.model
        if inside.is_dir():
            return load_language_model(str(inside), dtype, device)
        if self.model.count("/") != 1 or self.model.startswith((".", "/")):
            raise ValueError(
                f"bundle {self.name} has no folder {self.model}, and that is no hub id either."
            )
        return load_language_model(self.model, dtype, device)

    def load_sae(self, name: str, device: str | torch.device = "cpu") -> SAE:
        """One SAE; ValueError naming the bundle's SAEs if it has none of that name."""
        return load_sae(self._known(name), device)

    def sae_config(self, name: str) -> SAEConfig:
        """An SAE's configuration and measured numbers, without reading its weights."""
        return load_config(self._known(name))

    def _known(self, name: str) -> Path:
        if name not in self.sae_names:
            raise ValueError(
                f"bundle {self.name} has no SAE {name!r}: it has {', '.join(self.sae_names)}."
            )
        return self.sae_path(name)

    def load(
        self, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> SplicedLM:
        """The model with every SAE of the bundle."""
        model, tokenizer = self.load_model(dtype, device)
        return SplicedLM(model, tokenizer, {n: self.load_sae(n, device) for n in self.sae_names})


def write_bundle(
    path: Path | str,
    *,
    name: str,
    title: str,
    model: str,
    saes: list[str],
    examples: dict[str, Any] | None = None,
) -> Bundle:
    """Write `bundle.json` into a folder that holds the SAEs already, and open it."""
    written = {
        "format": "jumpscope-bundle",
        "version": 1,
        "name": name,
        "title": title,
        "model": model,
        "saes": saes,
        "examples": examples or {},
    }
    with atomic_write(Path(path) / BUNDLE_FILE) as temporary:
        temporary.write_text(json.dumps(written, indent=2) + "\n")
    return Bundle.open(path)
