"""Steering: edits as users write them, and the two continuations as they grow.

A strength is in multiples of the feature's largest activation in its index ("x max"); a value is in
the activation's own units, the only choice where there is no index. For mode `scale` both are a
factor.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.engine.memory import refused_when_full
from app.engine.prompts import Prompt
from app.engine.workbench import Workbench
from app.requests import EditRequest, RequestError, SteerRequest
from app.service.token_rows import named_tokens
from app.settings import Settings
from sae_core.tokens import TokenStream, partial_bytes

if TYPE_CHECKING:
    from sae_core.edits import Edit
    from sae_core.generation import GeneratedToken

FRAME_SECONDS: Final = 0.05
"""Least time between two answers of a run; a token takes less, and each answer costs some."""

_KEYS = ("feature", "mode", "strength", "value", "positions", "sae")


@dataclass(frozen=True, kw_only=True)
class PlannedEdit:
    """An edit as written, and what it comes to."""

    sae: str
    feature: int
    mode: str
    strength: float | None
    """Multiples of `max_act`; a factor for scale; None if the edit was written with a value."""
    value: float
    """In the activation's own units; a factor for scale; 0 for ablate."""
    positions: str | list[int]
    max_act: float | None
    """The feature's largest activation in its index; None without one."""
    signature: str

    @property
    def edit(self) -> "Edit":
        """The edit in the activation's own units."""
        from sae_core.edits import Edit

        where = self.positions if isinstance(self.positions, str) else tuple(self.positions)
        return Edit(
            feature=self.feature,
            mode=self.mode,  # pyright: ignore[reportArgumentType] - a request's mode is one
            value=self.value,
            positions=where,  # pyright: ignore[reportArgumentType]
            sae=self.sae,
        )

    def as_written(self) -> dict[str, Any]:
        """The edit as a user would write it, every default spelt out."""
        left_out = "value" if self.strength is not None else "strength"
        return {key: getattr(self, key) for key in _KEYS if key != left_out}

    def as_answered(self) -> dict[str, Any]:
        """The edit with its value in the activation's own units, and what it was computed from."""
        return {
            **self.as_written(),
            "value": self.value,
            "max_act": self.max_act,
            "signature": self.signature,
        }


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A steering run, checked."""

    sae: str
    """SAE of the edits that name none."""
    prompt: Prompt
    edits: Sequence[PlannedEdit]
    max_new_tokens: int
    temperature: float
    seed: int

    @property
    def sampling(self) -> dict[str, Any]:
        """How tokens are drawn, as `generate` takes it."""
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }


def steer(workbench: Workbench, request: SteerRequest) -> Iterator[dict[str, Any]]:
    """Continue a prompt as it is and with features edited, same seed and sampler.

    Answers are those of docs/steering.md, each whole and longer than the one before, at most one in
    `FRAME_SECONDS` but for the last. Mistakes raise before the first; closing the iterator ends the
    generation within a token.
    """
    sent = 0.0
    with closing(stream(workbench, planned_run(workbench, request))) as growing:
        for answer in growing:
            if answer["done"] or time.monotonic() - sent >= FRAME_SECONDS:
                sent = time.monotonic()
                yield answer


def planned_run(workbench: Workbench, request: SteerRequest) -> PlannedRun:
    """A steering run, checked against the model, its SAEs and their indexes."""
    name = workbench.sae_name(request.sae)
    engine = workbench.load()
    given = engine.prompt(request.prompt, request.messages, field="prompt")
    if not given.is_open:
        raise RequestError("The last message must be the user's: the model answers it.", "messages")
    length, new = len(given.ids), request.max_new_tokens
    if length + new > engine.context:
        raise RequestError(
            f"{length:,} prompt tokens and {new:,} new ones exceed the model's context of "
            f"{engine.context:,} tokens: shorten one of them.",
            "max_new_tokens",
        )
    return PlannedRun(
        sae=name,
        prompt=given,
        edits=[
            planned_edit(workbench, written, number, name, last_position=length + new - 1)
            for number, written in enumerate(request.edits)
        ],
        max_new_tokens=new,
        temperature=request.temperature,
        seed=request.seed,
    )


def planned_edit(
    workbench: Workbench, written: EditRequest, number: int, sae: str, *, last_position: int
) -> PlannedEdit:
    """The edit of that number, counted from 0."""
    field = f"edits.{number}"
    name = workbench.sae_name(written.sae or sae, f"{field}.sae")
    feature = workbench.feature_number(name, written.feature, f"{field}.feature")
    summary = workbench.sources.features(name).summaries([feature])[feature]
    strength, value = _amount(written, number, summary, workbench.settings)
    return PlannedEdit(
        sae=name,
        feature=feature,
        mode=written.mode,
        strength=strength,
        value=value,
        positions=_positions(written, number, last_position),
        max_act=summary["max_act"],
        signature=str(summary["signature"]),
    )


def _amount(
    written: EditRequest, number: int, summary: Mapping[str, Any], settings: Settings
) -> tuple[float | None, float]:
    """Strength, None if the edit gives a value, and the value in the activation's own units."""
    if written.mode == "ablate":
        return 0.0, 0.0
    if written.value is not None:
        most = settings.max_strength
        if written.mode == "scale" and abs(written.value) > most:
            raise RequestError(
                f"The factor of edit {number + 1} must be a number from {-most:,g} to {most:,g}.",
                f"edits.{number}.value",
            )
        return None, written.value
    strength = 1.0 if written.strength is None else written.strength
    if written.mode == "scale":
        return strength, strength
    largest = summary["max_act"]
    if largest is None:
        raise RequestError(
            f"Edit {number + 1} needs a value in the activation's own units: without an index no "
            "largest activation is known to measure a strength in.",
            f"edits.{number}.strength",
        )
    if not largest > 0:
        raise RequestError(
            f"Feature {summary['feature']} never fired in the index, so there is no largest "
            "activation to measure a strength in: give a value, or choose another feature.",
            f"edits.{number}.strength",
        )
    return strength, strength * float(largest)


