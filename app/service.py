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
from dataclasses import asdict
from typing import Any

from app import about, cards, checks, prompting, steering, unindexed
from app.engine import Engine
from app.known import Known
from app.prompts import Prompt
from app.settings import Settings
from app.verification import Verification
from sae_core.bundle import Bundle
from sae_core.index import SORTS, Index
from sae_core.metrics import DEFINITIONS
from sae_core.splice import Analysis
from sae_core.tokens import token_texts

log = logging.getLogger(__name__)


class Service:
    """One bundle, served under some settings.

    The model is loaded at its first use; `load` does it ahead of that. Indexes and SAEs are opened
    when first asked for. Where an SAE has no index that can be used, answers hold what its weights
    and the model say, None where a number needs a corpus, and `missing`: the sentence that says
    why, with the command that builds one.
    """

    def __init__(self, settings: Settings, bundle: Bundle) -> None:
        self.settings = settings
        self.bundle = bundle
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self._model_problem: str | None = None
        self.known = Known(bundle, self.load)
        self.verification = Verification(settings, bundle, self.load)

    # What is served

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

    def saes(self) -> list[dict[str, Any]]:
        """What is known of each SAE from its files; a `problem` if they cannot be read."""
        return about.facts_of_all(self.bundle)

    def sae_facts(self, name: str) -> dict[str, Any]:
        """What is known of one of them."""
        return next(facts for facts in self.saes() if facts["name"] == name)

    def overview(self, sae: object = None) -> dict[str, Any]:
        """The bundle, its model and SAEs with their measured numbers, and where to begin.

        Needs no model in memory. What cannot be read has a `problem`, the sentence that says why.
        """
        name = self.sae_name(sae)
        saes = self.saes()
        chosen = next(facts for facts in saes if facts["name"] == name)
        loaded = None if self._engine is None else self._engine.model
        missing = self.known.missing(name) if chosen["problem"] is None else None
        index = self.index(name) if chosen["problem"] is None and missing is None else None
        return {
            "sae": name,
            "bundle": about.bundle_facts(self.bundle),
            "model": about.facts_of_model(self.bundle, loaded, self._model_problem),
            "saes": saes,
            "measured": chosen["measured"],
            "missing": missing and asdict(missing),
            "memory": self.memory(),
            "check": self.verification.state(name),
            "comparison": about.comparison(self.bundle),
            "definitions": DEFINITIONS,
            **about.index_facts(index),
        }

    def memory(self) -> dict[str, Any] | None:
        """Bytes on the model's device, as `Engine.memory` has them; None before it is loaded."""
        return None if self._engine is None else self._engine.memory()

    def chat(self) -> dict[str, Any] | None:
        """How the model's conversations are written; None if it has no chat template.

        `system` is whether there are system turns, `end` the token that ends a turn of the model.
        """
        template = self.load().chat
        return template and {"system": template.has_system, "end": template.end}

    # Features

    def feature(self, sae: object, feature: object) -> dict[str, Any]:
        """All that is known about a feature, and its neighbours by number."""
        name = self.sae_name(sae)
        number, last = self.feature_number(name, feature), self.known.d_sae(name) - 1
        known = self.known.features(name)
        return {
            **known.feature(number),
            "sae": name,
            "missing": self._missing(name),
            "previous": number - 1 if number > 0 else None,
            "next": number + 1 if number < last else None,
        }

    def random_feature(self, sae: object = None) -> int:
        """The id of some feature that fires; of any, where no index knows which do."""
        name = self.sae_name(sae)
        firing = self.known.firing(name)
        if not len(firing):
            raise ValueError("No feature of this SAE ever fires: there is none to show.")
        return int(random.choice(firing))

    def search_features(
        self,
        sae: object = None,
        query: object = "",
        sort: object = "",
        descending: object = True,
        min_frequency: object = 0.0,
        max_frequency: object = 1.0,
        limit: object = 50,
        offset: object = 0,
    ) -> dict[str, Any]:
        """Features whose id, tokens or signature match; `{"sae", "missing", "total", "features"}`.

        `sort` "" is by frequency, or by id upwards where there is no index.
        """
        name = self.sae_name(sae)
        text = checks.query(query, "The search", self.settings.max_query_chars)
        low = checks.number(min_frequency, "The lowest frequency", 0.0, 1.0)
        high = checks.number(max_frequency, "The highest frequency", 0.0, 1.0)
        if low > high:
            raise ValueError(
                f"The lowest frequency {low:g} is above the highest {high:g}: swap them."
            )
        down = checks.flag(descending, "Descending")
        most = checks.whole(limit, "The limit", 1, self.settings.max_rows)
        skip = checks.whole(offset, "The offset", 0, 2**31)
        order = checks.choice(sort, "The sort order", ("", *SORTS))
        known = self.known.features(name)
        if isinstance(known, Index):
            found = known.search(text, order or "frequency", down, low, high, most, skip)
        else:
            if order not in ("", *unindexed.SORTS) or (low, high) != (0.0, 1.0):
                raise ValueError(f"How often features fire is not known. {known.missing.sentence}")
            found = known.search(text, order or "id", down and order != "", most, skip)
        return {"sae": name, "missing": self._missing(name), **found}

    # Prompts

    def prompt_features(
        self,
        text: object = "",
        sae: object = None,
        limit: object = None,
        messages: object = None,
    ) -> dict[str, Any]:
        """What fires on a text, and each token's loss without and with the SAE spliced in.

        `messages` instead of a text are a conversation, as in `Engine.prompt`.

        `features` come by falling peak, at most `limit` of them (None: all); `active_features` of
        each token lists all of its features whatever the limit is.
        """
        name = self.sae_name(sae)
        if limit is not None:
            limit = checks.whole(limit, "The limit", 1, self.settings.max_rows)
        prompt = self.load().prompt(text, messages)
        analysis = self._analysis(prompt, name)
        tokens = prompt.marked(prompting.token_rows(analysis, self.load().lm.vocabulary))
        for row, active in zip(tokens, prompting.active_by_token(analysis), strict=True):
            row["active"] = len(active)
            row["active_features"] = active
        chosen, total = prompting.strongest(analysis, limit)
        known = self.known.features(name)
        summaries = known.summaries(chosen.tolist())
        return {
            "sae": name,
            **prompt.as_answered("text"),
            "tokens": tokens,
            "totals": prompting.totals(analysis),
            "definitions": self._definitions(name),
            "missing": self._missing(name),
            "features": prompting.feature_rows(analysis, summaries, chosen),
            "features_total": total,
            "truncated": len(chosen) < total,
        }

    def delta_loss(
        self, text: object = "", sae: object = None, messages: object = None
    ) -> dict[str, Any]:
        """What splicing the SAE in costs the model on a text, in all and token by token.

        `messages` instead of a text are a conversation, as in `Engine.prompt`.
        """
        name = self.sae_name(sae)
        prompt = self.load().prompt(text, messages)
        analysis = self._analysis(prompt, name)
        return {
            "sae": name,
            **prompt.as_answered("text"),
            "tokens": prompt.marked(prompting.token_rows(analysis, self.load().lm.vocabulary)),
            "totals": prompting.totals(analysis),
            "definitions": self._definitions(name),
        }

    def test_text(self, text: object, sae: object, feature: object) -> dict[str, Any]:
        """One feature's activations and pre-activations on a text; null at special tokens."""
        name = self.sae_name(sae)
        number = self.feature_number(name, feature)
        engine = self.load()
        ids = engine.token_ids(text, "The text")
        pre_acts, acts, threshold = engine.pre_activations(ids, name, number)
        special = engine.lm.is_special(ids)
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
            "max_act": self.known.features(name).summaries([number])[number]["max_act"],
        }

    # Steering

    def steer_stream(
        self,
        prompt: object = "",
        edits: object = None,
        sae: object = None,
        max_new_tokens: object = 60,
        temperature: object = 0.8,
        seed: object = 0,
        messages: object = None,
    ) -> Generator[dict[str, Any]]:
        """Continue a prompt as it is and with edits: a whole dict for every token.

        `messages` instead of a prompt are a conversation that the model answers. Edits and the dict
        are those of docs/steering.md. Mistakes raise here, before the first dict. Closing the
        iterator ends the generation.
        """
        run = self.planned_run(prompt, edits, sae, max_new_tokens, temperature, seed, messages)
        return steering.stream(self.load(), self.settings, run)

    def planned_run(
        self,
        prompt: object = "",
        edits: object = None,
        sae: object = None,
        max_new_tokens: object = 60,
        temperature: object = 0.8,
        seed: object = 0,
        messages: object = None,
    ) -> steering.PlannedRun:
        """A steering run, checked; arguments and errors are those of `steer_stream`."""
        name = self.sae_name(sae)
        settings = self.settings
        new = checks.whole(max_new_tokens, "New tokens", 1, settings.max_new_tokens)
        warmth = checks.number(temperature, "Temperature", 0.0, settings.max_temperature)
        number = checks.whole(seed, "Seed", 0, 2**32 - 1)
        engine = self.load()
        given = engine.prompt(prompt, messages)
        if not given.is_open:
            raise ValueError("The last message must be the user's: the model answers it.")
        length = len(given.ids)
        if length + new > engine.context:
            raise ValueError(
                f"{length:,} prompt tokens and {new:,} new ones exceed the model's context of "
                f"{engine.context:,} tokens: shorten one of them."
            )
        return steering.PlannedRun(
            sae=name,
            prompt=given,
            edits=self._planned(edits, name, last_position=length + new - 1),
            max_new_tokens=new,
            temperature=warmth,
            seed=number,
        )

    def steer(
        self,
        prompt: object = "",
        edits: object = None,
        sae: object = None,
        max_new_tokens: object = 60,
        temperature: object = 0.8,
        seed: object = 0,
        messages: object = None,
    ) -> dict[str, Any]:
        """The last dict of `steer_stream`."""
        growing = self.steer_stream(prompt, edits, sae, max_new_tokens, temperature, seed, messages)
        return deque(growing, maxlen=1)[0]

    def check(self, sae: object = None) -> dict[str, Any]:
        """Whether an SAE's numbers can be trusted, checked if need be: `app.verification.State`."""
        return self.verification.finished(self.sae_name(sae))

    def reproduce(self, asked: object) -> dict[str, Any]:
        """What a number was computed from, and a script that prints it; see `app.cards`."""
        return cards.card(self, asked)

    # Shared

    def feature_number(self, sae: str, feature: object, name: str = "The feature") -> int:
        """The id of a feature of an SAE; ValueError, calling it `name`, if there is none."""
        return checks.whole(feature, name, 0, self.known.d_sae(sae) - 1)

    def _analysis(self, prompt: Prompt, sae: str) -> Analysis:
        return self.load().analyse(prompt.ids, sae, self.known.mean(sae))

    def _definitions(self, sae: str) -> dict[str, str]:
        indexed = self.known.missing(sae) is None
        return prompting.PROMPT_DEFINITIONS if indexed else prompting.UNINDEXED_DEFINITIONS

    def _missing(self, sae: str) -> dict[str, str] | None:
        missing = self.known.missing(sae)
        return missing and asdict(missing)

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
            feature = self.feature_number(name, written["feature"], f"The feature of edit {number}")
            plans.append(
                steering.planned(
                    written,
                    number=number,
                    sae=name,
                    summary=self.known.features(name).summaries([feature])[feature],
                    settings=self.settings,
                    last_position=last_position,
                )
            )
        return plans
