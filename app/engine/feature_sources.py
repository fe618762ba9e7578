"""Where the features of a bundle's SAEs are read: in their indexes, else from weights alone."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from app.engine.indexes import Missing, NoIndexError, open_index
from sae_core.bundle import Bundle
from sae_core.index import Index

if TYPE_CHECKING:
    from app.engine.engine import Engine
    from app.engine.weights_only import WeightsOnlyFeatures

UNINDEXED_SORTS: Final = ("id", "threshold")
"""What features without an index can be sorted by."""


class FeatureSources:
    """Indexes, each opened when first asked for; `load` gives the engine to those without one."""

    def __init__(self, bundle: Bundle, load: "Callable[[], Engine]") -> None:
        self._bundle, self._load = bundle, load
        self._indexes: dict[str, Index] = {}
        self._lock = threading.Lock()

    def index(self, name: str) -> Index:
        """The index of an SAE; NoIndexError if there is none that can be used."""
        with self._lock:
            if name not in self._indexes:
                self._indexes[name] = open_index(self._bundle, name)
            return self._indexes[name]

    def features(self, name: str) -> "Index | WeightsOnlyFeatures":
        """The features of an SAE as its index knows them, else as its weights and the model do."""
        try:
            return self.index(name)
        except NoIndexError as error:
            # Only here: what computes with weights needs PyTorch, whose import takes seconds.
            from app.engine.weights_only import WeightsOnlyFeatures

            return WeightsOnlyFeatures(self._load(), name, error.missing)

    def missing(self, name: str) -> Missing | None:
        """Why there is no index to be used and what builds it; None if there is one."""
        try:
            self.index(name)
        except NoIndexError as error:
            return error.missing
        return None

    def mean(self, name: str) -> np.ndarray | None:
        """The mean activation that FVU's deviations are taken from; None without an index."""
        try:
            return self.index(name).meta["mean_activation"]
        except NoIndexError:
            return None

    def firing(self, name: str) -> np.ndarray:
        """Ids of the features that fire in the index's text; of all, where no index knows."""
        try:
            return np.flatnonzero(self.index(name).frequencies() > 0)
        except NoIndexError:
            return np.arange(self.d_sae(name))

    def d_sae(self, name: str) -> int:
        """How many features an SAE has."""
        return self._bundle.sae_config(name).d_sae
