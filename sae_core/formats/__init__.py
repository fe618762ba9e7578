"""SAEs on disk, in our format (SAELens') and in those of others."""

from sae_core.formats.origin import Origin, origin_of, origin_of_path
from sae_core.formats.registry import (
    FORMATS,
    read_config,
    read_sae,
    recognise,
    weights_file,
    write_sae,
)

__all__ = [
    "FORMATS",
    "Origin",
    "origin_of",
    "origin_of_path",
    "read_config",
    "read_sae",
    "recognise",
    "weights_file",
    "write_sae",
]
