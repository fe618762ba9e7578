"""Which features tell texts that have something from texts that do not.

Each feature has one number for a text, the largest of its activations there (max pooling), and is
ranked by how well that number tells the n positive texts from the m negative ones:

    AUROC = (pairs with positive > negative + half of the pairs that are equal) / (n m)

Ties are the rule, since most features are 0 in most texts. Few texts tell little: with the texts
put into two groups of n and m at random, a feature whose n-th largest value is above the next one
is perfect in one of C(n + m, n) ways. So the mean number of perfect features over all ways is the
number of features with such a gap over C(n + m, n), exactly, and the share of ways with at least
one is the number of different groups that such gaps make, over the same.

Only features that fire somewhere are held, each text's apart, and only a few tokens are encoded at
once: a million features need no more than a few megabytes for each text.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from sae_core.corpus import TokenRow, batches
from sae_core.sites import activations
from sae_core.splice import SplicedLM

_ROWS = 4
"""Texts in one forward: the lock on the model is held for no longer."""
_CHUNK = 2**24
"""Elements of the largest array over tokens and features: 64 MB in float32."""
_BLOCK = 2**22
"""Elements of the largest array over texts and features."""


@dataclass(frozen=True, kw_only=True)
class TextPeaks:
    """The features that fire in one text: number, largest activation and the token that has it
    (its place in the row), in the order of their numbers.
    """

    feature: np.ndarray
    activation: np.ndarray
    token: np.ndarray

    def of(self, feature: int) -> tuple[float, int]:
        """The largest activation of a feature and its token; 0 and -1 where it does not fire."""
        at = int(np.searchsorted(self.feature, feature))
        if at == len(self.feature) or self.feature[at] != feature:
            return 0.0, -1
        return float(self.activation[at]), int(self.token[at])


@dataclass(frozen=True, kw_only=True)
class Separation:
    """How well each feature that fires in some text tells the positive texts from the others.

    All others have an AUROC of 0.5. The arrays have one length, in the order of `feature`.
    """

    feature: np.ndarray
    auroc: np.ndarray
    positive_mean: np.ndarray
    """Mean of the largest activation over the positive texts, 0 where it does not fire."""
    negative_mean: np.ndarray
    splits: int
    """Ways to choose as many positives among the texts: 1 / splits is the smallest p-value."""
    expected: float
    """Perfect features that a random split would have on average."""
    any_perfect: float
    """Share of the splits that would have at least one."""

    @property
    def perfect(self) -> int:
        """Features with an AUROC of 1."""
        return int((self.auroc == 1).sum())

    def best(self, limit: int) -> np.ndarray:
        """Places in the arrays by falling AUROC, ties by falling difference of the means, then by
        number; at most `limit`.
        """
        difference = self.positive_mean - self.negative_mean
        return np.lexsort((self.feature, -difference, -self.auroc))[:limit]


@torch.no_grad()
def text_peaks(lm: SplicedLM, sae_name: str, rows: Sequence[TokenRow]) -> list[TextPeaks]:
    """The largest activation of every feature in each of some texts, a row each.

    The model runs only up to the SAE's site. Special tokens and an attention sink count nowhere.
    ValueError for an unknown SAE.
    """
    sae, site = lm.sae(sae_name), lm.site(sae_name)
    size = max(1, _CHUNK // sae.cfg.d_sae)
    found: list[TextPeaks] = []
    for batch in batches(rows, lm.tokenizer, _ROWS):
        with lm.lock:
            x = activations(lm.model, batch.input_ids.to(lm.device), [site])[site]
        for i, row in enumerate(batch.rows):
            own = x[i, : len(row.ids)]
            counted = batch.mask[i, : len(row.ids)].clone()
            counted[:1] &= not lm.has_sink(sae, own, own)
            counted = counted.to(own.device)
            peak = torch.zeros(sae.cfg.d_sae, device=own.device)
            place = torch.full((sae.cfg.d_sae,), -1, device=own.device)
            for start in range(0, len(own), size):
                acts = sae.encode(own[start : start + size].float())
                value, at = (acts * counted[start : start + size, None]).max(0)
                higher = value > peak
                peak = torch.where(higher, value, peak)
                place = torch.where(higher, at + start, place)
            feature = peak.nonzero()[:, 0]
            found.append(
                TextPeaks(
                    feature=feature.int().cpu().numpy(),
                    activation=peak[feature].cpu().numpy(),
                    token=place[feature].int().cpu().numpy(),
                )
            )
    return found


def separation(peaks: Sequence[TextPeaks], positive: Sequence[bool]) -> Separation:
    """How well features tell the texts that are `positive` from the others.

    ValueError unless there is one of each.
    """
    is_positive = np.array(positive, dtype=bool)
    assert len(is_positive) == len(peaks), "one word for each text"
    n, m = int(is_positive.sum()), int((~is_positive).sum())
    if not n or not m:
        raise ValueError("give at least one text that has it and one that does not.")
    feature = np.unique(np.concatenate([each.feature for each in peaks]))
    aurocs, positives, negatives = [], [], []
    gaps, groups = 0, set[bytes]()
    for block in _blocks(peaks, feature):
        aurocs.append(auroc(block, is_positive))
        positives.append(block[is_positive].mean(0, dtype=np.float64))
        negatives.append(block[~is_positive].mean(0, dtype=np.float64))
        made = _top_groups(block, n)
        gaps += made.shape[1]
        groups.update(column.tobytes() for column in np.unique(made, axis=1).T)
    splits = math.comb(n + m, n)
    return Separation(
        feature=feature,
        auroc=_joined(aurocs),
        positive_mean=_joined(positives),
        negative_mean=_joined(negatives),
        splits=splits,
        expected=gaps / splits,
        any_perfect=len(groups) / splits,
    )


def auroc(
    values: Float[np.ndarray, "texts features"], positive: Bool[np.ndarray, " texts"]
) -> Float[np.ndarray, " features"]:
    """The share of pairs of a positive and a negative text in which the positive one's value is
    larger, equal ones counting half.
    """
    positives, negatives = values[positive], values[~positive]
    twice = np.zeros(values.shape[1], dtype=np.int64)
    for row in positives:
        twice += 2 * (negatives < row).sum(0) + (negatives == row).sum(0)
    return twice / (2 * len(positives) * len(negatives))


def _top_groups(values: np.ndarray, n: int) -> np.ndarray:
    """For each feature whose n-th largest value is above the next one, which texts have those n, as
    bits packed along the first axis.
    """
    ordered = np.sort(values, axis=0)[::-1]
    has_gap = ordered[n - 1] > ordered[n]
    return np.packbits(values[:, has_gap] >= ordered[n - 1, has_gap], axis=0)


def _blocks(peaks: Sequence[TextPeaks], feature: np.ndarray) -> Iterator[np.ndarray]:
    """The largest activations `[texts, features]` of these features, so many at once as fit."""
    size = max(1, _BLOCK // len(peaks))
    for start in range(0, len(feature), size):
        part = feature[start : start + size]
        block = np.zeros((len(peaks), len(part)), dtype=np.float32)
        for row, each in zip(block, peaks, strict=True):
            low, high = np.searchsorted(each.feature, [part[0], part[-1] + 1])
            row[np.searchsorted(part, each.feature[low:high])] = each.activation[low:high]
        yield block


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0)


def strongest(
    peaks: Sequence[TextPeaks], texts: Sequence[int], feature: int
) -> tuple[int, int, float] | None:
    """Among the texts with these numbers the one in which a feature is largest: its number, the
    token's place in it, and the activation; None where it fires in none of them.
    """
    best = None
    for text in texts:
        activation, token = peaks[text].of(feature)
        if activation > (0.0 if best is None else best[2]):
            best = (text, token, activation)
    return best
