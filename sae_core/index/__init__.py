"""Feature indexes: built by streaming a corpus through a model and its SAEs, read by the app.

The names below are imported when they are first used: who reads an index does not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_core.index.build import Target, build_index, build_indexes
    from sae_core.index.feature_columns import SORTS
    from sae_core.index.index_config import IndexConfig
    from sae_core.index.index_run import run_index
    from sae_core.index.store import Index
else:
    _MODULES = {
        "Target": "build",
        "build_index": "build",
        "build_indexes": "build",
        "IndexConfig": "index_config",
        "run_index": "index_run",
        "SORTS": "feature_columns",
        "Index": "store",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = ["SORTS", "Index", "IndexConfig", "Target", "build_index", "build_indexes", "run_index"]
