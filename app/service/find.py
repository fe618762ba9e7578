"""Features that tell texts that have something from texts that do not."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from app.engine.memory import refused_when_full
from app.engine.workbench import Workbench
from app.requests import FindRequest, RequestError
from app.service.features import missing
from sae_core.number_text import number
from sae_core.tokens import partial_bytes, token_texts

if TYPE_CHECKING:
    from app.engine.engine import Engine
    from sae_core.corpus import TokenRow
    from sae_core.find_by_example import Separation, TextPeaks

FIND_DEFINITIONS: Final = {
    "auroc": "Share of the pairs of a text that has it and one that does not in which the "
    "feature's largest activation is larger in the first; equal ones count half. 0.5 tells "
    "nothing.",
    "mean": "Mean over the texts of a box of the feature's largest activation in each, 0 where it "
    "does not fire.",
    "expected": "Features with an AUROC of 1 that there would be on average if the same texts were "
    "put into the boxes at random, over all ways to do that.",
    "any_perfect": "Share of those ways that would have at least one such feature.",
}

MOST_FIND_TOKENS: Final = 10_000
"""Tokens of all texts together."""
STAND_INS: Final = 40
"""Passages of the check's text in the place of negatives."""
_STAND_IN_TOKENS: Final = 4000
_SHORTEST: Final = 8
"""Tokens of a passage, at least."""
_WHOLE: Final = 0.9
"""Share of its length that a passage has where there are enough."""
_AROUND: Final = (10, 5)
"""Tokens shown before and after the strongest."""
_LONGER: Final = 1.5
"""How many times as long the texts of one box are for that to be said."""
_RARE: Final = 0.05
"""Share of random splits with a perfect feature below which one is hardly chance."""
_LEAST: Final = 1e-4
"""Below it a number is only said to be so."""


def find(workbench: Workbench, request: FindRequest) -> dict[str, Any]:
    """Features that fire in texts that have something and not in texts that do not, by AUROC of
    their largest activation in each text, with the strongest token in both.

    Works without an index. `chance` says how little few texts tell.
    """
    name = workbench.sae_name(request.sae)
    engine = workbench.load()
    from sae_core.find_by_example import separation, text_peaks

    positives = _rows(engine, request.positives, "positives")
    negatives = _rows(engine, request.negatives or [], "negatives")
    given = sum(len(row.ids) for row in (*positives, *negatives))
    if given > MOST_FIND_TOKENS:
        raise RequestError(
            f"The texts have {given:,} tokens, more than the limit of {MOST_FIND_TOKENS:,}: "
            "shorten them or leave some out.",
            "positives",
        )
    with (
        refused_when_full(
            f"{given:,} tokens do not fit into the memory of {engine.device}: leave texts out, or "
            "lower max_sae_memory."
        ),
        engine.spliced([name]) as lm,
    ):
        stand_in = not negatives
        if stand_in:
            negatives = _stand_ins(workbench, lm, name, positives)
        rows = [*positives, *negatives]
        peaks = text_peaks(lm, name, rows)
    told = separation(peaks, [True] * len(positives) + [False] * len(negatives))
    best = told.best(request.limit)
    numbers = told.feature[best].tolist()
    summaries = workbench.sources.features(name).summaries(numbers)
    seen = _Seen(engine, rows, peaks, len(positives))
    return {
        "sae": name,
        "missing": missing(workbench, name),
        "positives": len(positives),
        "negatives": len(negatives),
        "stand_in": stand_in,
        "features": [
            {
                "feature": feature,
                "signature": summaries[feature]["signature"],
                "auroc": float(told.auroc[at]),
                "positive_mean": float(told.positive_mean[at]),
                "negative_mean": float(told.negative_mean[at]),
                **seen.strongest(feature),
            }
            for at, feature in zip(best.tolist(), numbers, strict=True)
        ],
        "firing": len(told.feature),
        "chance": chance_of(told, positives, negatives),
        "definitions": FIND_DEFINITIONS,
    }


def _rows(engine: "Engine", texts: Sequence[str], field: str) -> list["TokenRow"]:
    """A row of tokens for each text; RequestError about the first that cannot be read."""
    import numpy as np

    from sae_core.corpus import Document, TokenRow

    rows = []
    for place, text in enumerate(texts):
        ids = engine.token_ids(text, f"Text {place + 1} of the {field}", field)
        rows.append(TokenRow(Document(place, "", "", "", ""), 0, np.array(ids, dtype=np.int32)))
    return rows


