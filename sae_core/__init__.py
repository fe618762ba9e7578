"""Jumpscope's library: sparse autoencoders spliced into language models."""

from sae_core.config import SAEConfig, Site
from sae_core.edits import Edit
from sae_core.formats.saelens import load_sae, save_sae
from sae_core.jumprelu import jumprelu, step
from sae_core.sae import SAE

__all__ = ["SAE", "Edit", "SAEConfig", "Site", "jumprelu", "load_sae", "save_sae", "step"]
