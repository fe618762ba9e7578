"""Continuations at several strengths of one edit, and which of them are usable."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from app.engine.memory import refused_when_full
from app.engine.workbench import Workbench
from app.requests import LadderRequest, RequestError
from app.requests.models import LARGEST_SEED
from app.service.edit_effects import why_untouched
from app.service.edit_plans import PlannedEdit
from app.service.steer import FRAME_SECONDS, PlannedRun, planned_run, text_after
from app.service.token_rows import finite, named_tokens
from app.settings import Settings
from sae_core.number_text import number

if TYPE_CHECKING:
    from sae_core.ladder import Band, Ladder, Rung

NUMBERS_EVERY: Final = 0.5
"""Seconds at least from one measurement of texts that still grow to the next."""
NUMBERS_SHARE: Final = 0.2
"""Part of a ladder's time that such measurements take at most, by what the last one took."""

DEFINITIONS: Final = {
    "fires": "Share of the new tokens on which the feature fires when the model reads the text "
    "without any edit: whether the text came to be about it.",
    "nll": "Mean negative log-likelihood of the new tokens under the model without edits, nats per "
    "token.",
    "distinct": "Of the new tokens, the share of different ones, text by text: a text that repeats "
    "itself has few.",
    "size": "How far the edits moved the activation: norm of the change over norm of the "
    "activation, the mean over the tokens that they changed.",
}


@dataclass(frozen=True, kw_only=True)
class PlannedLadder:
    """A ladder, checked."""

    run: PlannedRun
    """With the edit as it was written."""
    edit: int
    """The one that is varied."""
    unit: float
    """What strength 1 is, in the activation's own units."""
    strengths: Sequence[float]
    seeds: Sequence[int]
    margin: float

    @property
    def varied(self) -> PlannedEdit:
        """The edit that is varied."""
        return self.run.edits[self.edit]

    @property
    def rungs(self) -> list[list[PlannedEdit]]:
        """The run's edits at each strength."""
        return [
            [
                replace(each, value=strength * self.unit) if k == self.edit else each
                for k, each in enumerate(self.run.edits)
            ]
            for strength in self.strengths
        ]


def ladder(workbench: Workbench, request: LadderRequest) -> Iterator[dict[str, Any]]:
    """Continue a prompt at several strengths of one edit, and say which of them are usable.

    All texts grow side by side, from the same seeds, beside some without edits. Now and then the
    rows get the numbers of what there is so far; with the last answer come those of the whole texts
    and which strengths are usable. Docs/steering.md says what they mean. Mistakes raise before the
    first answer; closing the iterator ends the work within a token.
    """
    sent = 0.0
    with closing(stream(workbench, planned_ladder(workbench, request))) as growing:
        for answer in growing:
            if answer["done"] or time.monotonic() - sent >= FRAME_SECONDS:
                sent = time.monotonic()
                yield answer


def planned_ladder(workbench: Workbench, request: LadderRequest) -> PlannedLadder:
    """A ladder, checked against the model, its SAEs and their indexes."""
    run = planned_run(workbench, request)
    if request.edit >= len(run.edits):
        raise RequestError(
            f"Varied edit must be one of the {len(run.edits)}, counted from 0, not {request.edit}.",
            "edit",
        )
    varied = run.edits[request.edit]
    if varied.mode not in ("set", "add"):
        raise RequestError(
            f"Edit {request.edit + 1} is to {varied.mode}: only the strength of set and add can be "
            "looked for.",
            f"edits.{request.edit}.mode",
        )
    unit = varied.max_act or varied.value
    if not unit:
        raise RequestError(
            f"Edit {request.edit + 1} has the value 0, of which every multiple is 0.",
            f"edits.{request.edit}.value",
        )
    last = request.seed + request.seeds - 1
    if last > LARGEST_SEED:
        raise RequestError(
            f"Seed must leave room for {request.seeds} that follow one another: use at most "
            f"{LARGEST_SEED - request.seeds + 1:,}.",
            "seed",
        )
    return PlannedLadder(
        run=run,
        edit=request.edit,
        unit=float(unit),
        strengths=_strengths(request.strengths, workbench.settings),
        seeds=range(request.seed, last + 1),
        margin=request.margin,
    )


