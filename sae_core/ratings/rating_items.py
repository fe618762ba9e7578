"""What a rater sees of a feature: contexts without anything that names it.

Activations are shares of the feature's largest, because their scale would tell one SAE from
another; neither titles nor values are shown.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from sae_core.index import Index

STRONGEST: Final = 5
"""Contexts of a feature's strongest that are shown for its meaning, beside one of each interval."""
OWN: Final = 9
"""Contexts of the feature itself in an intruder test."""
INTRUDERS: Final = 3
"""Contexts of other features in it, one of each of the nearest by decoder cosine."""
_LOOKED_AT: Final = 8
"""Features that say whether an index has contexts enough."""


@dataclass(frozen=True, kw_only=True)
class RatingContext:
    """A context as raters see it."""

    tokens: tuple[str, ...]
    partial: tuple[str, ...]
    """Bytes of tokens that show no character."""
    shares: tuple[float, ...]
    """Activations over the feature's largest, one a token."""
    peak: int
    document: int
    """Where it is of, with the token at which it begins: by these passages are told apart, and
    raters see neither."""
    offset: int
    is_intruder: bool = False

    def overlaps(self, other: "RatingContext") -> bool:
        """Whether both show some of one passage, or read alike."""
        apart = (
            self.document != other.document
            or self.offset + len(self.tokens) <= other.offset
            or other.offset + len(other.tokens) <= self.offset
        )
        return not apart or self.tokens == other.tokens


def meaning_contexts(index: "Index", feature: int, seed: int = 0) -> list[RatingContext]:
    """Contexts of all strengths in a drawn order, the same for the same seed."""
    drawn = random.Random(f"meaning {seed} {feature}")
    data = index.feature(feature)
    groups = {group["name"]: list(group["contexts"]) for group in data["groups"]}
    groups.pop("near_miss", None)
    chosen = drawn.sample(top := groups.pop("top", []), min(STRONGEST, len(top)))
    chosen += [drawn.choice(contexts) for contexts in groups.values() if contexts]
    contexts = _distinct([_seen(context, data["max_act"]) for context in chosen])
    drawn.shuffle(contexts)
    return contexts


def intruder_contexts(index: "Index", feature: int, seed: int = 0) -> list[RatingContext] | None:
    """Nine contexts of a feature and three of its nearest neighbours, in a drawn order; None where
    there are too few.
    """
    drawn = random.Random(f"intruders {seed} {feature}")
    data = index.feature(feature)
    own = _distinct(_strongest(data))
    if len(own) < OWN:
        return None
    others: list[RatingContext] = []
    for row in data["neighbours"]:
        if len(others) == INTRUDERS:
            break
        near = _distinct(_strongest(index.feature(row["feature"]), is_intruder=True))
        taken = (*own, *others)
        if fitting := [each for each in near if not any(map(each.overlaps, taken))]:
            others.append(drawn.choice(fitting))
    if len(others) < INTRUDERS:
        return None
    contexts = [*drawn.sample(own, OWN), *others]
    drawn.shuffle(contexts)
    return contexts


def has_intruder_tests(index: "Index") -> bool:
    """Whether any feature may have one: those that fire most have as many contexts as any."""
    if index.meta["listed_neighbours"] < INTRUDERS:
        return False
    most = np.argsort(-index.frequencies(), kind="stable")[:_LOOKED_AT]
    return any(len(_distinct(_strongest(index.feature(int(each))))) >= OWN for each in most)


def _strongest(data: dict[str, Any], is_intruder: bool = False) -> list[RatingContext]:
    """The contexts of the group of the strongest."""
    rows = next((group["contexts"] for group in data["groups"] if group["name"] == "top"), [])
    return [_seen(context, data["max_act"], is_intruder) for context in rows]


def _seen(context: dict[str, Any], max_act: float, is_intruder: bool = False) -> RatingContext:
    return RatingContext(
        tokens=tuple(context["tokens"]),
        partial=tuple(context["bytes"]),
        shares=tuple(value / max_act for value in context["activations"]),
        peak=context["peak"],
        document=context["document"],
        offset=context["offset"],
        is_intruder=is_intruder,
    )


def _distinct(contexts: list[RatingContext]) -> list[RatingContext]:
    """Those that overlap none before them."""
    kept: list[RatingContext] = []
    for each in contexts:
        if not any(map(each.overlaps, kept)):
            kept.append(each)
    return kept
