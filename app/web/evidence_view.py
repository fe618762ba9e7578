"""Evidence for one meaning: what stands above a feature's contexts, and duplicates among them.

A feature with one meaning fires on the same words whether strongly or weakly; one that has a
second meaning often shows it in its weaker intervals. So each interval has its range, how often
the feature fires there, and how many different words its peaks are on.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from app.web.numbers import number

Data = Mapping[str, Any]


def peak_word(tokens: Sequence[str], peak: int) -> str:
    """The word that the token at `peak` is part of, in lower case; the token itself where that is
    no letter or digit (punctuation, spaces).
    """
    if peak >= len(tokens):
        return ""
    if not tokens[peak].strip().isalnum():
        return tokens[peak].strip() or tokens[peak]
    first, last = peak, peak
    while first > 0 and tokens[first][:1].isalnum() and tokens[first - 1][-1:].isalnum():
        first -= 1
    while last + 1 < len(tokens) and tokens[last][-1:].isalnum() and tokens[last + 1][:1].isalnum():
        last += 1
    return "".join(tokens[first : last + 1]).strip().casefold()


def effective_number(words: Sequence[str]) -> float:
    """e to the entropy of the distribution of `words`: 1 where all are alike, their number where
    all differ; NaN where there are none.
    """
    total = len(words)
    shares = [many / total for many in Counter(words).values()]
    return math.exp(-sum(share * math.log(share) for share in shares)) if shares else math.nan


def folded(contexts: Sequence[Data]) -> list[dict[str, Any]]:
    """Contexts without those of a document, or with the same tokens, that an earlier one has; these
    are its `copies`. Each has its `index` among all.
    """
    kept: list[dict[str, Any]] = []
    by_document: dict[Any, dict[str, Any]] = {}
    by_text: dict[tuple[str, ...], dict[str, Any]] = {}
    for index, context in enumerate(contexts):
        each = {**context, "index": index, "copies": []}
        document, text = context["document"], tuple(context["tokens"])
        first = by_text.get(text) or by_document.get(document)
        if first is None:
            kept.append(each)
            first = each
        else:
            first["copies"].append(each)
        by_document.setdefault(document, first)
        by_text.setdefault(text, first)
    return kept


def evidence_strip(
    groups: Sequence[Data], drawn: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A cell for each of the feature's `groups` of contexts, in the order of the page, on which
    they are `drawn`.
    """
    cells = []
    for group, shown in zip(groups, drawn, strict=True):
        # The same text twice says no more than once.
        texts = {tuple(each["tokens"]): each for each in group["contexts"]}
        words = [peak_word(each["tokens"], each["peak"]) for each in texts.values()]
        spread = effective_number(words)
        cells.append(
            {
                "id": f"group-{group['name']}",
                "title": shown["title"],
                "said": "does not fire" if shown["near_miss"] else shown["said"],
                "spread": number(spread, 2),
                "sample": len(words),
                "tip": f"{shown['title']}: the peaks of {len(words)} contexts are on an effective "
                f"number of {number(spread, 2)} words (e to the entropy of their distribution).",
                "share": f"{100 * spread / len(words):.0f}",
            }
        )
    return cells
