"""What an index must hold, computed the slow way: one row at a time, float64, Python loops.

Shares no code with `sae_core.index`; the model's own hidden states stand in for the hooks. Beside
it, what several tests of an index ask of its pages.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_core.index import IndexConfig
from sae_core.sae import SAE
from tests import tiny

CONTEXT = 32


@dataclass(frozen=True)
class Token:
    """One token that counts, with everything known about it."""

    place: int
    """Among all tokens that count."""
    document: int
    row: int
    in_row: int
    in_document: int
    id: int


@dataclass(frozen=True)
class Reference:
    """All tokens of the tiny corpus and the SAE's pre-activations on them, float64."""

    tokens: list[Token]
    x: np.ndarray
    pre_acts: np.ndarray
    acts: np.ndarray
    threshold: np.ndarray

    def row_of(self, token: Token) -> list[Token]:
        """The tokens of the same row, in order."""
        return [t for t in self.tokens if t.row == token.row]

    def events(self, feature: int) -> list[tuple[float, Token]]:
        """The tokens on which a feature fires, with its activation, in order."""
        column = self.acts[:, feature]
        return [(float(column[t.place]), t) for t in self.tokens if column[t.place] > 0]

    def misses(self, feature: int) -> list[tuple[float, Token]]:
        """The tokens on which it does not, with its pre-activation."""
        column = self.pre_acts[:, feature]
        off = self.acts[:, feature] == 0
        return [(float(column[t.place]), t) for t in self.tokens if off[t.place]]

    def strongest(self, result: list[tuple[float, Token]], k: int) -> list[tuple[float, Token]]:
        """The k largest: best of each document first, then best of each further row."""
        chosen: list[tuple[float, Token]] = []
        documents, rows = set(), set()
        ordered = sorted(result, key=lambda item: (-item[0], item[1].place))
        for value, token in ordered:
            if len(chosen) < k and token.document not in documents:
                documents.add(token.document)
                rows.add(token.row)
                chosen.append((value, token))
        for value, token in ordered:
            if len(chosen) < k and token.row not in rows:
                rows.add(token.row)
                chosen.append((value, token))
        return sorted(chosen, key=lambda item: (-item[0], item[1].place))


def clear_of_ties(sae: SAE, model: Any, tokenizer: Any) -> SAE:
    """A copy whose thresholds keep clear of every pre-activation of the tiny corpus.

    The corpus repeats sentences, so that a quantile of it is often the pre-activation of several
    tokens at once; on which side they fall would be a matter of rounding.
    """
    pre_acts = reference(model, tokenizer, sae).pre_acts
    clear = SAE.build(sae.cfg)
    state = sae.state_dict()
    before, after = state["threshold"], state["threshold"].clone()
    for i, column in enumerate(pre_acts.T):
        threshold = float(before[i])
        while np.abs(column - threshold).min() < 1e-4:
            threshold += 5e-5
        after[i] = threshold
    clear.load_state_dict(state | {"threshold": after})
    return clear


def reference(model: Any, tokenizer: Any, sae: SAE, context: int = CONTEXT) -> Reference:
    """The reference for a JumpReLU SAE at `resid_post`."""
    site = sae.cfg.site
    assert site is not None
    assert site.kind == "resid_post"
    # Asked for hidden states, transformers leaves hooks of its own on a model: on this copy, then.
    model = copy.deepcopy(model)
    tokens: list[Token] = []
    x = []
    row = 0
    for number, document in enumerate(tiny.tiny_documents()):
        ids = tokenizer.encode(document["text"], add_special_tokens=False)
        for offset in range(0, len(ids), context - 1):
            part = ids[offset : offset + context - 1]
            whole = torch.tensor([[tokenizer.bos_token_id, *part]])
            with torch.no_grad():
                hidden = model.model(whole, output_hidden_states=True).hidden_states
            x.append(hidden[site.layer + 1][0, 1:].double().numpy())
            for i, token_id in enumerate(part):
                tokens.append(Token(len(tokens), number, row, i, offset + i, token_id))
            row += 1
    stacked = np.concatenate(x)
    weights = {name: getattr(sae, name).double().numpy() for name in sae.tensor_names}
    pre_acts = stacked @ weights["W_enc"] + weights["b_enc"]
    acts = np.where(pre_acts > weights["threshold"], pre_acts, 0.0)
    return Reference(tokens, stacked, pre_acts, acts, weights["threshold"])


def config(corpus: Path, **changes: Any) -> IndexConfig:
    """Settings for the tiny corpus, read whole."""
    settings: dict[str, Any] = {"corpus": (str(corpus),), "tokens": 10**6, "rows_per_batch": 7}
    return IndexConfig(**(settings | changes))


def at(context: dict[str, Any]) -> tuple[int, int]:
    """Document and token of it at which a context's peak is."""
    return context["document"], context["offset"] + context["peak"]


def group(page: dict[str, Any], name: str) -> dict[str, Any]:
    [result] = [g for g in page["groups"] if g["name"] == name]
    return result
