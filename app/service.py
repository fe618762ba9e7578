"""What the app can do, without a user interface: `Service`.

Pages, the API and tests call these methods. They hold no state of any user, may be called from
several threads, and return plain dicts of JSON values (a number that is not defined is None).
A user's mistake raises ValueError with one sentence that says what to do.
"""

import logging
import random
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from app import about, checks, prompting, steering
from app.engine import Engine
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.index import SORTS, Index
from sae_core.metrics import DEFINITIONS
from sae_core.tokens import token_texts

log = logging.getLogger(__name__)


class Service:
    """One bundle, served under some settings.

    The model is loaded at its first use; `load` does it ahead of that. Indexes and SAEs are opened
    when first asked for.
    """

    def __init__(self, settings: Settings, bundle: Bundle) -> None:
        self.settings = settings
        self.bundle = bundle
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self._indexes: dict[str, Index] = {}
        self._indexes_lock = threading.Lock()

    # What is served

    def load(self) -> Engine:
        """Load the model, once; further calls return it at once."""
        with self._engine_lock:
            if self._engine is None:
                self._engine = Engine(self.settings, self.bundle)
            return self._engine

    def load_in_background(self) -> threading.Thread:
        """Begin to load the model and the first SAE, so that the first question need not wait."""

        def load() -> None:
            try:
                with self.load().spliced([self.sae_name()]):
                    pass
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
        """The index of an SAE; ValueError if it has none or one of other weights."""
        name = self.sae_name(sae)
        with self._indexes_lock:
            if name not in self._indexes:
                self._indexes[name] = about.open_index(self.bundle, name)
            return self._indexes[name]

    def overview(self, sae: object = None) -> dict[str, Any]:
        """The bundle, its model and SAEs with their measured numbers, and where to begin."""
        name = self.sae_name(sae)
        index = self.index(name)
        saes = [about.sae_facts(self.bundle, each) for each in self.bundle.sae_names]
        chosen = next(facts for facts in saes if facts["name"] == name)
        return {
            "sae": name,
            "bundle": about.bundle_facts(self.bundle),
            "model": about.model_facts(self.bundle) or about.loaded_facts(self.load().model),
            "saes": saes,
            "measured": chosen["measured"],
            "index": about.index_facts(index),
            "definitions": DEFINITIONS,
            "frequency_histogram": about.frequency_histogram(
                index.frequencies(), int(index.meta["tokens"])
            ),
            "worth_opening": index.worth_opening(12),
        }

    def memory(self) -> dict[str, Any] | None:
        """Bytes on the model's device, as `Engine.memory` has them; None before it is loaded."""
        return None if self._engine is None else self._engine.memory()

    # Features

    def feature(self, sae: object, feature: object) -> dict[str, Any]:
        """All that the index knows about a feature, and its neighbours by number."""
        name = self.sae_name(sae)
        number, last = self._feature(name, feature)
        return {
            **self.index(name).feature(number),
            "sae": name,
            "previous": number - 1 if number > 0 else None,
            "next": number + 1 if number < last else None,
        }

    def random_feature(self, sae: object = None) -> int:
        """The id of some feature that fires."""
        alive = np.flatnonzero(self.index(sae).frequencies() > 0)
        if not len(alive):
            raise ValueError("No feature of this SAE ever fires: there is none to show.")
        return int(random.choice(alive.tolist()))

    def search_features(
        self,
        sae: object = None,
        query: object = "",
        sort: object = "frequency",
        descending: object = True,
        min_frequency: object = 0.0,
        max_frequency: object = 1.0,
        limit: object = 50,
        offset: object = 0,
    ) -> dict[str, Any]:
        """Features whose id, tokens or signature match; `{"sae", "total", "features"}`."""
        name = self.sae_name(sae)
        index = self.index(name)
        low = checks.number(min_frequency, "The lowest frequency", 0.0, 1.0)
        high = checks.number(max_frequency, "The highest frequency", 0.0, 1.0)
        if low > high:
            raise ValueError(
                f"The lowest frequency {low:g} is above the highest {high:g}: swap them."
            )
        found = index.search(
            query=checks.query(query, "The search", self.settings.max_query_chars),
            sort=checks.choice(sort, "The sort order", tuple(SORTS)),
            descending=checks.flag(descending, "Descending"),
            min_frequency=low,
            max_frequency=high,
            limit=checks.whole(limit, "The limit", 1, self.settings.max_rows),
            offset=checks.whole(offset, "The offset", 0, 2**31),
        )
        return {"sae": name, **found}

    # Prompts

    def prompt_features(
        self, text: object, sae: object = None, limit: object = None
    ) -> dict[str, Any]:
        """What fires on a text, and each token's loss without and with the SAE spliced in.

        `features` come by falling peak, at most `limit` of them (None: all); `active_features` of
        each token lists all of its features whatever the limit is.
        """
        name = self.sae_name(sae)
        if limit is not None:
            limit = checks.whole(limit, "The limit", 1, self.settings.max_rows)
        analysis = self._analysis(text, name)
        tokens = prompting.token_rows(analysis, self.load().lm.vocabulary)
        for row, active in zip(tokens, prompting.active_by_token(analysis), strict=True):
            row["active"] = len(active)
            row["active_features"] = active
        chosen, total = prompting.strongest(analysis, limit)
        summaries = self.index(name).summaries(chosen.tolist())
        return {
            "sae": name,
            "text": text,
            "tokens": tokens,
            "totals": prompting.totals(analysis),
            "definitions": prompting.PROMPT_DEFINITIONS,
            "features": prompting.feature_rows(analysis, summaries, chosen),
            "features_total": total,
            "truncated": len(chosen) < total,
        }

    def delta_loss(self, text: object, sae: object = None) -> dict[str, Any]:
        """What splicing the SAE in costs the model on a text, in all and token by token."""
        name = self.sae_name(sae)
        analysis = self._analysis(text, name)
        return {
            "sae": name,
            "text": text,
            "tokens": prompting.token_rows(analysis, self.load().lm.vocabulary),
            "totals": prompting.totals(analysis),
            "definitions": prompting.PROMPT_DEFINITIONS,
        }

    def test_text(self, text: object, sae: object, feature: object) -> dict[str, Any]:
        """One feature's activations and pre-activations on a text; null at special tokens."""
        name = self.sae_name(sae)
        number, _ = self._feature(name, feature)
        engine = self.load()
        ids = engine.token_ids(text, "The text")
        pre_acts, acts, threshold = engine.pre_activations(ids, name, number)
        special = engine.lm.is_special(ids)
        summary = self.index(name).summaries([number])[number]
        return {
            "sae": name,
            "feature": number,
            "tokens": token_texts(ids, engine.lm.vocabulary),
            "special": special,
            # Adding 0 turns the -0.0 of a screened-out negative into 0.0.
            "activations": prompting.finite_list(acts + 0.0),
            "pre_activations": [
                None if kept else value
                for kept, value in zip(special, prompting.finite_list(pre_acts), strict=True)
            ],
            "threshold": threshold,
            "max_act": summary["max_act"],
        }

    # Steering

    def steer_stream(
        self,
        prompt: object,
        edits: object,
        sae: object = None,
        max_new_tokens: object = 60,
        temperature: object = 0.8,
        seed: object = 0,
    ) -> Generator[dict[str, Any]]:
        """Continue a prompt as it is and with edits: a whole dict for every token.

        Edits and the dict are those of docs/steering.md. Mistakes raise here, before the first
        dict. Closing the iterator ends the generation.
        """
        name = self.sae_name(sae)
        settings = self.settings
        new = checks.whole(max_new_tokens, "New tokens", 1, settings.max_new_tokens)
        warmth = checks.number(temperature, "Temperature", 0.0, settings.max_temperature)
        number = checks.whole(seed, "Seed", 0, 2**32 - 1)
        engine = self.load()
        ids = engine.token_ids(prompt)
        if len(ids) + new > engine.context:
            raise ValueError(
                f"{len(ids):,} prompt tokens and {new:,} new ones exceed the model's context of "
                f"{engine.context:,} tokens: shorten one of them."
            )
        return steering.stream(
            engine,
            settings,
            sae=name,
            prompt=str(prompt),
            ids=ids,
            edits=self._planned(edits, name, last_position=len(ids) + new - 1),
            max_new_tokens=new,
            temperature=warmth,
            seed=number,
        )

    def steer(
        self,
        prompt: object,
        edits: object,
        sae: object = None,
        max_new_tokens: object = 60,
        temperature: object = 0.8,
        seed: object = 0,
    ) -> dict[str, Any]:
        """The last dict of `steer_stream`."""
        growing = self.steer_stream(prompt, edits, sae, max_new_tokens, temperature, seed)
        return deque(growing, maxlen=1)[0]

    # Shared

    def _feature(self, sae: str, feature: object, name: str = "The feature") -> tuple[int, int]:
        """A feature's id and the last id of its SAE."""
        last = int(self.index(sae).meta["d_sae"]) - 1
        return checks.whole(feature, name, 0, last), last

    def _analysis(self, text: object, sae: str) -> Any:
        engine = self.load()
        ids = engine.token_ids(text)
        return engine.analyse(ids, sae, self.index(sae).meta["mean_activation"])

    def _planned(self, edits: object, sae: str, last_position: int) -> list[steering.PlannedEdit]:
        if not isinstance(edits, Sequence) or isinstance(edits, str) or not edits:
            raise ValueError("Give at least one edit: a list of features with mode and strength.")
        if len(edits) > self.settings.max_edits:
            raise ValueError(
                f"{len(edits)} edits are more than the limit of {self.settings.max_edits}."
            )
        plans = []
        for number, written in enumerate(edits, 1):
            if not isinstance(written, Mapping) or "feature" not in written:
                raise ValueError(f"Edit {number} must be an object with a feature.")
            name = self.sae_name(written.get("sae") or sae)
            feature, _ = self._feature(name, written["feature"], f"The feature of edit {number}")
            plans.append(
                steering.planned(
                    written,
                    number=number,
                    sae=name,
                    summary=self.index(name).summaries([feature])[feature],
                    settings=self.settings,
                    last_position=last_position,
                )
            )
        return plans
