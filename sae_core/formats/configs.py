"""Configurations of SAEs on disk, without PyTorch where they are of our own format."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from sae_core.config import SAEConfig
from sae_core.formats.names import origin_of_path
from sae_core.formats.origin import Origin
from sae_core.formats.saelens_config import CONFIG_FILE, describe

_WEIGHTS_FILE = "sae_weights.safetensors"
_FOLDED_BY_TORCH = "scaling_factor"


def read_config(path: Path, *, origin: Origin | None = None) -> SAEConfig:
    """The configuration of an SAE of any format from its headers, without reading its weights.

    ValueError with one sentence for anything that is not a whole SAE.
    """
    if (ours := _of_our_format(path, origin)) is not None:
        return ours
    # Only here: it knows all formats, and needs PyTorch, whose import takes seconds.
    from sae_core.formats import registry

    return registry.read_config(path, origin=origin)


def weights_file(path: Path) -> Path:
    """The file with the weights of the SAE in a folder, or the file that `path` is itself."""
    ours = path / _WEIGHTS_FILE
    if not path.is_dir() or ours.is_file():
        return ours if path.is_dir() else path
    from sae_core.formats import registry

    return registry.weights_file(path)


def _of_our_format(path: Path, origin: Origin | None) -> SAEConfig | None:
    """The configuration in a folder of ours that is whole; None for all else, the hub's too."""
    origin = origin or origin_of_path(path)
    file = path / _WEIGHTS_FILE
    # Weights of this name without the settings are Llama Scope's, or no whole SAE.
    if origin.repo or not file.is_file() or not (path / CONFIG_FILE).is_file():
        return None
    try:
        with safe_open(file, framework="numpy") as opened:
            names = set(opened.keys())
    except (SafetensorError, OSError):
        return None  # whoever reads all formats says what is wrong with it
    return None if _FOLDED_BY_TORCH in names else describe(path, origin).cfg