def _strengths(given: Sequence[float] | None, settings: Settings) -> list[float]:
    """In their order from the lowest, each once."""
    from sae_core.ladder import STRENGTHS

    most = settings.max_strength
    if not given:
        return sorted({min(each, most) for each in STRENGTHS})
    if not all(-most <= each <= most for each in given):
        raise RequestError(f"Strengths must be numbers from {-most:,g} to {most:,g}.", "strengths")
    return sorted(set(given))


def stream(workbench: Workbench, planned: PlannedLadder) -> Generator[dict[str, Any]]:
    """All rows as they grow, a dict every token, each whole and independent of the others."""
    engine, run = workbench.load(), planned.run
    lm, prompt, ids = engine.lm, run.prompt, run.prompt.ids
    texts = (1 + len(planned.strengths)) * len(planned.seeds)
    frame = {
        "sae": run.sae,
        **prompt.as_answered("prompt"),
        "prompt_tokens": prompt.marked(named_tokens(ids, lm.is_special(ids), lm.vocabulary)),
        "edits": [edit.as_answered() for edit in run.edits],
        "unit": {"of": "max_act" if planned.varied.max_act else "value", "value": planned.unit},
        "settings": {
            "sae": run.sae,
            **prompt.as_written("prompt"),
            "edits": [edit.as_written() for edit in run.edits],
            **run.sampling,
            "edit": planned.edit,
            "strengths": list(planned.strengths),
            "seeds": len(planned.seeds),
            "margin": planned.margin,
        },
        "definitions": DEFINITIONS,
        "band": None,
        "sentence": None,
        "done": False,
        "note": None,
    }
    with (
        refused_when_full(
            f"{texts} texts of {len(ids):,} prompt tokens and "
            f"{run.max_new_tokens:,} new ones are too many for the memory of {engine.device}: ask "
            "for fewer strengths, seeds or tokens."
        ),
        engine.spliced(name for edit in run.edits for name in edit.sae_names),
    ):
        from sae_core.ladder import Ladder

        climbed = Ladder(
            lm,
            ids,
            [[each.edit for each in rung] for rung in planned.rungs],
            (planned.varied.sae, planned.varied.feature),
            seeds=list(planned.seeds),
            max_new_tokens=run.max_new_tokens,
            temperature=run.temperature,
            eos=engine.ends,
        )
        deadline = time.monotonic() + workbench.settings.max_seconds
        note = None
        rows = _Rows(climbed, planned, ids, lm.vocabulary)
        sampled = _Sampled(climbed)
        yield {**frame, "rows": rows.so_far()}
        with closing(climbed.grow()) as steps:
            for _ in steps:
                yield {**frame, "rows": sampled.beside(rows.so_far())}
                if time.monotonic() > deadline:
                    note = (
                        f"Stopped after {workbench.settings.max_seconds:g} seconds, the limit of "
                        "one run."
                    )
                    break
        applied, changed = climbed.touched(planned.edit)
        why = None
        if not changed:
            special = lm.is_special([*ids, *climbed.texts[-1][0]])
            reason = why_untouched(planned.varied, applied, special, len(ids))
            why = f"edit {planned.edit + 1} changed no token at any of them: {reason}"
        measured = _measured(rows.so_far(), climbed.rungs(), planned, why)
        last = {**frame, **measured, "note": note}
    yield last


class _Rows:
    """The rows of a ladder's answers; the first is without edits."""

    def __init__(
        self,
        climbed: "Ladder",
        planned: PlannedLadder,
        ids: Sequence[int],
        vocabulary: Sequence[bytes],
    ) -> None:
        self._climbed = climbed
        self._strengths = [None, *planned.strengths]
        self._unit = planned.unit
        self._streams = [[text_after(ids, vocabulary) for _ in texts] for texts in climbed.texts]
        self._texts = [["" for _ in texts] for texts in climbed.texts]
        self._read = [[0 for _ in texts] for texts in climbed.texts]

    def so_far(self) -> list[dict[str, Any]]:
        """Their texts, without numbers."""
        for r, texts in enumerate(self._climbed.texts):
            for k, text in enumerate(texts):
                for token in text[self._read[r][k] :]:
                    self._texts[r][k] += self._streams[r][k].push(token)
                self._read[r][k] = len(text)
        return [
            {
                "strength": strength,
                "value": None if strength is None else strength * self._unit,
                "texts": list(texts),
            }
            for strength, texts in zip(self._strengths, self._texts, strict=True)
        ]


