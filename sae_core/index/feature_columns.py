"""What is known of every feature as a number: columns in memory, in order, and between bounds."""

import threading

import numpy as np

from sae_core.index.schema import SCORES

SORTS = (
    "id", "frequency", "max_act", "mean_act", "threshold", "concentration", *SCORES,
)  # fmt: skip
"""What features can be sorted by."""


class FeatureColumns:
    """Numbers of features, each `[d_sae]`, float64 (counts int64); NaN where there is none."""

    def __init__(self, columns: dict[str, np.ndarray], tokens: int) -> None:
        """`columns`: active_tokens and all that can be sorted by but id and frequency; `tokens`:
        those of the sample.
        """
        self._columns, self._tokens = columns, tokens
        self._order: dict[tuple[str, bool], np.ndarray] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]

    def __len__(self) -> int:
        return len(self._columns["active_tokens"])

    def frequencies(self) -> np.ndarray:
        """Share of tokens on which each feature is active."""
        return self._columns["active_tokens"] / self._tokens

    def frequency(self, feature: int) -> float:
        """The same of one feature."""
        return float(self._columns["active_tokens"][feature] / self._tokens)

    def order(self, sort: str, descending: bool) -> np.ndarray:
        """Features in an order of `SORTS`; ties keep the order of ids, and NaN comes last."""
        with self._lock:
            if (sort, descending) not in self._order:
                self._order[sort, descending] = self._ordered(sort, descending)
            return self._order[sort, descending]

    def _ordered(self, sort: str, descending: bool) -> np.ndarray:
        if sort == "id":
            ids = np.arange(len(self), dtype=np.int32)
            return ids[::-1] if descending else ids
        values = self._columns["active_tokens" if sort == "frequency" else sort]
        return np.argsort(-values if descending else values, kind="stable").astype(np.int32)

    def between(
        self,
        min_frequency: float,
        max_frequency: float,
        min_output_score: float,
        max_side_effect: float,
    ) -> np.ndarray:
        """Mask of the features within all bounds; without a score a feature is within none."""
        active = self._columns["active_tokens"]
        # The bounds as counts, widened so that a feature's own frequency as a bound includes it.
        low, high = min_frequency * self._tokens - 1e-6, max_frequency * self._tokens + 1e-6
        mask = (active >= low) & (active <= high)
        if min_output_score > 0:
            mask &= self._columns["output_score"] >= min_output_score
        if max_side_effect < np.inf:
            mask &= self._columns["side_effect"] <= max_side_effect
        return mask

    def rank(self, name: str, feature: int) -> dict[str, int] | None:
        """1 for the largest of a column, of as many as have it; None where a feature has not."""
        column, own = self._columns[name], self._columns[name][feature]
        if np.isnan(own):
            return None
        return {"rank": 1 + int((column > own).sum()), "of": int((~np.isnan(column)).sum())}
