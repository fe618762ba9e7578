"""What fires together with a feature, and which feature of another SAE is the same."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from app.engine.memory import refused_when_full
from app.engine.workbench import Workbench
from app.requests import CoActivationRequest, RequestError
from sae_core.wilson import wilson

if TYPE_CHECKING:
    import numpy as np

    from sae_core.co_activation import CoActivation
    from sae_core.splice import SplicedLM

CO_ACTIVATION_DEFINITIONS: Final = {
    "jaccard": "Tokens on which both fire, over tokens on which one of the two does or both.",
    "lift": "How many times as often as chance would have it both fire on one token.",
    "interval": "95 % interval of Jaccard (Wilson), as if tokens were independent.",
    "decoder cosine": "Cosine between the directions that the two add to the residual stream.",
    "correlation": "Pearson correlation of the two activations over the tokens of the text.",
}
DECODER, CORRELATION = "decoder cosine", "correlation"
"""What the same feature of another SAE is found by."""


def co_activation(workbench: Workbench, request: CoActivationRequest) -> dict[str, Any]:
    """Features that fire on the same tokens as one, on the check's text, and the features of
    another SAE that are most like it.

    Those are found by the directions that both add to the residual stream, or by correlation of
    activations where one of the two adds none; `by` says which.
    """
    name = workbench.sae_name(request.sae)
    feature = workbench.feature_number(name, request.feature)
    other = _other(workbench, name, request.other_sae)
    engine = workbench.load()
    from sae_core import co_activation as measured
    from sae_core.check import check_rows

    text = workbench.checker.texts(request.tokens)
    names = [name] if other is None else [name, other]
    with (
        refused_when_full(
            f"{request.tokens:,} tokens do not fit into the memory of {engine.device}: lower "
            "tokens or max_sae_memory."
        ),
        engine.spliced(names) as lm,
    ):
        rows = check_rows(lm, lm.sae(name).cfg, text, request.tokens)
        together = measured.co_activation(lm, name, feature, rows)
        by, likeness = None, None
        if other is not None:
            by, likeness = _likeness(lm, name, feature, other, rows)
    return {
        "sae": name,
        "feature": feature,
        "tokens": together.tokens,
        "fires": together.own,
        "together": _together(workbench, name, together, request.limit),
        "other": None
        if other is None or likeness is None
        else {
            "sae": other,
            "by": by,
            "features": _alike(workbench, other, likeness, request.limit),
        },
        "definitions": CO_ACTIVATION_DEFINITIONS,
    }


def _other(workbench: Workbench, name: str, other: str) -> str | None:
    """The SAE to look into; None where the bundle has no other that can be used."""
    if other:
        found = workbench.sae_name(other, "other_sae")
        if found == name:
            raise RequestError("The other SAE is the feature's own: choose another.", "other_sae")
        return found
    usable = (row["name"] for row in workbench.saes() if row["problem"] is None)
    return next((each for each in usable if each != name), None)


def _likeness(
    lm: "SplicedLM", name: str, feature: int, other: str, rows: Sequence[Any]
) -> tuple[str, "np.ndarray"]:
    """What the features of the other SAE are compared by, and each one's value."""
    from sae_core.co_activation import correlations, decoder_cosines, writes_to_stream

    if writes_to_stream(lm, name) and writes_to_stream(lm, other):
        return DECODER, decoder_cosines(lm, name, feature, other)
    return CORRELATION, correlations(lm, name, feature, other, rows)


def _together(
    workbench: Workbench, name: str, together: "CoActivation", limit: int
) -> list[dict[str, Any]]:
    jaccard, lift, either = together.jaccard(), together.lift(), together.either
    nearest = together.nearest(limit).tolist()
    signatures = _signatures(workbench, name, nearest)
    rows = []
    for feature in nearest:
        both, union = int(together.both[feature]), int(either[feature])
        low, high = wilson(both, union)
        rows.append(
            {
                "feature": feature,
                "signature": signatures[feature],
                "jaccard": float(jaccard[feature]),
                "low": low,
                "high": high,
                "lift": float(lift[feature]),
                "both": both,
                "either": union,
            }
        )
    return rows


def _alike(
    workbench: Workbench, name: str, likeness: "np.ndarray", limit: int
) -> list[dict[str, Any]]:
    """Features of another SAE by falling likeness, those alone of which it is above 0."""
    import numpy as np

    order = np.argsort(-np.nan_to_num(likeness, nan=-2.0), kind="stable")[:limit]
    alike = [feature for feature in order.tolist() if likeness[feature] > 0]
    signatures = _signatures(workbench, name, alike)
    return [
        {"feature": each, "signature": signatures[each], "value": float(likeness[each])}
        for each in alike
    ]


def _signatures(workbench: Workbench, name: str, features: Sequence[int]) -> Mapping[int, str]:
    rows = workbench.sources.features(name).summaries(features)
    return {feature: rows[feature]["signature"] for feature in features}