class _Sampled:
    """The numbers of texts that still grow, measured anew when that has become worth its time."""

    def __init__(self, climbed: "Ladder") -> None:
        self._climbed = climbed
        self._numbers: list[dict[str, Any]] = []
        self._next = time.monotonic() + NUMBERS_EVERY

    def beside(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows with the latest numbers, whose `tokens` say how far the texts had come."""
        begun = time.monotonic()
        if begun >= self._next:
            self._numbers = [_numbers(rung) for rung in self._climbed.rungs()]
            ended = time.monotonic()
            pause = (ended - begun) * (1 - NUMBERS_SHARE) / NUMBERS_SHARE
            self._next = ended + max(NUMBERS_EVERY, pause)
        if not self._numbers:
            return rows
        return [row | numbers for row, numbers in zip(rows, self._numbers, strict=True)]


def _numbers(rung: "Rung") -> dict[str, Any]:
    return {
        "tokens": rung.tokens,
        "fires": finite(rung.fires),
        "nll": finite(rung.nll),
        "distinct": finite(rung.distinct),
        "size": finite(rung.size),
    }


def _measured(
    rows: list[dict[str, Any]],
    rungs: Sequence["Rung"],
    planned: PlannedLadder,
    untouched: str | None,
) -> dict[str, Any]:
    """The rows with their numbers, and the band; `untouched` says why no token was changed."""
    from sae_core.ladder import band, usable

    for row, rung in zip(rows, rungs, strict=True):
        row |= _numbers(rung)
        row["usable"] = rung is not rungs[0] and usable(rung, rungs[0], margin=planned.margin)
    result = band(rungs, margin=planned.margin)
    usable_ones = None
    if result is not None:
        inside = rows[result.low : result.high + 1]
        usable_ones = {
            "low": inside[0]["strength"],
            "high": inside[-1]["strength"],
            "best": rows[result.best]["strength"],
            "size": max(row["size"] or 0.0 for row in inside),
        }
    return {
        "rows": rows,
        "band": usable_ones,
        "sentence": f"No strength is usable: {untouched}."
        if untouched
        else _sentence(rungs, result, planned),
        "done": True,
    }


def _sentence(rungs: Sequence["Rung"], result: "Band | None", planned: PlannedLadder) -> str:
    """What the ladder came to."""
    from sae_core.ladder import MORE_FIRES, repeats, taken_up

    plain, name = rungs[0], f"#{planned.varied.feature}"
    times = "× max" if planned.varied.max_act else "times its value"
    more = f"{100 * MORE_FIRES:g} % of the new tokens"
    if result is not None:
        low, high = (planned.strengths[each - 1] for each in (result.low, result.high))
        span = f"At {low:g}" if low == high else f"From {low:g} to {high:g}"
        return (
            f"{span} {times} {name} fires on at least {more} more than without edits, and the text "
            f"loses {planned.margin:g} nat{'' if planned.margin == 1 else 's'} of likelihood a "
            "token at most without repeating itself."
        )
    firing = [rung for rung in rungs[1:] if taken_up(rung, plain)]
    if not firing:
        return (
            f"No strength is usable: at none of them {name} fires on at least {more} more than "
            "without edits."
        )
    varied = [rung.nll - plain.nll for rung in firing if not repeats(rung, plain)]
    if not varied:
        return f"No strength is usable: wherever {name} fires, the text repeats itself."
    return (
        f"No strength is usable: wherever {name} fires, the text loses {number(min(varied))} nats "
        "of likelihood a token or more, or repeats itself."
    )
