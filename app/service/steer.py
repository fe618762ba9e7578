"""Steering: a run as users write it, and the two continuations as they grow."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.engine.memory import refused_when_full
from app.engine.prompts import Prompt
from app.engine.workbench import Workbench
from app.requests import RequestError, SteerRequest
from app.service.edit_effects import outcome
from app.service.edit_plans import PlannedEdit, planned_edit
from app.service.token_rows import named_tokens
from sae_core.tokens import TokenStream, partial_bytes

if TYPE_CHECKING:
    from sae_core.generation_run import GeneratedToken

FRAME_SECONDS: Final = 0.05
"""Least time between two answers of a run; a token takes less, and each answer costs some."""
FEW: Final = 4
"""People who get answers that often at once. Of more, each gets as many fewer: making and sending
answers takes time from the forwards of all."""


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
    yield from stream(workbench, planned_run(workbench, request), every=FRAME_SECONDS)


def planned_run(workbench: Workbench, request: SteerRequest) -> PlannedRun:
    """A steering run, checked against the model, its SAEs and their indexes."""
    name = workbench.sae_name(request.sae)
    # What names tell is said before a model is loaded.
    for number, edit in enumerate(request.edits):
        sae = workbench.sae_name(edit.sae or name, f"edits.{number}.sae")
        workbench.feature_number(sae, edit.feature, f"edits.{number}.feature")
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
            planned_edit(
                workbench,
                written,
                number,
                name,
                last_position=length + new - 1,
                usual="continuation",
            )
            for number, written in enumerate(request.edits)
        ],
        max_new_tokens=new,
        temperature=request.temperature,
        seed=request.seed,
    )


def stream(
    workbench: Workbench, run: PlannedRun, *, every: float = 0.0
) -> Generator[dict[str, Any]]:
    """Grow the model's own continuation and the steered one side by side, beside other people's.

    There is a dict at the begin, at the end, and between them with a token, at most one in `every`
    seconds, longer where more than `FEW` people generate. Each is whole and independent of the
    others. Closing the iterator ends the generation.
    """
    engine, settings = workbench.load(), workbench.settings
    lm, prompt, edits, ids = engine.lm, run.prompt, run.edits, run.prompt.ids
    watch = list(dict.fromkeys((edit.sae, edit.feature) for edit in edits))
    columns = [watch.index((edit.sae, edit.feature)) for edit in edits]
    arms: dict[str, list[dict[str, Any]]] = {"base": [], "steered": []}
    streams = {arm: text_after(ids, lm.vocabulary) for arm in arms}
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

    with (
        refused_when_full(
            f"{len(ids):,} prompt tokens and {run.max_new_tokens:,} new ones are too many for the "
            f"memory of {engine.device}: ask for fewer, or lower max_sae_memory."
        ),
        engine.spliced(name for edit in edits for name in edit.sae_names),
    ):
        deadline = time.monotonic() + settings.max_seconds
        # Only here: pages need no PyTorch, whose import takes seconds.
        from sae_core.generation import EditRecord

        record = EditRecord()

        def snapshot(*, done: bool, note: str | None = None) -> dict[str, Any]:
            new = [token["id"] for token in arms["steered"]]
            return {
                **frame,
                **{arm: list(grown) for arm, grown in arms.items()},
                **outcome(lm, edits, record, lm.is_special([*ids, *new]), len(ids), done=done),
                "done": done,
                "note": note,
            }

        yield snapshot(done=False)
        sent = time.monotonic()
        steps = engine.generations.generate(
            ids,
            [[], [edit.edit for edit in edits]],
            watch=watch,
            eos=engine.ends,
            record=record,
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
                if time.monotonic() - sent >= every * max(1, engine.generations.people / FEW):
                    yield snapshot(done=False)
                    sent = time.monotonic()
        last = snapshot(done=True)
    yield last


def text_after(ids: Sequence[int], vocabulary: Sequence[bytes]) -> TokenStream:
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
