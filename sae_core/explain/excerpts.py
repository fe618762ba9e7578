"""Which of a feature's contexts an explanation is made from, and which it is judged on.

Contexts that explain never score: none of the scoring ones overlaps one of them in the corpus or
has the same text. Among those that score are texts on which the feature fires, from all strengths,
and texts on which it does not: near misses, and contexts of other features, of which the model
itself says that this one is silent there.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sae_core.index import Index

EXPLAINING: Final = 10
"""Contexts that the explanation is made from, half of them the strongest."""
SIMULATED: Final = 5
"""Contexts on which activations are simulated, of those that fire and of those that do not."""
DETECTED: Final = 10
"""Texts in which the feature is to be detected, of those that have it and of those that do not."""
FEWEST: Final = 4
"""Contexts below which a feature can be neither explained nor scored."""
_TRIES: Final = 6
"""Contexts of other features that are looked at for each one that is needed."""

Fires = Callable[[str], bool]
"""Whether the feature fires anywhere when the model reads a text."""


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """A context of the index."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    """The feature's, one a token."""
    document: int
    offset: int
    """Token of the document at which it begins."""

    @property
    def text(self) -> str:
        """The tokens as one text."""
        return "".join(self.tokens)

    def overlaps(self, other: "Excerpt") -> bool:
        """Whether both are of one place of the corpus, or read alike."""
        apart = (
            self.document != other.document
            or self.offset + len(self.tokens) <= other.offset
            or other.offset + len(other.tokens) <= self.offset
        )
        return not apart or self.text.strip() == other.text.strip()


@dataclass(frozen=True, kw_only=True)
class ExcerptChoice:
    """The contexts of one feature by what they are for."""

    feature: int
    max_act: float
    explaining: tuple[Excerpt, ...]
    positives: tuple[Excerpt, ...]
    """Held out; the feature fires in each."""
    negatives: tuple[Excerpt, ...]
    """Held out; it fires in none."""

    @property
    def simulated(self) -> tuple[Excerpt, ...]:
        """Those whose activations are simulated."""
        return self.positives[:SIMULATED] + self.negatives[:SIMULATED]

    def detected(self, seed: int) -> list[tuple[Excerpt, bool]]:
        """Those in which the feature is to be detected, with the truth, in a drawn order."""
        rows = [(each, True) for each in self.positives[:DETECTED]]
        rows += [(each, False) for each in self.negatives[:DETECTED]]
        random.Random(f"order {seed} {self.feature}").shuffle(rows)
        return rows


def choose_excerpts(index: "Index", feature: int, fires: Fires, seed: int = 0) -> ExcerptChoice:
    """The contexts of a feature, the same for the same seed.

    ValueError with one sentence if it has too few contexts to be explained and scored.
    """
    drawn = random.Random(f"excerpts {seed} {feature}")
    data = index.feature(feature)
    groups = {
        group["name"]: [_excerpt(context) for context in group["contexts"]]
        for group in data["groups"]
    }
    near = groups.pop("near_miss", [])
    firing = _distinct(_alternated(groups, drawn))
    if len(firing) < FEWEST:
        raise ValueError(
            f"feature {feature} has {len(firing)} distinct contexts in the index, too few to "
            f"explain and score it: {FEWEST} are needed."
        )
    count = min(EXPLAINING, len(firing) // 2)
    explaining, positives = firing[:count], firing[count:]
    silent = [each for each in near if not any(each.activations)]
    apart = [each for each in silent if not any(map(each.overlaps, firing))]
    held_out = _distinct(apart)[: DETECTED // 2]
    taken = [*firing, *held_out]
    for other in _of_others(index, feature, drawn):
        if len(held_out) == DETECTED:
            break
        if not any(map(other.overlaps, taken)) and not fires(other.text):
            held_out.append(other)
            taken.append(other)
    # Contexts of others first and near misses in turn, so that the first few are of both kinds.
    drawn.shuffle(held_out)
    if not held_out:
        raise ValueError(
            f"feature {feature} fires on every text that was looked at: there is none without it "
            "to score an explanation on."
        )
    return ExcerptChoice(
        feature=feature,
        max_act=float(data["max_act"]),
        explaining=tuple(explaining),
        positives=tuple(positives),
        negatives=tuple(held_out),
    )


def _excerpt(context: dict[str, Any]) -> Excerpt:
    return Excerpt(
        tokens=tuple(context["tokens"]),
        activations=tuple(context["activations"]),
        document=context["document"],
        offset=context["offset"],
    )


def _alternated(groups: dict[str, list[Excerpt]], drawn: random.Random) -> Iterator[Excerpt]:
    """One of the strongest and one of an interval in turn, so that any part has all strengths."""
    strongest = list(groups.get("top", []))
    drawn.shuffle(strongest)
    intervals = [list(each) for name, each in groups.items() if name != "top"]
    sampled = [each for row in _columns(intervals) for each in row]
    for n in range(max(len(strongest), len(sampled))):
        yield from strongest[n : n + 1]
        yield from sampled[n : n + 1]


def _columns(lists: Sequence[list[Excerpt]]) -> Iterator[list[Excerpt]]:
    """The first of each list, then the second of each, and so on."""
    for n in range(max(map(len, lists), default=0)):
        yield [each[n] for each in lists if n < len(each)]


def _distinct(excerpts: Iterator[Excerpt] | Sequence[Excerpt]) -> list[Excerpt]:
    """Those that overlap none before them."""
    kept: list[Excerpt] = []
    for each in excerpts:
        if not any(map(each.overlaps, kept)):
            kept.append(each)
    return kept


def _of_others(index: "Index", feature: int, drawn: random.Random) -> Iterator[Excerpt]:
    """Contexts of other features that fire, one of each, as texts on which this one is silent."""
    live = [i for i, share in enumerate(index.frequencies()) if share > 0 and i != feature]
    for other in drawn.sample(live, min(len(live), DETECTED * _TRIES)):
        contexts = [each for group in index.feature(other)["groups"] for each in group["contexts"]]
        if contexts:
            excerpt = _excerpt(drawn.choice(contexts))
            yield Excerpt(
                tokens=excerpt.tokens,
                activations=(0.0,) * len(excerpt.tokens),
                document=excerpt.document,
                offset=excerpt.offset,
            )
