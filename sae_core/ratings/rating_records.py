"""Ratings in the file of notes: one of each feature by each rater under each seed, whose contexts
are other ones; the latest of several.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from sae_core.notes.notes_file import NotesFile, Topic

Verdict = Literal["NO", "MAYBE", "YES"]
VERDICTS: Final = ("NO", "MAYBE", "YES")
"""Whether one meaning accounts for the contexts, from least to most."""
GRADES: Final = (1, 2, 3)
"""For few, for most, for all of the contexts."""
LONGEST_NAME: Final = 60
"""Characters of a rater's name."""

TOPIC: Final = Topic(
    name="ratings",
    version=1,
    tables=(
        "CREATE TABLE IF NOT EXISTS meaning_ratings (sae_hash VARCHAR, feature BIGINT,"
        " rater VARCHAR, verdict VARCHAR, grade INTEGER, seed BIGINT, band VARCHAR, made VARCHAR)",
        "CREATE TABLE IF NOT EXISTS intruder_ratings (sae_hash VARCHAR, feature BIGINT,"
        " rater VARCHAR, named INTEGER, seed BIGINT, band VARCHAR, made VARCHAR)",
    ),
)


@dataclass(frozen=True, kw_only=True)
class MeaningRating:
    """What one rater says of one feature's contexts."""

    sae_hash: str
    feature: int
    rater: str
    verdict: str
    grade: int
    seed: int
    """Of the plan that it was rated by, and of the contexts."""
    band: str
    """Of its frequency."""
    made: str
    """When, in UTC."""


@dataclass(frozen=True, kw_only=True)
class IntruderRating:
    """How many of three intruders one rater named."""

    sae_hash: str
    feature: int
    rater: str
    named: int
    seed: int
    band: str
    made: str


class RatingRecords:
    """The ratings in one file, of any SAEs."""

    def __init__(self, notes: NotesFile) -> None:
        self._notes = notes

    def meanings(self) -> list[MeaningRating]:
        """All ratings of meaning, in the order in which they were made."""
        names = ("sae_hash", "feature", "rater", "verdict", "grade", "seed", "band", "made")
        return [MeaningRating(**row) for row in self._rows("meaning_ratings", names)]

    def intruders(self) -> list[IntruderRating]:
        """All intruder tests."""
        names = ("sae_hash", "feature", "rater", "named", "seed", "band", "made")
        return [IntruderRating(**row) for row in self._rows("intruder_ratings", names)]

    def _rows(self, table: str, names: tuple[str, ...]) -> list[dict]:
        with self._notes.reading(TOPIC) as connection:
            rows = connection.execute(
                f"SELECT {', '.join(names)} FROM {table} ORDER BY made, rater, feature"
            ).fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def rate_meaning(
        self,
        sae_hash: str,
        feature: int,
        rater: str,
        verdict: str,
        grade: int,
        *,
        seed: int,
        band: str,
    ) -> None:
        """Keep a rating of meaning. ValueError if it is none, or nothing can be kept."""
        if verdict not in VERDICTS or grade not in GRADES:
            raise ValueError("a rating of meaning is YES, MAYBE or NO, and a grade from 1 to 3.")
        row = [sae_hash, feature, checked_name(rater), verdict, grade, seed, band]
        self._put("meaning_ratings", row, seed)

    def rate_intruders(
        self, sae_hash: str, feature: int, rater: str, named: int, *, seed: int, band: str
    ) -> None:
        """Keep an intruder test. ValueError if nothing can be kept."""
        row = [sae_hash, feature, checked_name(rater), named, seed, band]
        self._put("intruder_ratings", row, seed)

    def _put(self, table: str, row: list, seed: int) -> None:
        """A row, but for its time, in place of the same rater's of this feature and seed."""
        row = [*row, datetime.now(UTC).isoformat(timespec="seconds")]
        with self._notes.transaction(TOPIC) as connection:
            connection.execute(
                f"DELETE FROM {table}"
                " WHERE sae_hash = ? AND feature = ? AND rater = ? AND seed = ?",
                [*row[:3], seed],
            )
            connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def checked_name(rater: str) -> str:
    """A rater's name as it is kept; ValueError if it is none."""
    name = " ".join(rater.split())
    if not name:
        raise ValueError("the rater has no name: give one, so that raters can be told apart.")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"the rater's name is longer than {LONGEST_NAME} characters: shorten it.")
    return name
