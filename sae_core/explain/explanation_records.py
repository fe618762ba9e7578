"""Explanations in the file of notes, and the answers of runs that have not ended."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any, Final

from sae_core.explain.explain_prompts import PROMPT_VERSION, Messages
from sae_core.explain.explain_run import Ask, Explanation
from sae_core.notes.notes_file import NotesFile, Topic

TOPIC: Final = Topic(
    name="explanations",
    version=1,
    tables=(
        "CREATE TABLE IF NOT EXISTS explanations (sae_hash VARCHAR, feature BIGINT,"
        " model VARCHAR, prompt_version INTEGER, seed BIGINT, text VARCHAR,"
        " correlation DOUBLE, simulated INTEGER, unread_simulations INTEGER,"
        " detection DOUBLE, detection_low DOUBLE, detection_high DOUBLE,"
        " positives INTEGER, negatives INTEGER, unread_texts INTEGER, made VARCHAR)",
        "CREATE TABLE IF NOT EXISTS explanation_answers (sae_hash VARCHAR, feature BIGINT,"
        " model VARCHAR, request VARCHAR, answer VARCHAR)",
    ),
)
_COLUMNS: Final = tuple(each.name for each in fields(Explanation))
_FORGET: Final = (
    "DELETE FROM explanation_answers"
    " WHERE sae_hash = ? AND feature = ? AND model = ? AND starts_with(request, ?)"
)
_SCORES: Final = ("correlation", "detection", "detection_low", "detection_high")


class ExplanationRecords:
    """The explanations of one SAE's features."""

    def __init__(self, notes: NotesFile, sae_hash: str) -> None:
        self._notes, self._sae_hash = notes, sae_hash

    def of(self, feature: int) -> list[dict[str, Any]]:
        """A feature's explanations, the newest first, each with the time when it was `made`."""
        columns = ", ".join((*_COLUMNS, "made"))
        with self._notes.reading(TOPIC) as connection:
            rows = connection.execute(
                f"SELECT {columns} FROM explanations WHERE sae_hash = ? AND feature = ?"
                " ORDER BY made DESC",
                [self._sae_hash, feature],
            ).fetchall()
        return [_as_answered(dict(zip((*_COLUMNS, "made"), row, strict=True))) for row in rows]

    def done(self, model: str, seed: int) -> set[int]:
        """Features that this model has explained with today's prompts and this seed."""
        with self._notes.reading(TOPIC) as connection:
            rows = connection.execute(
                "SELECT feature FROM explanations WHERE sae_hash = ? AND model = ?"
                " AND prompt_version = ? AND seed = ?",
                [self._sae_hash, model, PROMPT_VERSION, seed],
            ).fetchall()
        return {feature for (feature,) in rows}

    def keep(self, explanation: Explanation) -> None:
        """Keep an explanation in place of one by the same model, prompts and seed; the answers that
        it is made of are needed no more.
        """
        values = asdict(explanation)
        same = [
            self._sae_hash,
            *(values[n] for n in ("feature", "model", "prompt_version", "seed")),
        ]
        made = datetime.now(UTC).isoformat(timespec="seconds")
        kept = [_finite_or_none(values[name]) for name in _COLUMNS]
        marks = ", ".join("?" * (len(_COLUMNS) + 2))
        columns = ", ".join(("sae_hash", *_COLUMNS, "made"))
        with self._notes.transaction(TOPIC) as connection:
            connection.execute(
                "DELETE FROM explanations WHERE sae_hash = ? AND feature = ? AND model = ?"
                " AND prompt_version = ? AND seed = ?",
                same,
            )
            connection.execute(
                f"INSERT INTO explanations ({columns}) VALUES ({marks})",
                [self._sae_hash, *kept, made],
            )
            connection.execute(_FORGET, [*same[:3], _run(values["prompt_version"], values["seed"])])

    def forget_answers(self, feature: int, model: str, seed: int = 0) -> None:
        """What a run about a feature was answered is asked for again by the next."""
        with self._notes.transaction(TOPIC) as connection:
            connection.execute(
                _FORGET, [self._sae_hash, feature, model, _run(PROMPT_VERSION, seed)]
            )

    def remembered(self, feature: int, model: str, ask: Ask, seed: int = 0) -> Ask:
        """`ask` for one feature that keeps every answer at once, and asks for none twice.

        An empty answer is not kept: whoever gives none may give one at another time.
        """
        run = _run(PROMPT_VERSION, seed)
        with self._notes.reading(TOPIC) as connection:
            rows = connection.execute(
                "SELECT request, answer FROM explanation_answers"
                " WHERE sae_hash = ? AND feature = ? AND model = ? AND starts_with(request, ?)",
                [self._sae_hash, feature, model, run],
            ).fetchall()
        answers: dict[str, str] = dict(rows)

        def asked(messages: Messages, max_tokens: int) -> str:
            request = run + _digest(messages)
            if request not in answers:
                answers[request] = ask(messages, max_tokens)
                if not answers[request].strip():
                    return answers[request]
                with self._notes.transaction(TOPIC) as connection:
                    connection.execute(
                        "INSERT INTO explanation_answers VALUES (?, ?, ?, ?, ?)",
                        [self._sae_hash, feature, model, request, answers[request]],
                    )
            return answers[request]

        return asked

    def answered(self, features: Sequence[int], model: str, seed: int = 0) -> int:
        """How many requests about these features have been answered in a run of this seed that has
        not ended.
        """
        with self._notes.reading(TOPIC) as connection:
            [(count,)] = connection.execute(
                "SELECT count(*) FROM explanation_answers"
                " WHERE sae_hash = ? AND model = ? AND list_contains(?, feature)"
                " AND starts_with(request, ?)",
                [self._sae_hash, model, list(features), _run(PROMPT_VERSION, seed)],
            ).fetchall()
        return count


def _run(prompt_version: int, seed: int) -> str:
    """What the requests of a run begin with: another version's or seed's are other ones."""
    return f"{prompt_version} {seed} "


def _digest(messages: Messages) -> str:
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_answered(row: dict[str, Any]) -> dict[str, Any]:
    """Scores that are not defined are NaN, as they are everywhere."""
    return {name: math.nan if name in _SCORES and v is None else v for name, v in row.items()}
