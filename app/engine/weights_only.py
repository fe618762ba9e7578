"""The features of an SAE without an index: what its weights and the model say of them.

`WeightsOnlyFeatures` answers as an `Index` does, with None for every number that needs a corpus. In
the place of a signature stands what a feature makes the model expect: `→ sea · ship · boat`.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from app.engine.engine import Engine
from app.engine.indexes import Missing
from app.requests import RequestError
from sae_core.index.logits import neighbours, top_logits
from sae_core.index.token_words import BROKEN, visible
from sae_core.sae import SAE
from sae_core.tokens import partial_bytes, special_ids, token_texts

LISTED: Final = 10
"""Tokens raised and lowered, and neighbours, of one feature."""

_WORDS: Final = 3
_BUDGET: Final = {"cpu": 5e10, "cuda": 5e12}
"""Multiplications that may be spent on the words of one answer, by kind of device: with Gemma 2's
vocabulary 85 features of 2B (0.3 s on eight cores) and 8,500 (0.3 s on an H100)."""


class WeightsOnlyFeatures:
    """The features of one SAE, from weights alone; `missing` says what builds its index.

    Everything is computed when it is asked for, and loads the SAE if it is not in memory.
    """

    def __init__(self, engine: Engine, name: str, missing: Missing) -> None:
        self.missing = missing
        self._engine, self._name = engine, name
        self._vocabulary = engine.lm.vocabulary
        self._special = special_ids(engine.lm.tokenizer)

    def summaries(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What a list shows of each of these features.

        Words take a product with the unembedding for each feature: only the first of `ids` get
        them, as many as are cheap, and the signature of the others is empty.
        """
        if not ids:
            return {}
        with self._engine.spliced([self._name]) as lm:
            sae = lm.sae(self._name)
            chosen = torch.tensor(list(ids), device=sae.W_dec.device)
            thresholds = sae.effective_threshold()[chosen].tolist()
            words = self._words(sae, chosen[: self._affordable()])
        words += [""] * (len(ids) - len(words))
        return {
            int(i): _summary(int(i), text, threshold)
            for i, text, threshold in zip(ids, words, thresholds, strict=True)
        }

    def search(
        self,
        query: str,
        sort: str,
        descending: bool,
        limit: int,
        offset: int,
        among: Collection[int] | None = None,
    ) -> dict[str, Any]:
        """One page of the features, or the one whose number is `query`; as `Index.search`.

        RequestError for words, which only an index can find.
        """
        with self._engine.spliced([self._name]) as lm:
            thresholds = lm.sae(self._name).effective_threshold()
        number = query.strip().removeprefix("#")
        if number.isascii() and number.isdigit():
            matches = [int(number)] if int(number) < len(thresholds) else []
        elif number:
            raise RequestError(
                f"Features are found by number alone. {self.missing.sentence}", "query"
            )
        elif sort == "threshold":
            # Sorted stably from the larger id on, so that ties keep the order of ids.
            matches = thresholds.sort(descending=descending, stable=True).indices.tolist()
        else:
            matches = list(range(len(thresholds)))
            matches = matches[::-1] if descending else matches
        if among is not None:
            matches = [i for i in matches if i in among]
        page = matches[offset : offset + limit]
        summaries = self.summaries(page)
        return {"total": len(matches), "features": [summaries[i] for i in page]}

    def feature(self, feature: int) -> dict[str, Any]:
        """A feature as far as its weights tell, with their `norms`; as `Index.feature`."""
        with self._engine.spliced([self._name]) as lm:
            sae = lm.sae(self._name)
            one = torch.tensor([feature], device=sae.W_dec.device)
            [near], [cosines] = (column.tolist() for column in neighbours(sae, LISTED, one))
            summaries = self.summaries([feature, *near])
            top = top_logits(lm.model, sae, LISTED, self._special, one)
            norms = {
                "encoder": float(sae.W_enc[:, feature].float().norm()),
                "decoder": float(sae.W_dec[feature].float().norm()),
            }
        return {
            **summaries[feature],
            "active_tokens": None,
            "tokens": None,
            "activation_histogram": None,
            "pre_activation_histogram": None,
            "groups": [],
            "writes": None,
            "logits": {
                "raises": self._tokens(top.raises[0], top.raises_logit[0]),
                "lowers": self._tokens(top.lowers[0], top.lowers_logit[0]),
            },
            "fires_on": {"tokens": [], "sources": []},
            "neighbours": [
                {"feature": i, "cosine": cosine, "signature": summaries[i]["signature"]}
                for i, cosine in zip(near, cosines, strict=True)
            ],
            "norms": norms,
        }

    def _affordable(self) -> int:
        """How many features may get words in one answer."""
        unembedding = self._engine.model.get_output_embeddings().weight
        budget = _BUDGET.get(unembedding.device.type, _BUDGET["cpu"])
        return max(1, int(budget / unembedding.numel()))

    def _words(self, sae: SAE, features: Tensor) -> list[str]:
        top = top_logits(self._engine.model, sae, LISTED, self._special, features)
        return [self._line(ids) for ids in top.raises.tolist()]

    def _line(self, ids: Sequence[int]) -> str:
        """The first few different words among tokens, as a signature ends."""
        words: dict[str, str] = {}
        for i in ids:
            text = self._text(i)
            word = visible(text)
            if word and BROKEN not in word:
                # In small letters and without a space before them, they go on with a word.
                words.setdefault(word.casefold(), f"-{word}" if text[:1].islower() else word)
        chosen = list(words.values())[:_WORDS]
        return f"→ {' · '.join(chosen)}" if chosen else ""

    def _tokens(self, ids: Tensor, logits: Tensor) -> list[dict[str, Any]]:
        return [
            {"token": text, "id": i, "bytes": shown, "logit": logit}
            for i, logit in zip(ids.tolist(), logits.tolist(), strict=True)
            for text in [self._text(i)]
            for shown in partial_bytes([i], [text], self._vocabulary)
        ]

    def _text(self, token: int) -> str:
        return token_texts([token], self._vocabulary)[0]


def _summary(feature: int, signature: str, threshold: float) -> dict[str, Any]:
    return {
        "feature": feature,
        "signature": signature,
        "frequency": None,
        "max_act": None,
        "mean_act": None,
        "threshold": threshold,
        "output_score": None,
        "side_effect": None,
    }
