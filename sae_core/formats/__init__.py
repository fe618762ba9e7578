"""SAEs on disk, in our format (SAELens') and in those of others.

The names below are imported when they are first used: who reads a configuration of our format does
not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_core.formats.configs import read_config, weights_file
    from sae_core.formats.names import origin_of, origin_of_path
    from sae_core.formats.origin import Origin
    from sae_core.formats.registry import FORMATS, WRITTEN, read_sae, recognise, write_sae
else:
    _MODULES = {
        "read_config": "configs",
        "weights_file": "configs",
        "Origin": "origin",
        "origin_of": "names",
        "origin_of_path": "names",
        "FORMATS": "registry",
        "WRITTEN": "registry",
        "read_sae": "registry",
        "recognise": "registry",
        "write_sae": "registry",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = [
    "FORMATS",
    "WRITTEN",
    "Origin",
    "origin_of",
    "origin_of_path",
    "read_config",
    "read_sae",
    "recognise",
    "weights_file",
    "write_sae",
]
