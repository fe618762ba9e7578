"""A steering run as users write it, checked against what is served."""

from collections.abc import Mapping, Sequence

from app import checks
from app.served import Served
from app.steering import PlannedEdit, PlannedRun, planned


def planned_run(
    served: Served,
    prompt: object = "",
    edits: object = None,
    sae: object = None,
    max_new_tokens: object = 60,
    temperature: object = 0.8,
    seed: object = 0,
    messages: object = None,
) -> PlannedRun:
    """A steering run, checked; arguments and errors are those of `Service.steer_stream`."""
    name = served.sae_name(sae)
    settings = served.settings
    new = checks.whole(max_new_tokens, "New tokens", 1, settings.max_new_tokens)
    warmth = checks.number(temperature, "Temperature", 0.0, settings.max_temperature)
    number = checks.whole(seed, "Seed", 0, 2**32 - 1)
    engine = served.load()
    given = engine.prompt(prompt, messages)
    if not given.is_open:
        raise ValueError("The last message must be the user's: the model answers it.")
    length = len(given.ids)
    if length + new > engine.context:
        raise ValueError(
            f"{length:,} prompt tokens and {new:,} new ones exceed the model's context of "
            f"{engine.context:,} tokens: shorten one of them."
        )
    return PlannedRun(
        sae=name,
        prompt=given,
        edits=_planned_edits(served, edits, name, last_position=length + new - 1),
        max_new_tokens=new,
        temperature=warmth,
        seed=number,
    )


def _planned_edits(
    served: Served, edits: object, sae: str, last_position: int
) -> list[PlannedEdit]:
    if not isinstance(edits, Sequence) or isinstance(edits, str) or not edits:
        raise ValueError("Give at least one edit: a list of features with mode and strength.")
    if len(edits) > served.settings.max_edits:
        raise ValueError(
            f"{len(edits)} edits are more than the limit of {served.settings.max_edits}."
        )
    plans = []
    for number, written in enumerate(edits, 1):
        if not isinstance(written, Mapping) or "feature" not in written:
            raise ValueError(f"Edit {number} must be an object with a feature.")
        name = served.sae_name(written.get("sae") or sae)
        feature = served.feature_number(name, written["feature"], f"The feature of edit {number}")
        plans.append(
            planned(
                written,
                number=number,
                sae=name,
                summary=served.known.features(name).summaries([feature])[feature],
                settings=served.settings,
                last_position=last_position,
            )
        )
    return plans
