"""What comes next after a token of a text, and which features carry that prediction."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.engine.workbench import Workbench
from app.requests import EffectsRequest, RequestError, shown
from app.service.features import missing
from app.service.token_rows import finite, finite_list, named_tokens
from sae_core.definitions import DEFINITIONS, EFFECT_DEFINITIONS

if TYPE_CHECKING:
    import numpy as np

    from sae_core.effect_values import Effects, JointEffect

DEFINED: dict[str, str] = EFFECT_DEFINITIONS | {"uniformity": DEFINITIONS["uniformity"]}


def effects(workbench: Workbench, request: EffectsRequest) -> dict[str, Any]:
    """What the model predicts after a token of a text, and which active features carry that.

    Each feature of the token is set to 0 in turn, the SAE's error kept, and the model run again;
    with earlier tokens all features up to there are estimated and the largest so measured.
    """
    from sae_core.prediction import Prediction
    from sae_core.text_uniformity import uniformities

    name = workbench.sae_name(request.sae)
    for number, pair in enumerate(request.joint or ()):
        workbench.feature_number(name, pair.feature, f"joint.{number}.feature")
    engine = workbench.load()
    prompt = engine.prompt(request.text, request.messages)
    token = token_number(request.token, len(prompt.ids))
    vocabulary = engine.lm.vocabulary
    check_target(request.target, len(vocabulary))
    with engine.reading(prompt.ids, [name]) as lm:
        prediction = Prediction(
            lm, prompt.ids, name, token, target=request.target, tokens=request.next_tokens
        )
        counts = bool(prediction.counted[token])
        result = None
        if request.earlier:
            result = prediction.of_all_tokens(request.exact)
        elif counts:
            result = prediction.at(token, estimates=request.estimates)
        joint = _joint(request, token, prediction.counted.tolist())
        together = prediction.together(joint) if joint else None
        logp_spliced, kl_spliced = prediction.spliced()
        correct = {token: prompt.ids[token + 1]} if counts and token + 1 < len(prompt.ids) else {}
        uniformity = [*uniformities(prediction.arms, name, correct).tolist(), math.nan][0]
    tokens = NamedTokens(vocabulary)
    logp = dict(zip(prediction.tokens, prediction.logp.tolist(), strict=True))
    base = [
        tokens(each) | {"p": math.exp(logp[each]), "p_spliced": math.exp(spliced)}
        for each, spliced in zip(prediction.tokens, logp_spliced.tolist(), strict=True)
    ]
    total = 0 if result is None else len(result.feature)
    count = min(total, request.limit or total)
    return {
        "sae": name,
        **prompt.as_answered("text"),
        "token": named_tokens(prompt.ids, lm.is_special(prompt.ids), vocabulary)[token],
        "target": tokens(prediction.target) | {"logp": logp[prediction.target]},
        "base": base,
        "kl_spliced": kl_spliced,
        "effects": [] if result is None else _rows(workbench, name, result, count, tokens),
        "effects_total": total,
        "truncated": count < total,
        "rank_correlation": finite(result.rank_correlation() if result else math.nan),
        "joint": together and _joint_row(together, prediction.target, tokens),
        "uniformity": finite(uniformity),
        "definitions": DEFINED,
        "missing": missing(workbench, name),
    }


class NamedTokens:
    """Next tokens by id: id, text, and `bytes` where the text shows no character."""

    def __init__(self, vocabulary: Sequence[bytes]) -> None:
        self._vocabulary = vocabulary

    def __call__(self, token: int) -> dict[str, Any]:
        (row,) = named_tokens([token], [False], self._vocabulary)
        return {name: row[name] for name in ("id", "text", "bytes") if name in row}


def token_number(given: int | None, count: int) -> int:
    """The number of a token of a text of `count`, the last if none is given."""
    token = count - 1 if given is None else given
    if token >= count:
        raise RequestError(
            f"Token must be a whole number from 0 to {count - 1}, not {shown(token)}.", "token"
        )
    return token


def check_target(target: int | None, vocabulary: int) -> None:
    """RequestError for an id that no token has."""
    if target is not None and target >= vocabulary:
        raise RequestError(
            f"Next token must be the id of one, from 0 to {vocabulary - 1}, not {shown(target)}.",
            "target",
        )


def _joint(request: EffectsRequest, token: int, counted: Sequence[bool]) -> list[tuple[int, int]]:
    """The pairs to set to 0 at once, each once; `counted` says which tokens have effects."""
    pairs = [(pair.position, pair.feature) for pair in request.joint or ()]
    for number, (position, _) in enumerate(pairs):
        if position > token:
            raise RequestError(
                f"The position of pair {number + 1} must be a whole number from 0 to {token}, not "
                f"{shown(position)}.",
                f"joint.{number}.position",
            )
        if not counted[position]:
            raise RequestError(
                f"The position of pair {number + 1} is that of token {position}, which is special "
                "or an attention sink and keeps its activation: choose another.",
                f"joint.{number}.position",
            )
    return list(dict.fromkeys(pairs))


def _rows(
    workbench: Workbench, sae: str, result: "Effects", count: int, tokens: NamedTokens
) -> list[dict[str, Any]]:
    """The first `count` effects."""
    features = result.feature[:count].tolist()
    summaries = workbench.sources.features(sae).summaries(sorted(set(features)))
    columns = {
        "position": result.position[:count].tolist(),
        "feature": features,
        "activation": finite_list(result.activation[:count]),
        "kl": finite_list(result.kl[:count]),
        "dlogp": finite_list(result.dlogp[:count]),
        "estimate": finite_list(result.estimate[:count]),
        "exact": result.exact[:count].tolist(),
    }
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    for i, row in enumerate(rows):
        exact, summary = row["exact"], summaries[row["feature"]]
        row["changes"] = finite_list(result.change[i]) if exact else None
        row["becomes"] = _becomes(result.becomes, result.becomes_logp, i, tokens) if exact else None
        row |= {name: summary[name] for name in ("signature", "frequency", "max_act")}
        row |= _beside_the_index(row["activation"], summary)
    return rows


def _becomes(ids: "np.ndarray", logp: "np.ndarray", i: int, tokens: NamedTokens) -> dict[str, Any]:
    return tokens(int(ids[i])) | {"p": math.exp(logp[i])}


def _beside_the_index(activation: float, summary: Mapping[str, Any]) -> dict[str, float | None]:
    """`share` and `lift`; null where no index knows, or the feature never fired there."""
    largest, often = summary["max_act"], summary["frequency"]
    usual = (summary["mean_act"] or 0.0) * (often or 0.0)
    return {
        "share": activation / largest if largest else None,
        "lift": activation / usual if usual else None,
    }


def _joint_row(joint: "JointEffect", target: int, tokens: NamedTokens) -> dict[str, Any]:
    """The joint effect, beside the sum of the single ones."""
    column = joint.tokens.tolist().index(target)
    dlogp, sum_dlogp = float(joint.change[column]), float(joint.change_alone[:, column].sum())
    sum_kl = float(joint.kl_alone.sum())
    return {
        "pairs": [{"position": position, "feature": feature} for position, feature in joint.pairs],
        "kl": joint.kl,
        "dlogp": dlogp,
        "changes": finite_list(joint.change),
        "becomes": tokens(joint.becomes) | {"p": math.exp(joint.becomes_logp)},
        "sum_kl": sum_kl,
        "sum_dlogp": sum_dlogp,
        "beyond_kl": joint.kl - sum_kl,
        "beyond_dlogp": dlogp - sum_dlogp,
    }
