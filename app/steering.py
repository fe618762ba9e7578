"""Steering: edits as users write them, and the two continuations as they grow.

A user's edit is a dict `{"feature", "mode", "strength" or "value", "positions", "sae"}`. A strength
is in multiples of the feature's largest activation in its index ("x max"); a value is in the
activation's own units, the only choice where there is no index. For mode `scale` both are a factor.
"""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, get_args

from app import checks
from app.engine import Engine
from app.memory import refused_when_full
from app.prompts import Prompt
from app.settings import Settings
from sae_core.edits import MODES, Edit, Where
from sae_core.generation import GeneratedToken
from sae_core.tokens import TokenStream, token_texts

_POSITIONS: tuple[str, ...] = get_args(Where)
_KEYS = ("feature", "mode", "strength", "value", "positions", "sae")
# Answers carry these beside an edit, and a value beside a strength. Sent back they are computed
# anew: where a strength is given, the value is what that comes to.
_ANSWERED = ("max_act", "signature")
_NO_STRENGTH = "ablate"


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
    def edit(self) -> Edit:
        """The edit in the activation's own units."""
        where = self.positions if isinstance(self.positions, str) else tuple(self.positions)
        return Edit(
            feature=self.feature,
            mode=self.mode,  # pyright: ignore[reportArgumentType] - checked in `planned`
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


def planned(
    written: object,
    *,
    number: int,
    sae: str,
    summary: Mapping[str, Any],
    settings: Settings,
    last_position: int,
) -> PlannedEdit:
    """One edit, checked; `number` (from 1) names it in errors, `summary` is its feature's.

    The summary's `max_act` is None where the SAE has no index.
    """
    assert isinstance(written, Mapping)
    name = f"Edit {number}"
    if unknown := set(written) - {*_KEYS, *_ANSWERED}:
        raise ValueError(
            f"{name} has the unknown entry {checks.shown(sorted(map(str, unknown))[0])}: "
            f"use {', '.join(_KEYS)}."
        )
    mode = checks.choice(written.get("mode", "set"), f"The mode of edit {number}", MODES)
    strength, value = _amount(written, number, mode, summary, settings)
    return PlannedEdit(
        sae=sae,
        feature=int(summary["feature"]),
        mode=mode,
        strength=strength,
        value=value,
        positions=_positions(written.get("positions", "all"), number, last_position),
        max_act=summary["max_act"],
        signature=str(summary["signature"]),
    )


def _amount(
    written: Mapping[Any, Any],
    number: int,
    mode: str,
    summary: Mapping[str, Any],
    settings: Settings,
) -> tuple[float | None, float]:
    """Strength, None if the edit gives a value, and the value in the activation's own units."""
    if mode == _NO_STRENGTH:
        return 0.0, 0.0
    is_factor = mode == "scale"
    if "value" in written and "strength" not in written:
        most = settings.max_strength if is_factor else settings.max_value
        return None, checks.number(written["value"], f"The value of edit {number}", -most, most)
    most = settings.max_strength
    strength = checks.number(
        written.get("strength", 1.0), f"The strength of edit {number}", -most, most
    )
    if is_factor:
        return strength, strength
    feature, largest = summary["feature"], summary["max_act"]
    if largest is None:
        raise ValueError(
            f"Edit {number} needs a value in the activation's own units: without an index no "
            "largest activation is known to measure a strength in."
        )
    if not largest > 0:
        raise ValueError(
            f"Feature {feature} never fired in the index, so there is no largest activation to "
            "measure a strength in: give a value, or choose another feature."
        )
    return strength, strength * float(largest)


def _positions(written: object, number: int, last: int) -> str | list[int]:
    name = f"The positions of edit {number}"
    if isinstance(written, str):
        return checks.choice(written, name, _POSITIONS)
    if not isinstance(written, Sequence) or not written:
        raise ValueError(
            f"{name} must be {', '.join(_POSITIONS)} or a list of token numbers, "
            f"not {checks.shown(written)}."
        )
    return sorted(
        {checks.whole(p, f"Each of the positions of edit {number}", 0, last) for p in written}
    )


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


def stream(engine: Engine, settings: Settings, run: PlannedRun) -> Generator[dict[str, Any]]:
    """Grow the model's own continuation and the steered one side by side, a dict every token.

    Each dict is whole and independent of the others. Closing the iterator ends the generation.
    """
    lm, prompt, edits, ids = engine.lm, run.prompt, run.edits, run.prompt.ids
    watch = list(dict.fromkeys((edit.sae, edit.feature) for edit in edits))
    columns = [watch.index((edit.sae, edit.feature)) for edit in edits]
    arms: dict[str, list[dict[str, Any]]] = {"base": [], "steered": []}
    streams = {arm: _after(ids, lm.vocabulary) for arm in arms}
    frame = {
        "sae": run.sae,
        **prompt.as_answered("prompt"),
        "prompt_tokens": prompt.marked(
            [
                {"i": i, "id": token, "text": text, "special": special}
                for i, (token, text, special) in enumerate(
                    zip(ids, token_texts(ids, lm.vocabulary), lm.is_special(ids), strict=True)
                )
            ]
        ),
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
        steps = lm.generate(
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
                        grown.append(_row(token, len(ids) + len(grown), streams[arm], columns))
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
    token: GeneratedToken, position: int, stream: TokenStream, columns: Sequence[int]
) -> dict[str, Any]:
    """A generated token; own and after are aligned with the edits."""
    return {
        "i": position,
        "id": token.id,
        "text": stream.push(token.id),
        # Adding 0 turns the -0.0 of a screened-out negative into 0.0.
        "own": [token.own[c] + 0.0 for c in columns],
        "after": [token.after[c] + 0.0 for c in columns],
    }
