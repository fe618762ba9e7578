"""Which features to open first: a stated, deterministic rule."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sae_core.index.signature import Signature
from sae_core.index.token_words import is_whole

RULE = (
    "Features whose line lists whole words only and that fire on 0.01 % to 2 % of tokens, at "
    "least 40 % of it on telling words: whole words of three letters or more on which they fire "
    "at least eight times as often as the text has them. Ranked by how much the telling words say "
    "(the sum of share times log2 of share over base share) times how varied they are (the "
    "entropy of their shares, words with the same first three letters counted as one) times one "
    "more than the number of other whole words they make the model expect. No two list the same "
    "word or have decoders with a cosine above 0.3. Every third place goes to the sources that "
    "some features fire in far more than the text has them, in turn. Where too few features fit, "
    "others that fire follow by the same ranking."
)
META_KEY = "worth_opening"
"""Their key in the meta table of an index file, whose format keeps an older name."""
KEPT = 96
"""Features ranked."""
_TOGETHER = 128
"""Features whose signatures are made together."""
_FREQUENCY = (1e-4, 2e-2)
_SHARE = 0.4
_BEGINNING = 3
"""Letters by which words that begin alike are told: looked, looking, looks are one."""
_COSINE = 0.3


class Ranking(NamedTuple):
    """What features are ranked by, `[features]`."""

    fires: np.ndarray
    fits: np.ndarray
    score: np.ndarray
    source: list[str]
    """That of its signature."""

    @classmethod
    def cat(cls, parts: "Sequence[Ranking]") -> "Ranking":
        """All parts, in order."""
        fires, fits, score = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return cls(fires, fits, score, [source for part in parts for source in part.source])


def ranking(signatures: Sequence[Signature], frequency: np.ndarray) -> Ranking:
    """That of features with these signatures and this `frequency [features]`."""
    fits = [
        _FREQUENCY[0] <= f <= _FREQUENCY[1] and _share(s) >= _SHARE and _lists_whole_words(s)
        for f, s in zip(frequency.tolist(), signatures, strict=True)
    ]
    score = [_score(signature) for signature in signatures]
    return Ranking(
        frequency > 0,
        np.array(fits, bool),
        np.array(score, float),
        [signature.source for signature in signatures],
    )


def rank_highlights(
    of: Ranking,
    signatures: Callable[[list[int]], Sequence[Signature]],
    near: np.ndarray,
    cosine: np.ndarray,
) -> list[list[int | str]]:
    """Up to `KEPT` features to open first, the best first, each with a reason of a few words.

    `signatures` makes those of some features; `near`, `cosine [d_sae, k]` are each one's nearest by
    decoder.
    """
    order = np.lexsort((-of.score, ~of.fits))
    order = order[of.fires[order]]
    fit = _in_turn(order[of.fits[order]].tolist(), of.source)
    rest = map(int, order[~of.fits[order]])
    ordered = itertools.chain(fit, rest)
    parts = iter(lambda: list(itertools.islice(ordered, _TOGETHER)), [])
    described = (
        (i, made) for some in parts for i, made in zip(some, signatures(some), strict=True)
    )
    chosen = _distinct(described, near, cosine)
    return [[feature, _reason(made)] for feature, made in chosen.items()]


def _in_turn(ranked: Sequence[int], sources: Sequence[str]) -> list[int]:
    """Two features without a source, then one of a source, the sources taking turns."""
    general = [i for i in ranked if not sources[i]]
    by_source: dict[str, list[int]] = {}
    for i in ranked:
        if sources[i]:
            by_source.setdefault(sources[i], []).append(i)
    special = [
        members[place]
        for place in range(max(map(len, by_source.values()), default=0))
        for _, members in sorted(by_source.items())
        if place < len(members)
    ]
    ordered: list[int] = []
    for turn in range(max(-(-len(general) // 2), len(special))):
        ordered += general[2 * turn : 2 * turn + 2] + special[turn : turn + 1]
    return ordered


def _distinct(
    ordered: Iterable[tuple[int, Signature]], near: np.ndarray, cosine: np.ndarray
) -> dict[int, Signature]:
    """The first of `ordered` that are unlike all chosen before them."""
    chosen: dict[int, Signature] = {}
    close: set[int] = set()
    words: set[str] = set()
    for i, made in ordered:
        own = {word.casefold() for word in made.words}
        alike = set(near[i][cosine[i] > _COSINE].tolist())
        if i in close or own & words or alike & set(chosen):
            continue
        chosen[i] = made
        close |= alike
        words |= own
        if len(chosen) == KEPT:
            break
    return chosen


def _lists_whole_words(signature: Signature) -> bool:
    return bool(signature.words) and all(map(is_whole, signature.words))


def _share(signature: Signature) -> float:
    return min(sum(share for _, share in signature.telling), 1.0)


def _score(signature: Signature) -> float:
    by_beginning: dict[str, float] = {}
    for word, share in signature.telling:
        beginning = word[:_BEGINNING].casefold()
        by_beginning[beginning] = by_beginning.get(beginning, 0.0) + share
    total = sum(by_beginning.values())
    entropy = -sum(s / total * math.log2(s / total) for s in by_beginning.values())
    expected = sum(is_whole(word) for word in signature.expected)
    return signature.telling_bits * entropy * (1 + expected)


def _reason(signature: Signature) -> str:
    count = len(signature.telling)
    if not count:
        return "fires on many tokens"
    noun = "one word" if count == 1 else f"{count} words"
    return f"{100 * _share(signature):.0f} % of its firing is on {noun}"


def readability(context: Mapping[str, Any]) -> tuple[float, float]:
    """Prefers contexts that read as text: letters and spaces, few line breaks, a peak inside."""
    text = "".join(context["tokens"])
    plain = sum(c.isalpha() or c == " " for c in text) / max(len(text), 1)
    breaks = text.count("\n")
    inside = context["peak"] >= 4 and len(context["tokens"]) - context["peak"] > 4
    return (round(plain - 0.15 * breaks + 0.2 * inside, 2), context["value"])
