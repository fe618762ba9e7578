"""Effects of features on a prediction, as they were measured (`sae_core.effects` defines them)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sae_core import notebook


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Effects of features on one prediction. Arrays over (token, feature) pairs have length n."""

    read_at: int
    """The token after which the model predicts."""
    target: int
    """Id of the next token whose change is estimated."""
    tokens: np.ndarray
    """Ids of the next tokens whose changes are told, the likeliest first; the target is one."""
    logp: np.ndarray
    """The model's own log-probabilities of `tokens`, nats."""
    position: np.ndarray
    """The pairs: token number, feature, activation. Exact ones come first, by falling KL, then the
    others by the size of their estimates."""
    feature: np.ndarray
    activation: np.ndarray
    kl: np.ndarray
    """Nats; NaN where it is only estimated."""
    change: np.ndarray
    """Change of the log-probability of each of `tokens`, nats `[n, tokens]`; NaN where it is only
    estimated."""
    becomes: np.ndarray
    """Id of the token that is likeliest without the feature; -1 where it is only estimated."""
    becomes_logp: np.ndarray
    """Its log-probability then, nats; NaN likewise."""
    estimate: np.ndarray
    """Estimate of the target's change, nats; NaN where none was asked for."""
    exact: np.ndarray
    """Whether the pair was truly set to 0."""
    texts: Mapping[int, str] = field(default_factory=dict, repr=False)
    """Texts of the ids that are told, by id."""

    @property
    def dlogp(self) -> np.ndarray:
        """The target's change, nats; NaN where it is only estimated."""
        return self.change[:, int(np.flatnonzero(self.tokens == self.target)[0])]

    def rank_correlation(self) -> float:
        """Spearman's, of estimates and exact changes of the target over the exact pairs: how far
        estimates can be believed. NaN for fewer than two pairs, or all alike, or not there.
        """
        ranks = [_ranks(values[self.exact]) for values in (self.estimate, self.dlogp)]
        a, b = (each - each.mean() if len(each) else each for each in ranks)
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / norm if norm > 0 else float("nan")

    def _repr_html_(self) -> str:
        """The model's likeliest next tokens, and the features with the largest effects."""
        name = self._name
        likeliest = [
            (name(int(t)), float(p)) for t, p in zip(self.tokens, np.exp(self.logp), strict=True)
        ]
        rows = [
            (
                f"#{self.feature[i]}",
                int(self.position[i]),
                float(self.activation[i]),
                float(self.kl[i]),
                float(self.dlogp[i] if self.exact[i] else self.estimate[i]),
                name(int(self.becomes[i])) if self.exact[i] else "estimate only",
            )
            for i in range(len(self.feature))
        ]
        heads = (
            "feature",
            "token",
            "activation",
            "KL",
            f"change of {name(self.target)}",
            "becomes",
        )
        return notebook.page(
            f"What carries the prediction after token {self.read_at}",
            notebook.table(("next token", "probability"), likeliest, most=8),
            notebook.words("Each feature set to 0 alone; nats."),
            notebook.table(heads, rows),
        )

    def _name(self, token: int) -> str:
        text = self.texts.get(token)
        return f"[{token}]" if text is None else repr(text)

    def __repr__(self) -> str:
        """How many pairs, and the largest effect, in one line."""
        count = f"{len(self.feature):,} pairs, {int(self.exact.sum()):,} exact"
        if not self.exact.any():
            return f"Effects({count})"
        return (
            f"Effects({count}; feature {self.feature[0]} at token {self.position[0]}: "
            f"KL {self.kl[0]:.3g}, change {self.dlogp[0]:.3g})"
        )


@dataclass(frozen=True, kw_only=True)
class JointEffect:
    """What several (token, feature) pairs do together, beside what each does alone."""

    pairs: tuple[tuple[int, int], ...]
    """Token number and feature of each."""
    tokens: np.ndarray
    """Ids of the next tokens whose changes are told, as those of `Effects`."""
    kl: float
    """Nats, with all of them set to 0 at once."""
    change: np.ndarray
    """Change of the log-probability of each of `tokens` then, nats `[tokens]`."""
    becomes: int
    """Id of the token that is likeliest then."""
    becomes_logp: float
    kl_alone: np.ndarray
    """Nats, with each alone set to 0 `[pairs]`; `change_alone` `[pairs, tokens]` likewise."""
    change_alone: np.ndarray


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 on, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    return (first + (counts - 1) / 2)[inverse]
