"""What fires on a text and what the splice costs, as plain JSON-able dicts."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_core.definitions import DEFINITIONS
from sae_core.tokens import partial_bytes, token_texts

if TYPE_CHECKING:
    from sae_core.splice import Analysis

TOTALS = ("tokens", "l0", "fvu", "ce_base", "ce_spliced", "delta_lm_loss", "kl")

PROMPT_DEFINITIONS: dict[str, str] = {
    **{name: DEFINITIONS[name] for name in (*TOTALS, "frequency")},
    "fvu": DEFINITIONS["fvu"] + " On a prompt the mean is that of the index's corpus.",
    "uniformity": DEFINITIONS["uniformity"] + " Of a prompt: on at most 64 of its tokens, evenly "
    "spread.",
    "loss": "Nats for predicting this token from those before it; the first token has none.",
    "spliced_loss": "The same with the SAE's reconstruction in place of the activation.",
    "delta": "Spliced loss minus loss, nats: above 0 the splice made this token harder to predict.",
    "active": "Number of features active on this token; special tokens are left alone.",
    "max_act": "The feature's largest activation in its index.",
    "peak": "The feature's largest activation on this text.",
}
UNINDEXED_DEFINITIONS: dict[str, str] = {
    **{k: v for k, v in PROMPT_DEFINITIONS.items() if k not in ("frequency", "max_act")},
    "fvu": DEFINITIONS["fvu"] + " Without an index the mean is that of this text alone.",
}
"""The same of an SAE without an index."""


def finite(value: float) -> float | None:
    """The number as JSON knows it: NaN and infinities become null."""
    return float(value) if math.isfinite(value) else None


def finite_list(values: np.ndarray) -> list[float | None]:
    """`finite` of every element of a one-axis array."""
    numbers = values.tolist()
    if np.isfinite(values).all():
        return numbers
    return [finite(number) for number in numbers]


def named_tokens(
    ids: Sequence[int], special: Sequence[bool], vocabulary: Sequence[bytes]
) -> list[dict[str, Any]]:
    """One dict a token: i, id, text, special; `bytes` where its text shows no character."""
    texts = token_texts(ids, vocabulary)
    partial = partial_bytes(ids, texts, vocabulary)
    return [
        {"i": i, "id": token, "text": text, "special": left_alone}
        | ({"bytes": part} if part else {})
        for i, (token, text, left_alone, part) in enumerate(
            zip(ids, texts, special, partial, strict=True)
        )
    ]


def token_rows(analysis: "Analysis", vocabulary: Sequence[bytes]) -> list[dict[str, Any]]:
    """`named_tokens` of an analysis, with loss, spliced_loss, delta and kl."""
    columns = {
        "loss": finite_list(analysis.base_loss),
        "spliced_loss": finite_list(analysis.spliced_loss),
        "delta": finite_list(analysis.spliced_loss - analysis.base_loss),
        "kl": finite_list(analysis.kl),
    }
    tokens = named_tokens(analysis.ids.tolist(), analysis.special.tolist(), vocabulary)
    return [
        token | dict(zip(columns, numbers, strict=True))
        for token, numbers in zip(tokens, zip(*columns.values(), strict=True), strict=True)
    ]


def totals(analysis: "Analysis") -> dict[str, float | None]:
    """The text's numbers, null where it does not define one."""
    numbers = {name: finite(analysis.totals[name]) for name in TOTALS}
    numbers["tokens"] = int(analysis.totals["tokens"])
    return numbers


def active_by_token(analysis: "Analysis") -> list[list[list[float]]]:
    """For each token its active features as [feature, activation], strongest first."""
    starts = np.searchsorted(analysis.token, np.arange(len(analysis.ids) + 1))
    pairs = [
        [feature, activation]
        for feature, activation in zip(
            analysis.feature.tolist(), analysis.activation.tolist(), strict=True
        )
    ]
    return [pairs[a:b] for a, b in itertools.pairwise(starts)]


def feature_rows(
    analysis: "Analysis", summaries: Mapping[int, Mapping[str, Any]], chosen: np.ndarray
) -> list[dict[str, Any]]:
    """One dict for each of the `chosen` features, in that order, with every token it fires on."""
    order = np.lexsort((analysis.token, analysis.feature))
    features = analysis.feature[order]
    pairs = [
        [token, activation]
        for token, activation in zip(
            analysis.token[order].tolist(), analysis.activation[order].tolist(), strict=True
        )
    ]
    starts = np.searchsorted(features, chosen).tolist()
    ends = np.searchsorted(features, chosen, side="right").tolist()
    rows = []
    for feature, start, end in zip(chosen.tolist(), starts, ends, strict=True):
        on = pairs[start:end]
        peak_token, peak = max(on, key=lambda pair: pair[1])
        summary = summaries[feature]
        rows.append(
            {
                "feature": feature,
                "signature": summary["signature"],
                "frequency": summary["frequency"],
                "max_act": summary["max_act"],
                "peak": peak,
                "peak_token": peak_token,
                "tokens": on,
            }
        )
    return rows


def strongest(analysis: "Analysis", limit: int | None) -> tuple[np.ndarray, int]:
    """Ids of the active features by falling peak (ties by id), at most `limit`; and how many."""
    features, inverse = np.unique(analysis.feature, return_inverse=True)
    peaks = np.zeros(len(features))
    np.maximum.at(peaks, inverse, analysis.activation)
    return features[np.argsort(-peaks, kind="stable")][:limit], len(features)
