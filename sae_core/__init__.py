"""Jumpscope's library: sparse autoencoders spliced into language models.

The names below are imported when they are first used: who needs a choice of settings or the name of
a site alone does not wait for PyTorch. `jumprelu` and `step` are functions of the module
`sae_core.jumprelu`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_core.config import SAEConfig, Site
    from sae_core.edits import Edit
    from sae_core.formats.saelens import load_sae, save_sae
    from sae_core.sae import SAE

__all__ = ["SAE", "Edit", "SAEConfig", "Site", "load_sae", "save_sae"]

_MODULES = {
    "SAE": "sae",
    "Edit": "edits",
    "SAEConfig": "config",
    "Site": "config",
    "load_sae": "formats.saelens",
    "save_sae": "formats.saelens",
}

if not TYPE_CHECKING:  # which would take any name for one that the package has

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
