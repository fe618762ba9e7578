"""SAEs on the Hugging Face hub: their ids, the catalog of a repository, and fetching one."""

from sae_core.hub.catalog import CatalogEntry, read_catalog, width_of
from sae_core.hub.download import fetch
from sae_core.hub.failures import explained
from sae_core.hub.ids import SAEId, origin, parse_id

__all__ = [
    "CatalogEntry",
    "SAEId",
    "explained",
    "fetch",
    "origin",
    "parse_id",
    "read_catalog",
    "width_of",
]
