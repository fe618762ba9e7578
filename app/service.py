"""What the app can do, without a user interface: `Service`.

Pages, the API and tests call these methods. They hold no state of any user, may be called from
several threads, and return plain dicts of JSON values (a number that is not defined is None).
A user's mistake raises ValueError with one sentence that says what to do.
"""

import random
from collections import deque
from collections.abc import Generator
from dataclasses import asdict
from typing import Any

from app import about, cards, checks, prompting, steering, unindexed
from app.planning import planned_run
from app.prompts import Prompt
from app.served import Served
from sae_core.index import SORTS, Index
from sae_core.metrics import DEFINITIONS
from sae_core.splice import Analysis
from sae_core.tokens import token_texts


class Service(Served):
    """One bundle, served under some settings.

    Where an SAE has no index that can be used, answers hold what its weights and the model say,
    None where a number needs a corpus, and `missing`: the sentence that says why, with the command
    that builds one.
    """

    def overview(self, sae: object = None) -> dict[str, Any]:
        """The bundle, its model and SAEs with their measured numbers, and where to begin.

        Needs no model in memory. What cannot be read has a `problem`, the sentence that says why.
        """
        name = self.sae_name(sae)
        saes = self.saes()
        chosen = next(facts for facts in saes if facts["name"] == name)
        missing = self.known.missing(name) if chosen["problem"] is None else None
        index = self.index(name) if chosen["problem"] is None and missing is None else None
        return {
            "sae": name,
            "bundle": about.bundle_facts(self.bundle),
            "model": self.model_facts(),
            "saes": saes,
            "measured": chosen["measured"],
            "missing": missing and asdict(missing),
            "memory": self.memory(),
            "check": self.verification.state(name),
            "comparison": about.comparison(self.bundle),
            "definitions": DEFINITIONS,
            **about.index_facts(index),
        }

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
        run = planned_run(self, prompt, edits, sae, max_new_tokens, temperature, seed, messages)
        return steering.stream(self.load(), self.settings, run)

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

    # Trust

    def check(self, sae: object = None) -> dict[str, Any]:
        """Whether an SAE's numbers can be trusted, checked if need be: `app.verification.State`."""
        return self.verification.finished(self.sae_name(sae))

    def reproduce(self, asked: object) -> dict[str, Any]:
        """What a number was computed from, and a script that prints it; see `app.cards`."""
        return cards.card(self, asked)

    def _analysis(self, prompt: Prompt, sae: str) -> Analysis:
        return self.load().analyse(prompt.ids, sae, self.known.mean(sae))

    def _definitions(self, sae: str) -> dict[str, str]:
        indexed = self.known.missing(sae) is None
        return prompting.PROMPT_DEFINITIONS if indexed else prompting.UNINDEXED_DEFINITIONS

    def _missing(self, sae: str) -> dict[str, str] | None:
        missing = self.known.missing(sae)
        return missing and asdict(missing)
