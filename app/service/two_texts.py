"""Two texts side by side: what fires on one and not on the other, and what of it matters."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app.engine.prompts import Prompt
from app.engine.workbench import Workbench
from app.requests import CompareRequest, PatchRequest, RequestError
from app.service.features import missing
from app.service.next_token import NamedTokens
from app.service.token_rows import finite_list, named_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from app.engine.engine import Engine
    from sae_core.compare import AlignedPair, Comparison
    from sae_core.splice import Analysis

Pair = tuple[int, int]

LIKELIEST: Final = 6
"""Of each distribution so many next tokens are told."""

DEFINITIONS: Final[dict[str, str]] = {
    "pairs": (
        "Tokens that belong together, by a diff of the two texts' tokens: equal ones, and of runs "
        "that stand in each other's place the last ones."
    ),
    "a": "Activation on A's token; over all aligned tokens the mean.",
    "b": "Activation on B's token; over all aligned tokens the mean.",
    "difference": "B's minus A's.",
    "kl": (
        "KL divergence in nats from the model's next-token distribution after A's token to that "
        "after B's."
    ),
    "kl_patched": (
        "KL divergence in nats from A's next-token distribution to B's once the features have A's "
        "activations there; what it was before, less this, is how much nearer B has come."
    ),
    "moved": (
        "KL divergence in nats from B's next-token distribution to B's once the features have A's "
        "activations there: how far the patch moves B."
    ),
}


def compare(workbench: Workbench, request: CompareRequest) -> dict[str, Any]:
    """Two texts: their aligned tokens, how far apart predictions after those are, and features.

    A feature has its activation in A, in B, and the difference, at one aligned pair or as means
    over all of them.
    """
    name = workbench.sae_name(request.sae)
    engine = workbench.load()
    prompts = _prompts(engine, request)
    mean = workbench.sources.mean(name)
    analyses = [engine.analyse(prompt.ids, name, mean) for prompt in prompts]
    texts = _compared(engine, prompts)
    chosen = _chosen(texts.pairs, request.token, analyses)
    vocabulary, tokens = engine.lm.vocabulary, NamedTokens(engine.lm.vocabulary)
    rows = _feature_rows(analyses, chosen)
    count = min(len(rows), request.limit or len(rows))
    ends = (len(texts.a) - 1, len(texts.b) - 1)
    return {
        "sae": name,
        "token": request.token,
        **{
            side: prompt.as_answered("text")
            | {
                "tokens": prompt.marked(
                    named_tokens(prompt.ids, analysis.special.tolist(), vocabulary)
                )
            }
            for side, prompt, analysis in zip("ab", prompts, analyses, strict=True)
        },
        "pairs": [
            {"a": pair.a, "b": pair.b, "same": pair.same, "kl": kl}
            for pair, kl in zip(texts.pairs, finite_list(texts.kl()), strict=True)
        ],
        "predictions": [
            _prediction(tokens, where, *texts.log_probs(*where))
            for where in _read(request.token, texts.pairs, ends)
        ],
        "features": _named(workbench, name, rows[:count]),
        "features_total": len(rows),
        "truncated": count < len(rows),
        "definitions": DEFINITIONS,
        "missing": missing(workbench, name),
    }


def patch(workbench: Workbench, request: PatchRequest) -> dict[str, Any]:
    """Put features' activations in A in place of those in B, and see how B's prediction moves.

    B's reconstruction error is kept. Each feature is patched alone, and all of them together.
    """
    from sae_core.patching import patch as patched

    name = workbench.sae_name(request.sae)
    features = list(dict.fromkeys(request.features))
    for number, feature in enumerate(features):
        workbench.feature_number(name, feature, f"features.{number}")
    engine = workbench.load()
    prompts = _prompts(engine, request)
    mean = workbench.sources.mean(name)
    analyses = [engine.analyse(prompt.ids, name, mean) for prompt in prompts]
    texts = _compared(engine, prompts)
    pairs = _chosen(texts.pairs, request.token, analyses)
    if not pairs:
        raise RequestError("The texts have no aligned token that could be patched.", "other_text")
    read = _read(request.token, texts.pairs, (len(texts.a) - 1, len(texts.b) - 1))
    with engine.reading(prompts[1].ids, [name]):
        result = patched(texts, name, features, pairs, read=read)
    tokens = NamedTokens(engine.lm.vocabulary)
    return {
        "sae": name,
        "patched": [
            {
                "feature": feature,
                "a": float(a),
                "b": float(b),
                "moved": finite_list(result.kl[arm]),
                "kl_patched": finite_list(result.kl_from_a[arm]),
            }
            for arm, (feature, a, b) in enumerate(
                zip(features, result.a.mean(0), result.b.mean(0), strict=True)
            )
        ],
        "pairs": [{"a": a, "b": b} for a, b in pairs],
        "predictions": [
            {
                **_prediction(
                    tokens,
                    where,
                    result.log_probs_a[at],
                    result.log_probs_b[at],
                    result.log_probs_patched[at],
                ),
                "moved": float(result.kl[-1, at]),
                "kl_patched": float(result.kl_from_a[-1, at]),
            }
            for at, where in enumerate(read)
        ],
        "definitions": DEFINITIONS,
    }


def _prompts(engine: "Engine", request: CompareRequest | PatchRequest) -> tuple[Prompt, Prompt]:
    first = engine.prompt(request.text, request.messages)
    try:
        second = engine.prompt(
            request.other_text,
            request.other_messages,
            field="other_text",
            name="The other text",
        )
    except RequestError as error:
        if error.field.startswith("messages"):
            raise RequestError(str(error), f"other_{error.field}") from None
        raise
    return first, second


def _compared(engine: "Engine", prompts: Sequence[Prompt]) -> "Comparison":
    from sae_core.compare import Comparison

    a, b = (prompt.ids for prompt in prompts)
    with engine.reading(max(a, b, key=len), []) as lm:
        return Comparison(lm, a, b)


def _chosen(
    pairs: Sequence["AlignedPair"], token: int | None, analyses: Sequence["Analysis"]
) -> list[Pair]:
    """The pairs to compare: that of a token of A, or all whose tokens count."""
    a, b = (analysis.special for analysis in analyses)
    counted = [(pair.a, pair.b) for pair in pairs if not (a[pair.a] or b[pair.b])]
    if token is None:
        return counted
    chosen = [pair for pair in counted if pair[0] == token]
    if not chosen:
        last = len(a) - 1
        why = (
            f"its tokens are 0 to {last:,}"
            if token > last
            else "special tokens keep their activation"
            if any(pair.a == token for pair in pairs)
            else "it is aligned with none of B"
        )
        raise RequestError(f"Token {token:,} of A cannot be compared: {why}.", "token")
    return chosen


def _read(token: int | None, pairs: Sequence["AlignedPair"], ends: Pair) -> list[Pair]:
    """After which tokens predictions are told: the chosen pair, and the ends of the texts."""
    here = [(pair.a, pair.b) for pair in pairs if pair.a == token]
    return list(dict.fromkeys([*here, ends]))


def _prediction(
    tokens: NamedTokens, where: Pair, a: "Tensor", b: "Tensor", patched: "Tensor | None" = None
) -> dict[str, Any]:
    """What comes after a token of A and one of B: the likeliest of each, likeliest first."""
    from sae_core.compare import divergence

    series = {"a": a, "b": b} | ({} if patched is None else {"patched": patched})
    p = {name: each.cpu().exp() for name, each in series.items()}
    likeliest = {token for each in p.values() for token in each.topk(LIKELIEST).indices.tolist()}
    order = sorted(likeliest, key=lambda token: -max(float(each[token]) for each in p.values()))
    return {
        "at": dict(zip("ab", where, strict=True)),
        "kl": divergence(a, b),
        "tokens": [
            tokens(token) | {name: float(each[token]) for name, each in p.items()}
            for token in order
        ],
    }


def _feature_rows(analyses: Sequence["Analysis"], pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Features that fire at these pairs, by falling size of their difference, then by number."""
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    gaps: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for side, analysis in enumerate(analyses):
        numbers = {pair[side]: number for number, pair in enumerate(pairs)}
        for token, feature, activation in _active(analysis, numbers):
            sums[feature][side] += activation
            gaps[feature][numbers[token]] += activation if side else -activation
    rows = []
    for feature, (a, b) in sums.items():
        widest = max(gaps[feature], key=lambda number: abs(gaps[feature][number]))
        a, b = a / len(pairs), b / len(pairs)
        rows.append(
            {
                "feature": feature,
                "a": a,
                "b": b,
                "difference": b - a,
                "fires_in": "both" if a and b else "a" if a else "b",
                "widest": dict(zip("ab", pairs[widest], strict=True)),
            }
        )
    return sorted(rows, key=lambda row: (-abs(row["difference"]), row["feature"]))


def _active(analysis: "Analysis", tokens: Mapping[int, int]) -> Iterable[tuple[int, int, float]]:
    """Token, feature and activation of what fires on some tokens."""
    here = np.isin(analysis.token, list(tokens))
    columns = (analysis.token, analysis.feature, analysis.activation)
    return zip(*(column[here].tolist() for column in columns), strict=True)


def _named(workbench: Workbench, sae: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with what the index says of their features."""
    summaries = workbench.sources.features(sae).summaries([row["feature"] for row in rows])
    return [
        row
        | {name: summaries[row["feature"]][name] for name in ("signature", "frequency", "max_act")}
        for row in rows
    ]
