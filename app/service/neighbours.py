"""What fires together with a feature, and which feature of another SAE is the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.engine.memory import refused_when_full
from app.engine.workbench import Workbench
from app.requests import CoActivationRequest, RequestError
from sae_core.number_text import number
from sae_core.wilson import wilson

if TYPE_CHECKING:
    import numpy as np

    from sae_core.co_activation import CoActivation
    from sae_core.corpus import TokenRow
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
    activations where one of the two adds none, or none is nearer than random ones would be; `by`
    says which.
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
        alike = None if other is None else _alike(lm, name, feature, other, rows, together.own)
    return {
        "sae": name,
        "feature": feature,
        "tokens": together.tokens,
        "fires": together.own,
        "together": _together(workbench, name, together, request.limit),
        "other": alike and _other_answer(workbench, alike, request.limit),
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


FEW_FIRINGS = 8
"""Tokens that a feature fires on; with fewer, a correlation of activations says little."""


@dataclass(frozen=True, kw_only=True)
class _Alike:
    """How much the features of another SAE are like one."""

    sae: str
    by: str
    values: "np.ndarray"
    sentence: str


def _alike(
    lm: "SplicedLM", name: str, feature: int, other: str, rows: "Sequence[TokenRow]", fires: int
) -> _Alike:
    """`fires`: on how many of the rows' tokens the feature does."""
    from sae_core import co_activation as measured

    if measured.writes_to_stream(lm, name) and measured.writes_to_stream(lm, other):
        cosines = measured.decoder_cosines(lm, name, feature, other)
        nearest = number(float(cosines.max()), 2)
        width = lm.model.config.get_text_config().hidden_size
        random = measured.random_cosine(len(cosines), width)
        level = number(random, 2)
        chance = f"of so many random directions none is nearer than {level} in 19 of 20 cases"
        if cosines.max() > random:
            sentence = (
                f"By the cosine of the directions that both add to the residual stream; {chance}."
            )
            return _Alike(sae=other, by=DECODER, values=cosines, sentence=sentence)
        why = (
            "the directions that both add to the residual stream tell nothing, since the nearest "
            f"has a cosine of {nearest}, and {chance}"
        )
    else:
        why = "one of the two adds no direction to the residual stream but writes what an MLP reads"
    few = ""
    if 0 < fires < FEW_FIRINGS:
        tokens = "a single token" if fires == 1 else f"only {fires} tokens"
        few = (
            f" It fires on {tokens} there, so whatever is strong on as few may come first "
            "by chance."
        )
    return _Alike(
        sae=other,
        by=CORRELATION,
        values=measured.correlations(lm, name, feature, other, rows),
        sentence=f"By the correlation of activations on that text: {why}.{few}",
    )


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


def _other_answer(workbench: Workbench, alike: _Alike, limit: int) -> dict[str, Any]:
    """Features of another SAE by falling likeness, those alone of which it is above 0."""
    import numpy as np

    values = np.nan_to_num(alike.values, nan=-1.0)
    order = np.argsort(-values, kind="stable")[:limit].tolist()
    features = [feature for feature in order if values[feature] > 0]
    signatures = _signatures(workbench, alike.sae, features)
    return {
        "sae": alike.sae,
        "by": alike.by,
        "sentence": alike.sentence,
        "features": [
            {"feature": each, "signature": signatures[each], "value": float(values[each])}
            for each in features
        ],
    }


def _signatures(workbench: Workbench, name: str, features: Sequence[int]) -> Mapping[int, str]:
    rows = workbench.sources.features(name).summaries(features)
    return {feature: rows[feature]["signature"] for feature in features}
