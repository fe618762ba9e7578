"""What everything that answers works on: one bundle, its model once it is loaded, its indexes."""

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from app.engine import facts
from app.engine.background import Background, StoppedError
from app.engine.checker import Checker
from app.engine.feature_sources import FeatureSources
from app.engine.indexes import NoIndexError
from app.engine.memory import give_back_freed_memory
from app.requests import RequestError, shown
from app.sentences import FAILED, without_paths
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.index import Index
from sae_core.loading import LOADING
from sae_core.notes import Notes
from training.run_status import is_run

if TYPE_CHECKING:
    from app.engine.engine import Engine

log = logging.getLogger(__name__)

SQL_AT_ONCE: Final = 2
"""Queries in SQL that run at once, each in a process of its own."""


class Workbench:
    """A bundle under some settings, for any number of people and threads; no state of any user.

    The model is loaded at its first use; `load` does it ahead of that. Indexes and SAEs are opened
    when first asked for.
    """

    def __init__(self, settings: Settings, bundle: Bundle) -> None:
        self.settings = settings
        self.bundle = bundle
        self.run = next(filter(is_run, (bundle.path, bundle.path.parent)), None)
        """Folder of the training run that the bundle is of or lies in; None without one."""
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self._load_is_due = False
        self.sql_places = threading.BoundedSemaphore(SQL_AT_ONCE)
        """Taken by whoever has a query answered (`app.service.sql_answers`)."""
        self._model_problem: str | None = None
        self.sources = FeatureSources(bundle, self.load)
        self.notes = Notes.named(settings.notes)
        """What people keep: stars, labels, notes, by the content hash of an SAE."""
        self.background = Background(self)
        self.checker = Checker(settings, bundle, self.load, self.background)

    def load(self) -> "Engine":
        """Load the model, once; further calls return it at once."""
        with self._engine_lock:
            if self._engine is None:
                try:
                    # Only here: pages need neither PyTorch nor transformers, whose import takes
                    # seconds.
                    with LOADING:
                        from app.engine.engine import Engine
                    give_back_freed_memory()
                    self._engine = Engine(self.settings, self.bundle)
                except Exception as error:
                    # Whoever asks next tries again: the reason may be gone by then.
                    said = str(error) if isinstance(error, ValueError) else FAILED
                    self._model_problem = without_paths(said)
                    raise
                self._model_problem = None
            return self._engine

    def load_in_background(self, after: Callable[[], object] | None = None) -> threading.Thread:
        """Begin to load the model and the first SAE, so that the first question need not wait.

        Then the SAE's check begins, and what the first search in its index needs is made. `after`
        is called, and waited for, before all that.
        """

        def load() -> None:
            try:
                if after is not None:
                    after()
                self.background.go_on()
                with self.load().spliced([self.sae_name()]):
                    pass
                self.checker.begin(self.sae_name())
                self.background.go_on()
                with contextlib.suppress(NoIndexError):
                    self.sources.index(self.sae_name()).prepare_search()
            except ValueError as error:
                # Whoever asks for the model gets the same sentence; the log says it first.
                log.error("%s", error)
            except StoppedError:
                raise
            except Exception:  # a bug, in a thread that nobody waits for
                log.exception("the model cannot be loaded")
            finally:
                self._load_is_due = False

        self._load_is_due = True
        return self.background.start("load the model", load)

    def close(self) -> None:
        """End what is being done that nobody has asked for; returns when it has ended."""
        self.background.close()

    @property
    def engine(self) -> "Engine | None":
        """The model if it has been loaded."""
        return self._engine

    @property
    def model_problem(self) -> str | None:
        """Why the model could not be loaded when that was last tried."""
        return self._model_problem

    def is_loading(self) -> bool:
        """Whether the model or an SAE is being loaded, or the model is about to be: a page that is
        served before that asks on only because of it.
        """
        if self._engine is None:
            return self._load_is_due or self._engine_lock.locked()
        return self._engine.sae_cache.loading()

    def sae_name(self, sae: str | None = "", field: str = "sae") -> str:
        """The name of an SAE of the bundle; None and "" mean its first.

        RequestError about `field` if there is none of that name.
        """
        names = self.bundle.sae_names
        if not sae:
            return names[0]
        if sae not in names:
            raise RequestError(
                f"There is no SAE {shown(sae)}: use one of {', '.join(names)}.", field
            )
        return sae

    def saes(self) -> list[dict[str, Any]]:
        """What is known of each SAE from its files; a `problem` if they cannot be read."""
        facts_of_all = facts.facts_of_all(self.bundle)
        for each in facts_of_all:
            if each["problem"] is not None:
                each["problem"] = without_paths(each["problem"])
        return facts_of_all

    def index(self, sae: str | None = "") -> Index:
        """The index of an SAE; ValueError if it has none that can be used."""
        return self.sources.index(self.sae_name(sae))

    def feature_number(self, sae: str, feature: int, field: str = "feature") -> int:
        """The number of a feature that the SAE has; RequestError about `field` otherwise."""
        last = self.sources.d_sae(sae) - 1
        if not 0 <= feature <= last:
            raise RequestError(
                f"There is no feature {shown(feature)}: this SAE has 0 to {last:,}.", field
            )
        return feature
