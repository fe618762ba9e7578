"""Two texts through one model: which of their tokens belong together, and how far apart is what the
model predicts after them.

Tokens are aligned by a diff of their ids. What is equal belongs together. Where a run of tokens
stands in place of another, their last ones do, since the last of a run has read all of it.

    kl = KL(P_A || P_B)    nats, of the next-token distributions after two tokens
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core import notebook
from sae_core.head import chunks, head, hidden_states
from sae_core.placement import in_float64
from sae_core.splice import SplicedLM
from sae_core.tokens import token_texts


@dataclass(frozen=True, kw_only=True)
class AlignedPair:
    """A token of each text, by number."""

    a: int
    b: int
    same: bool
    """Whether they are one token, and not one in place of another."""


def aligned(a: Sequence[int], b: Sequence[int]) -> list[AlignedPair]:
    """The tokens of two texts that belong together, in order; each is in at most one pair.

    Tokens that one of the texts has beyond the other are in none.
    """
    pairs: list[AlignedPair] = []
    # `autojunk` would leave the frequent tokens of a long text out.
    matcher = SequenceMatcher(None, list(a), list(b), autojunk=False)
    for tag, a_start, a_stop, b_start, b_stop in matcher.get_opcodes():
        many = min(a_stop - a_start, b_stop - b_start)
        pairs += [
            AlignedPair(a=a_stop - back, b=b_stop - back, same=tag == "equal")
            for back in range(many, 0, -1)
        ]
    return pairs


class Comparison:
    """Two texts, read once each by the model as it is.

    Raises ValueError for a text without tokens.
    """

    @torch.no_grad()
    def __init__(self, lm: SplicedLM, a: Sequence[int], b: Sequence[int]) -> None:
        if not a or not b:
            raise ValueError("a text without tokens predicts nothing.")
        self.lm, self.a, self.b = lm, list(a), list(b)
        self.pairs = aligned(a, b)
        different = (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
        self.common = next(different, min(len(a), len(b)))
        """How many tokens both begin with. What is predicted after them is the same."""
        with lm.lock:
            self._hidden = [
                hidden_states(lm.model, torch.tensor([ids], device=lm.device))[0]
                for ids in (self.a, self.b)
            ]

    def __repr__(self) -> str:
        """How many tokens are aligned, in one line."""
        return (
            f"Comparison({len(self.a):,} and {len(self.b):,} tokens, {len(self.pairs):,} pairs, "
            f"the first {self.common:,} the same)"
        )

    def _repr_html_(self) -> str:
        """Both texts, coloured by how far apart is what the model predicts after each token."""
        kl = self.kl()
        largest = float(kl.max(initial=0.0))
        maps = []
        for name, ids in (("a", self.a), ("b", self.b)):
            values = [float("nan")] * len(ids)
            for pair, value in zip(self.pairs, kl.tolist(), strict=True):
                values[getattr(pair, name)] = value
            texts = token_texts(ids, self.lm.vocabulary)
            maps.append(notebook.heat_map(texts, values, largest, f"Text {name.upper()}"))
        return notebook.page(
            f"Two texts of {len(self.a):,} and {len(self.b):,} tokens",
            notebook.words("Colour: KL between the predictions after a pair of tokens, nats."),
            *maps,
        )

    @torch.no_grad()
    def log_probs(self, a: int, b: int) -> tuple[Float[Tensor, " vocab"], Float[Tensor, " vocab"]]:
        """Of what comes after token `a` of the one text and token `b` of the other, float64, nats.

        ValueError for a token that there is not.
        """
        self._check(a, b)
        states = (self._hidden[0][a : a + 1], self._hidden[1][b : b + 1])
        log_p, log_q = (in_float64(head(self.lm.model, each)[0]).log_softmax(-1) for each in states)
        return log_p, log_p if self.is_shared(a, b) else log_q

    @torch.no_grad()
    def kl(self) -> np.ndarray:
        """Nats after each pair, float32; 0 after tokens that both texts begin with."""
        values = [np.zeros(0, dtype=np.float32)]
        a, b = ([getattr(pair, side) for pair in self.pairs] for side in "ab")
        for part in chunks(self.lm.model, len(self.pairs)):
            log_p = head(self.lm.model, self._hidden[0][a[part]]).float().log_softmax(-1)
            log_q = head(self.lm.model, self._hidden[1][b[part]]).float().log_softmax(-1)
            kl = torch.linalg.vecdot(log_p.exp(), log_p - log_q)
            # Never below 0 but by rounding.
            values.append(kl.clamp(min=0).cpu().numpy())
        shared = [self.is_shared(pair.a, pair.b) for pair in self.pairs]
        return np.where(shared, np.float32(0), np.concatenate(values))

    def is_shared(self, a: int, b: int) -> bool:
        """Whether all that has been read is the same: then rounding alone could differ."""
        return a == b < self.common

    def _check(self, a: int, b: int) -> None:
        for token, ids in ((a, self.a), (b, self.b)):
            if not 0 <= token < len(ids):
                raise ValueError(
                    f"token {token} is not of the text: it has tokens 0 to {len(ids) - 1}."
                )


def divergence(log_p: Float[Tensor, " vocab"], log_q: Float[Tensor, " vocab"]) -> float:
    """KL(P || Q) in nats."""
    return max(0.0, float(torch.linalg.vecdot(log_p.exp(), log_p - log_q)))
