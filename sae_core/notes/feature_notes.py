"""What people write about one feature: a star, a verdict, a note, and labels with their sources.

Features are known by the content hash of their SAE's weights, so that what is written stays with
the weights wherever they lie and by whatever name they are served.
"""

import datetime
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final, Literal, get_args

from sae_core.notes.notes_file import Topic

Kind = Literal["yours", "imported", "explanation"]
"""Where a label comes from, what is shown first before what gives way to it."""
Verdict = Literal["", "monosemantic", "polysemantic", "unclear", "uninterpretable"]
"""How many meanings a feature has: one, several, not yet decided, none that a person can name."""
VERDICTS: Final[tuple[str, ...]] = tuple(word for word in get_args(Verdict) if word)
MOST_LABEL: Final = 200
"""Characters of a label: it stands in lists and headings."""
MOST_SOURCE: Final = 255
"""Characters of a label's source, which may be a file's name."""
MOST_NOTE: Final = 4000
MOST_NOTES: Final = 10_000
"""Features of an SAE that have a note: servers hold them all in memory."""

TOPIC: Final = Topic(
    name="features",
    version=1,
    tables=(
        "CREATE TABLE IF NOT EXISTS features (sae_hash VARCHAR, feature INTEGER, starred BOOLEAN,"
        " verdict VARCHAR, note VARCHAR, changed TIMESTAMP)",
        "CREATE TABLE IF NOT EXISTS labels (sae_hash VARCHAR, feature INTEGER, kind VARCHAR,"
        " source VARCHAR, label VARCHAR, changed TIMESTAMP)",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Label:
    """A name that somebody gave a feature."""

    text: str
    kind: Kind
    source: str
    """The file that it was imported from, or the model that explained it; "" for your own."""
    time: datetime.datetime
    """When it was written here, in UTC."""

    @property
    def source_text(self) -> str:
        """Its source in words."""
        return {
            "yours": "yours",
            "imported": f"imported from {self.source}",
            "explanation": f"explained by {self.source}",
        }[self.kind]


@dataclass(frozen=True, kw_only=True)
class FeatureNote:
    """What is kept about one feature beside its labels."""

    starred: bool = False
    verdict: Verdict = ""
    note: str = ""
    time: datetime.datetime | None = None
    """When it was last written, in UTC; None if never."""


@dataclass(frozen=True, kw_only=True)
class SAENotes:
    """All that is kept about the features of one SAE."""

    labels: Mapping[int, Label]
    """The label that is shown: yours, else the latest import, else the latest explanation."""
    all_labels: Mapping[int, tuple[Label, ...]]
    """Every label of a feature, the one that is shown first."""
    features: Mapping[int, FeatureNote]

    @cached_property
    def texts(self) -> Mapping[int, tuple[str, str]]:
        """Label and note of each feature that has one, "" for what it lacks; always the same
        object.
        """
        labels = {feature: label.text for feature, label in self.labels.items()}
        notes = {feature: note.note for feature, note in self.features.items() if note.note}
        return MappingProxyType(
            {i: (labels.get(i, ""), notes.get(i, "")) for i in {*labels, *notes}}
        )


NOTHING: Final = SAENotes(
    labels=MappingProxyType({}), all_labels=MappingProxyType({}), features=MappingProxyType({})
)
_KINDS: Final = get_args(Kind)


def sae_notes(
    labels: Mapping[int, tuple[Label, ...]], features: Mapping[int, FeatureNote]
) -> SAENotes:
    """What is kept about an SAE's features; each one's labels in the order of `ordered_labels`."""
    return SAENotes(
        labels=MappingProxyType({feature: each[0] for feature, each in labels.items()}),
        all_labels=MappingProxyType(dict(labels)),
        features=MappingProxyType(dict(features)),
    )


def ordered_labels(labels: Mapping[int, list[Label]]) -> dict[int, tuple[Label, ...]]:
    """Each feature's labels in the order in which they are preferred."""
    return {feature: tuple(sorted(each, key=_preference)) for feature, each in labels.items()}


def _preference(label: Label) -> tuple[int, float, str]:
    """Smaller is shown before larger."""
    age = -label.time.replace(tzinfo=datetime.UTC).timestamp()
    return _KINDS.index(label.kind), age, label.source


def one_line(text: str, most: int, name: str) -> str:
    """A label as it is kept: on one line, without white space around it.

    ValueError if it is longer than `most` characters, or has control characters.
    """
    line = " ".join(text.split())
    if len(line) > most:
        raise ValueError(f"{name} has {len(line)} characters but may have {most}: shorten it.")
    if any(unicodedata.category(character) == "Cc" for character in line):
        raise ValueError(f"{name} has characters that cannot be shown: remove them.")
    return whole_characters(line, name)


def whole_characters(text: str, name: str) -> str:
    """The text; ValueError if it has halves of characters (surrogates), which no file takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has halves of characters: remove them.") from error
    return text
