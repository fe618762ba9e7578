"""Which files hold SAEs, told from their names alone: on disk as in a repository's list of files.

A format keeps one SAE a folder, so that the folder's name is the SAE's (`layer_20/.../params.npz`),
or one a file, several side by side (`layer0.sae.pt`, `layer1.sae.pt`). Nothing here needs PyTorch.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one format names its files."""

    format: str
    name: str
    """A regular expression that the weights file's name matches."""
    folder: str = ""
    """Folder of the weights within the SAE's own; "" where they lie in it."""
    beside: tuple[str, ...] = ()
    """Files that are read with the weights as far as they exist, relative to these. `STEM` stands
    for the weights file's name without its ending."""
    one_a_file: bool = False
    """Whether a folder may hold several, so that the file is named and not the folder."""

    def holds(self, path: str) -> bool:
        """Whether a file of this path (slashes between its parts) is a weights file."""
        above, _, name = path.rpartition("/")
        return bool(re.fullmatch(self.name, name)) and f"/{above}".endswith(self._suffix)

    def place(self, path: str) -> str:
        """What names the SAE with these weights: its folder, or the file itself."""
        if self.one_a_file:
            return path
        return f"/{path.rpartition('/')[0]}".removesuffix(self._suffix).lstrip("/")

    def needed(self, path: str) -> list[str]:
        """Paths of the files that may lie beside these weights, the weights left out."""
        above, _, name = path.rpartition("/")
        stem = name.rpartition(".")[0]
        return [
            normpath(f"{above}/{other.replace('STEM', stem)}").lstrip("/") for other in self.beside
        ]

    def within(self, folder: Path) -> list[Path]:
        """The weights files that the SAE's folder itself holds, in natural order."""
        inside = folder / self.folder
        if not inside.is_dir():
            return []
        files = [path for path in inside.iterdir() if re.fullmatch(self.name, path.name)]
        return sorted((path for path in files if path.is_file()), key=lambda p: natural(p.name))

    @property
    def _suffix(self) -> str:
        return f"/{self.folder}" if self.folder else ""


LAYOUTS = (
    Layout(
        format="saelens",
        name=r"sae_weights\.safetensors",
        # Llama Scope's later releases have the same name, and config.json.
        beside=("cfg.json", "config.json", "activation_scaler.json"),
    ),
    Layout(format="gemma_scope", name=r"params\.npz"),
    Layout(format="gemma_scope_2", name=r"params\.safetensors", beside=("config.json",)),
    Layout(format="dictionary_learning", name=r"ae\.pt", beside=("config.json",)),
    Layout(
        format="sparsify",
        name=r"sae\.safetensors",
        beside=("cfg.json", "../config.json", "../../config.json"),
    ),
    Layout(
        format="llama_scope",
        name=r"final\.safetensors",
        folder="checkpoints",
        beside=("../hyperparams.json",),
    ),
    Layout(format="qwen_scope", name=r"layer\d+\.sae\.pt", one_a_file=True),
    Layout(
        format="circuit_tracer",
        name=r"layer_\d+\.safetensors",
        beside=("config.yaml", "wandb-config.yaml", "wanb-config.yaml"),
        one_a_file=True,
    ),
    Layout(
        format="goodfire",
        name=r"[\w.-]+-SAE-l\d+\.pth?|topk_sae_l\d+_exp\d+_k\d+\.pt",
        one_a_file=True,
    ),
    Layout(format="hook_z", name=r".+_Hcat_z_.+\.pt", beside=("STEM_cfg.json",), one_a_file=True),
)
"""The formats' layouts, the first that holds a file deciding."""


def layout_of(path: str) -> Layout | None:
    """The layout of which a file of this path is a weights file; None if of none."""
    return next((layout for layout in LAYOUTS if layout.holds(path)), None)


_REASONS = (
    (
        r"(^|/)clt/|(^|/)W_(enc|dec)_\d+\.safetensors$",
        "a cross-layer transcoder, whose features write to every later layer: one layer's part "
        "alone is not the model's",
    ),
    (r"(^|/)crosscoder", "a crosscoder, which reads several layers at once"),
    (
        r"(^|/)latest_ckpt\.safetensors$",
        "a temporal SAE, whose features depend on earlier tokens through attention of its own",
    ),
)


def refused(paths: Iterable[str]) -> str | None:
    """What the files at these paths are and why it cannot be read, if one is of such a kind."""
    weights = [path for path in paths if path.endswith(".safetensors")]
    for pattern, reason in _REASONS:
        if any(re.search(pattern, path) for path in weights):
            return reason
    return None


def natural(path: str) -> list[tuple[int, str | int]]:
    """A key to sort by in which layer_2 comes before layer_10."""
    return [(1, int(p)) if p.isdigit() else (0, p) for p in re.split(r"(\d+)", path)]