def _positions(written: EditRequest, number: int, last: int) -> str | list[int]:
    if isinstance(written.positions, str):
        return written.positions
    field = f"edits.{number}.positions"
    if not written.positions:
        raise RequestError(f"Edit {number + 1} names no token: give their numbers, from 0.", field)
    outside = [each for each in written.positions if not 0 <= each <= last]
    if outside:
        raise RequestError(
            f"Edit {number + 1} names token {outside[0]:,}, but this run has tokens 0 to {last:,}.",
            field,
        )
    return sorted(set(written.positions))


def stream(workbench: Workbench, run: PlannedRun) -> Generator[dict[str, Any]]:
    """Grow the model's own continuation and the steered one side by side, a dict every token.

    Each dict is whole and independent of the others. Closing the iterator ends the generation.
    """
    engine, settings = workbench.load(), workbench.settings
    lm, prompt, edits, ids = engine.lm, run.prompt, run.edits, run.prompt.ids
    watch = list(dict.fromkeys((edit.sae, edit.feature) for edit in edits))
    columns = [watch.index((edit.sae, edit.feature)) for edit in edits]
    arms: dict[str, list[dict[str, Any]]] = {"base": [], "steered": []}
    streams = {arm: _after(ids, lm.vocabulary) for arm in arms}
    frame = {
        "sae": run.sae,
        **prompt.as_answered("prompt"),
        "prompt_tokens": prompt.marked(named_tokens(ids, lm.is_special(ids), lm.vocabulary)),
        "edits": [edit.as_answered() for edit in edits],
        "settings": {
            "sae": run.sae,
            **prompt.as_written("prompt"),
            "edits": [edit.as_written() for edit in edits],
            **run.sampling,
        },
    }

    def snapshot(*, done: bool, note: str | None = None) -> dict[str, Any]:
        return {
            **frame,
            **{arm: list(grown) for arm, grown in arms.items()},
            "done": done,
            "note": note,
        }

    with (
        refused_when_full(
            f"{len(ids):,} prompt tokens and {run.max_new_tokens:,} new ones are too many for the "
            f"memory of {engine.device}: ask for fewer, or lower max_sae_memory."
        ),
        engine.spliced(edit.sae for edit in edits),
    ):
        deadline = time.monotonic() + settings.max_seconds
        yield snapshot(done=False)
        # Only here: pages need no PyTorch, whose import takes seconds.
        from sae_core.generation import generate

        steps = generate(
            lm,
            ids,
            [[], [edit.edit for edit in edits]],
            watch=watch,
            eos=engine.ends,
            **run.sampling,
        )
        with closing(steps):
            for step in steps:
                for (arm, grown), token in zip(arms.items(), step.tokens, strict=True):
                    if token is not None:
                        grown.append(
                            _row(token, len(ids) + len(grown), streams[arm], columns, lm.vocabulary)
                        )
                if time.monotonic() > deadline:
                    yield snapshot(
                        done=True,
                        note=f"Stopped after {settings.max_seconds:g} seconds, the limit of one "
                        "run.",
                    )
                    return
                yield snapshot(done=False)
    yield snapshot(done=True)


def _after(ids: Sequence[int], vocabulary: Sequence[bytes]) -> TokenStream:
    """A text stream that goes on where the prompt ends, maybe inside a character."""
    stream = TokenStream(vocabulary)
    for token in ids:
        stream.push(token)
    return stream


def _row(
    token: "GeneratedToken",
    position: int,
    stream: TokenStream,
    columns: Sequence[int],
    vocabulary: Sequence[bytes],
) -> dict[str, Any]:
    """A generated token; own and after are aligned with the edits, `bytes` as in `named_tokens`."""
    text = stream.push(token.id)
    [partial] = partial_bytes([token.id], [text], vocabulary)
    return {
        "i": position,
        "id": token.id,
        "text": text,
        **({"bytes": partial} if partial else {}),
        # Adding 0 turns the -0.0 of a screened-out negative into 0.0.
        "own": [token.own[c] + 0.0 for c in columns],
        "after": [token.after[c] + 0.0 for c in columns],
    }
