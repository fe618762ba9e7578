"""Jumpscope's library: sparse autoencoders spliced into language models.

The names below are imported when they are first used: who needs a choice of settings or the name of
a site alone does not wait for PyTorch. They are what a script needs: a bundle's model with its SAEs
(`Bundle.open(folder).load()`), a text's tokens, what fires on them (`SplicedLM.analyse`), what is
read or rewritten at a site, an index, an SAE's weights. `jumprelu` and `step` are functions of the
module `sae_core.jumprelu`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_core.bundle import Bundle
    from sae_core.config import SAEConfig, Site
    from sae_core.edits import Edit
    from sae_core.formats.saelens import load_sae, save_sae
    from sae_core.index.store import Index
    from sae_core.sae import SAE
    from sae_core.sites import activations, rewrite
    from sae_core.splice import SplicedLM
    from sae_core.tokens import encode_text

__all__ = [
    "SAE",
    "Bundle",
    "Edit",
    "Index",
    "SAEConfig",
    "Site",
    "SplicedLM",
    "activations",
    "encode_text",
    "load_sae",
    "rewrite",
    "save_sae",
]

_MODULES = {
    "SAE": "sae",
    "Bundle": "bundle",
    "Edit": "edits",
    "Index": "index.store",
    "SAEConfig": "config",
    "Site": "config",
    "SplicedLM": "splice",
    "activations": "sites",
    "encode_text": "tokens",
    "load_sae": "formats.saelens",
    "rewrite": "sites",
    "save_sae": "formats.saelens",
}

if not TYPE_CHECKING:  # which would take any name for one that the package has

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
