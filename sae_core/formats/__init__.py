"""SAEs on disk, in our format (SAELens') and in those of others."""

from sae_core.formats.origin import Origin, origin_of, origin_of_folder
from sae_core.formats.registry import FORMATS, read_config, read_sae, recognise, write_sae

__all__ = [
    "FORMATS",
    "Origin",
    "origin_of",
    "origin_of_folder",
    "read_config",
    "read_sae",
    "recognise",
    "write_sae",
]
