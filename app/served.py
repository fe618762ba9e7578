"""What is served: one bundle under some settings, its model, and what is known of its SAEs."""

import logging
import threading
from typing import Any

from app import about, checks
from app.engine import Engine
from app.known import Known
from app.settings import Settings
from app.verification import Verification
from sae_core.bundle import Bundle
from sae_core.index import Index

log = logging.getLogger(__name__)


class Served:
    """What everything that answers works on; `app.service.Service` adds the answers.

    The model is loaded at its first use; `load` does it ahead of that. Indexes and SAEs are opened
    when first asked for.
    """

    def __init__(self, settings: Settings, bundle: Bundle) -> None:
        self.settings = settings
        self.bundle = bundle
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self._model_problem: str | None = None
        self.known = Known(bundle, self.load)
        self.verification = Verification(settings, bundle, self.load)

    def load(self) -> Engine:
        """Load the model, once; further calls return it at once."""
        with self._engine_lock:
            if self._engine is None:
                try:
                    self._engine = Engine(self.settings, self.bundle)
                except ValueError as error:
                    # Whoever asks next tries again: the reason may be gone by then.
                    self._model_problem = str(error)
                    raise
                self._model_problem = None
            return self._engine

    def load_in_background(self) -> threading.Thread:
        """Begin to load the model and the first SAE, so that the first question need not wait.

        Then the SAE's check begins.
        """

        def load() -> None:
            try:
                with self.load().spliced([self.sae_name()]):
                    pass
                self.verification.begin(self.sae_name())
            except ValueError as error:
                # Whoever asks for the model gets the same sentence; the log says it first.
                log.error("%s", error)

        thread = threading.Thread(target=load, name="load the model", daemon=True)
        thread.start()
        return thread

    def sae_name(self, sae: object = None) -> str:
        """The name of an SAE of the bundle; None and "" mean its first."""
        if sae is None or sae == "":
            return self.bundle.sae_names[0]
        return checks.choice(sae, "The SAE", self.bundle.sae_names)

    def index(self, sae: object = None) -> Index:
        """The index of an SAE; ValueError if it has none that can be used."""
        return self.known.index(self.sae_name(sae))

    def feature_number(self, sae: str, feature: object, name: str = "The feature") -> int:
        """The id of a feature of an SAE; ValueError, calling it `name`, if there is none."""
        return checks.whole(feature, name, 0, self.known.d_sae(sae) - 1)

    def saes(self) -> list[dict[str, Any]]:
        """What is known of each SAE from its files; a `problem` if they cannot be read."""
        return about.facts_of_all(self.bundle)

    def sae_facts(self, name: str) -> dict[str, Any]:
        """What is known of one of them."""
        return next(facts for facts in self.saes() if facts["name"] == name)

    def model_facts(self) -> dict[str, Any]:
        """What is known of the model; more once it is loaded, a `problem` if it could not be."""
        loaded = None if self._engine is None else self._engine.model
        return about.facts_of_model(self.bundle, loaded, self._model_problem)

    def memory(self) -> dict[str, Any] | None:
        """Bytes on the model's device, as `Engine.memory` has them; None before it is loaded."""
        return None if self._engine is None else self._engine.memory()

    def is_loading(self) -> bool:
        """Whether `memory` is about to change: the model or an SAE is being loaded."""
        if self._engine is None:
            return self._engine_lock.locked()
        return self._engine.residents.loading()

    def chat(self) -> dict[str, Any] | None:
        """How the model's conversations are written; None if it has no chat template.

        `system` is whether there are system turns, `end` the token that ends a turn of the model.
        """
        template = self.load().chat
        return template and {"system": template.has_system, "end": template.end}
