"""Feature indexes: built by streaming a corpus through a model and its SAEs, read by the app."""

from sae_core.index.build import Target, build_index, build_indexes
from sae_core.index.index_config import IndexConfig
from sae_core.index.index_run import run_index
from sae_core.index.store import SORTS, Index

__all__ = ["SORTS", "Index", "IndexConfig", "Target", "build_index", "build_indexes", "run_index"]
