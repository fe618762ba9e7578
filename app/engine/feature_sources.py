"""Where the features of a bundle's SAEs are read: in their indexes, else from weights alone."""

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app.engine.indexes import Missing, NoIndexError, open_index
from sae_core.bundle import Bundle
from sae_core.files import stamp_of
from sae_core.index import Index
from sae_core.index.schema import IndexBusyError

if TYPE_CHECKING:
    from app.engine.engine import Engine
    from app.engine.weights_only import WeightsOnlyFeatures

log = logging.getLogger(__name__)

UNINDEXED_SORTS: Final = ("id", "threshold")
"""What features without an index can be sorted by."""


LOOK_SECONDS: Final = 1.0
"""Least time between two looks whether an SAE's index or weights are still the same files."""


@dataclass(frozen=True, kw_only=True)
class _Held:
    """What is known of an SAE's index; replaced as a whole."""

    seen: tuple[Any, ...] | None
    """Stamp of the file and hash of the weights that this is about; None to look again."""
    index: Index | None
    missing: Missing | None
    """Why there is none."""
    revision: str
    """Tells this index from another, and from none."""
    note: str = ""
    """What is wrong with a file that was put in its place."""


@dataclass(kw_only=True)
class _Source:
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever looks."""
    looked: float = -math.inf
    held: _Held | None = None


class FeatureSources:
    """Indexes, each opened when first asked for; `load` gives the engine to those without one.

    Whether an index was rebuilt, replaced, removed or has appeared, or is of weights that are no
    longer there, is looked at when somebody asks, once a second at most. Who looks opens the new
    one; everybody else has the old one until it is open, and whoever holds that goes on with it.
    """

    def __init__(self, bundle: Bundle, load: "Callable[[], Engine]") -> None:
        self._bundle, self._load = bundle, load
        self._sources = {name: _Source() for name in bundle.sae_names}

    def index(self, name: str) -> Index:
        """The index of an SAE; NoIndexError if there is none that can be used."""
        held = self._held(name)
        if held.index is None:
            assert held.missing is not None
            raise NoIndexError(held.missing)
        return held.index

    def revision(self, name: str) -> str:
        """What changes when another index is read than before."""
        return self._held(name).revision

    def note(self, name: str) -> str:
        """What is to be said of the index that is read: that another file in its place is not used,
        that not all of its text has been read yet; else "".
        """
        held = self._held(name)
        if held.note or held.index is None or "planned_tokens" not in held.index.meta:
            return held.note
        tokens, planned = (held.index.meta[key] for key in ("tokens", "planned_tokens"))
        return f"This index is not finished: so far {tokens:,} of {planned:,} tokens are read."

    def _held(self, name: str) -> _Held:
        source = self._sources[name]
        # Who comes second goes on with what there is, and waits only where there is nothing.
        if _is_due(source) and source.lock.acquire(blocking=source.held is None):
            try:
                if _is_due(source):
                    source.held = self._now(name, source.held)
                    source.looked = time.monotonic()
            finally:
                source.lock.release()
        assert source.held is not None
        return source.held

    def _now(self, name: str, before: _Held | None) -> _Held:
        """What is to be held, given what was."""
        stamp, digest = stamp_of(self._bundle.index_path(name)), ""
        try:
            if stamp is not None:
                digest = self._bundle.content_hash(name)
            seen = (stamp, digest)
            if before is not None and before.seen == seen:
                return before
            index = open_index(self._bundle, name)
            return _Held(seen=seen, index=index, missing=None, revision=_revision(stamp))
        except NoIndexError as error:
            missing = error.missing
            lasts = stamp is not None and self._bundle.sae_config(name).site is not None
            busy = isinstance(error.__cause__, IndexBusyError)
            seen = (stamp, digest) if lasts and not busy else None
        except (ValueError, OSError):
            # Its files are being written, or cannot be read: that is said where they are needed.
            if before is None or before.index is None:
                raise
            return before
        if stamp is None or before is None or before.index is None or not _fits(before, digest):
            return _Held(seen=seen, index=None, missing=missing, revision="")
        note = (
            f"Another file has taken the place of the index but is not used, and the one from "
            f"before goes on. {missing.sentence}"
        )
        if note != before.note:
            log.warning("%s", note)
        return replace(before, seen=seen, note=note)

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


def _is_due(source: _Source) -> bool:
    """Whether to look again; for a missing index that is done whenever it is asked for."""
    if source.held is None or source.held.index is None:
        return True
    return time.monotonic() - source.looked >= LOOK_SECONDS


def _fits(held: _Held, digest: str) -> bool:
    """Whether an index that was open is of the weights with this hash."""
    assert held.index is not None
    return held.index.meta["sae_hash"] in ("", digest)


def _revision(stamp: tuple[int, ...] | None) -> str:
    return hashlib.sha256(repr(stamp).encode()).hexdigest()[:16]