def _stand_ins(
    workbench: Workbench, lm: Any, sae: str, positives: Sequence["TokenRow"]
) -> list["TokenRow"]:
    """Passages of the check's text, evenly spread over it and as long as the middle positive."""
    from sae_core.check import check_rows

    lengths = sorted(len(row.ids) for row in positives)
    length = max(lengths[len(lengths) // 2], _SHORTEST)
    cfg = replace(lm.sae(sae).cfg, context_size=length)
    text = workbench.checker.texts(_STAND_IN_TOKENS)
    rows = check_rows(lm, cfg, text, _STAND_IN_TOKENS)
    # The ends of documents are shorter, and would have smaller maxima.
    rows = [row for row in rows if len(row.ids) >= _WHOLE * length] or rows
    count = min(STAND_INS, len(rows))
    return [rows[k * len(rows) // count] for k in range(count)]


class _Seen:
    """Where features are strongest among the texts, with the tokens around."""

    def __init__(
        self,
        engine: "Engine",
        rows: Sequence["TokenRow"],
        peaks: Sequence["TextPeaks"],
        positives: int,
    ) -> None:
        self._vocabulary, self._rows, self._peaks = engine.lm.vocabulary, rows, peaks
        # BOS, where the tokenizer has one, is nobody's text.
        self._text_begins = 0 if engine.lm.tokenizer.bos_token_id is None else 1
        self._sides = {
            "positive": range(positives),
            "negative": range(positives, len(rows)),
        }

    def strongest(self, feature: int) -> dict[str, Any]:
        """The strongest token on each side; None where the feature fires nowhere on it."""
        return {side: self._at(feature, texts) for side, texts in self._sides.items()}

    def _at(self, feature: int, texts: range) -> dict[str, Any] | None:
        from sae_core.find_by_example import strongest

        place = strongest(self._peaks, texts, feature)
        if place is None:
            return None
        text, token, activation = place
        ids = self._rows[text].ids.tolist()
        words = token_texts(ids, self._vocabulary)
        partial = partial_bytes(ids, words, self._vocabulary)
        first = max(self._text_begins, token - _AROUND[0])
        last = token + _AROUND[1] + 1
        return {
            "text": text - texts.start,
            "token": token,
            "activation": activation,
            "tokens": words[first:last],
            "bytes": partial[first:last],
            "peak": token - first,
        }


def chance_of(
    told: "Separation", positives: Sequence["TokenRow"], negatives: Sequence["TokenRow"]
) -> dict[str, Any]:
    """What a perfect AUROC is worth with so few texts, as numbers and in words."""
    return {
        "perfect": told.perfect,
        "expected": told.expected,
        "any_perfect": told.any_perfect,
        "smallest_p": 1 / told.splits,
        "sentence": _chance_sentence(told, len(positives), len(negatives)),
        "longer": _longer(positives, negatives),
    }


def _chance_sentence(told: "Separation", n: int, m: int) -> str:
    perfect = _features(told.perfect, "separates", "separate")
    splits = f"{told.splits:,}" if told.splits < 10**9 else f"about {told.splits:.1e}"
    random = (
        f"Of the {splits} ways to put these {n + m} texts into boxes of {n} and {m}, one drawn at "
        f"random has {_small(told.expected)} such features on average, and "
        f"{_small(100 * told.any_perfect)} % of the ways have at least one"
    )
    if told.any_perfect >= _RARE:
        end = "a perfect feature may well be chance: more texts tell more"
    else:
        end = (
            "chance alone hardly gives a perfect feature, but whatever else the boxes differ in may"
        )
    return f"{perfect} the boxes perfectly. {random}: {end}."


def _small(value: float) -> str:
    """A number that may be very small, but is called 0 only where it is."""
    return number(value, 2) if value >= _LEAST or not value else f"fewer than {number(_LEAST, 1)}"


def _features(count: int, one: str, several: str) -> str:
    if not count:
        return f"No feature {one}"
    return f"{count:,} feature {one}" if count == 1 else f"{count:,} features {several}"


def _longer(positives: Sequence["TokenRow"], negatives: Sequence["TokenRow"]) -> str:
    """That the texts of one box are much longer, which alone makes their largest activations
    larger; "" where they are not.
    """
    means = [sum(len(row.ids) for row in rows) / len(rows) for rows in (positives, negatives)]
    low, high = sorted(means)
    if high < _LONGER * low:
        return ""
    which = "that have it" if means[0] > means[1] else "that do not"
    return (
        f"The texts {which} are {number(high / low, 2)} times as long as the others: longer texts "
        "have larger maxima, whatever they are about."
    )
