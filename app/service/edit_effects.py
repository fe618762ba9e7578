"""What edits came to in a run: how many tokens they touched, and how far they moved the model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from app.service.edit_plans import PlannedEdit
from app.service.token_rows import finite
from sae_core.number_text import number

if TYPE_CHECKING:
    from sae_core.edits import EditSize
    from sae_core.generation import EditRecord
    from sae_core.splice import SplicedLM

LARGE: Final = 0.5
"""Norm of the change over norm of the activation, in the residual stream, beyond which texts
usually fall apart; measured on the demo, in docs/steering.md. Elsewhere the change is added to a
stream that is larger than what is edited, and the ratio says little."""
RESIDUAL: Final = ("resid_pre", "resid_post")
ROUGH: Final = 0.01
"""Share of the asked change by which the realised one may differ from it before it is said."""


def outcome(
    lm: "SplicedLM",
    edits: Sequence[PlannedEdit],
    record: "EditRecord",
    special: Sequence[bool],
    prompt_length: int,
    *,
    done: bool,
) -> dict[str, Any]:
    """What the edits of a run's last arm did so far, as its answer has it: `edited`, `sizes` and
    `warnings`. `special` is of all tokens of that arm's text.
    """
    from sae_core.edits import EditedTokens

    # Before the first forward nothing is recorded.
    nothing = [EditedTokens(applied=0, changed=0) for _ in edits]
    [counts] = record.touched()[-1:] or [nothing]
    [sizes] = record.sizes()[-1:] or [{}]
    return {
        "edited": [
            {
                "applied": count.applied,
                "changed": count.changed,
                "sentence": None
                if count.changed or not done
                else f"Edit {k} changed no token: "
                f"{why_untouched(edit, count.applied, special, prompt_length)}.",
            }
            for k, (edit, count) in enumerate(zip(edits, counts, strict=True), start=1)
        ],
        "sizes": [
            {
                "sae": name,
                "tokens": size.tokens,
                "asked": finite(size.asked),
                "realised": finite(size.realised),
                "deviation": finite(size.deviation),
            }
            for name, size in sizes.items()
        ],
        "warnings": _warnings(lm, sizes) if done else [],
    }


def why_untouched(
    plan: PlannedEdit, applied: int, special: Sequence[bool], prompt_length: int
) -> str:
    """Why an edit changed nothing, as the end of a sentence."""
    due = [t for t, is_due in enumerate(plan.edit.where(0, len(special), prompt_length)) if is_due]
    if not due:
        return "the text ended before the first that it names"
    if all(special[t] for t in due):
        names = "token" if len(due) == 1 else "tokens"
        listed = ", ".join(map(str, due[:5])) + (", …" if len(due) > 5 else "")
        special_ones = "is special" if len(due) == 1 else "are special"
        return f"{names} {listed} {special_ones}, and special tokens keep their activation"
    if not applied:
        above = f" above {plan.condition_above:g}" if plan.condition_above else ""
        return f"#{plan.condition_feature}, its condition, fires{above} on none of those it names"
    if plan.mode in ("ablate", "scale"):
        return f"#{plan.feature} is off on all {applied} that it applies to"
    if plan.mode == "cap":
        return f"#{plan.feature} stays below the cap on all {applied} that it applies to"
    return f"#{plan.feature} has that activation already on all {applied} that it applies to"


def _warnings(lm: "SplicedLM", sizes: Mapping[str, "EditSize"]) -> list[dict[str, str]]:
    """What to beware of, each a sentence and what it is about: `size` or `dtype`."""
    said = []
    moved = {name: size for name, size in sizes.items() if size.tokens}
    stream = [size.asked for name, size in moved.items() if lm.site(name).kind in RESIDUAL]
    largest = max(stream, default=0.0)
    if largest > LARGE:
        said.append(
            {
                "about": "size",
                "sentence": f"The edits together are {number(largest)} times as large as the "
                f"activation that they change: beyond {LARGE} text usually falls apart.",
            }
        )
    roughest = max((size.deviation for size in moved.values()), default=0.0)
    dtype = str(lm.model.dtype).removeprefix("torch.")
    if roughest > ROUGH:
        said.append(
            {
                "about": "dtype",
                "sentence": f"In {dtype} the change that was made differs by "
                f"{number(100 * roughest)} % from the one that was asked for: float32 makes it "
                "exactly.",
            }
        )
    return said
