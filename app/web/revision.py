"""Which index, and which checkpoint of a run, a page shows, so that it hears of another one."""

from typing import Final

from app.engine.workbench import Workbench
from app.sentences import without_paths
from training.run_status import status_of

NOTHING_READ: Final = {"revision": "", "note": ""}


def revision_of(workbench: Workbench, sae: str) -> dict[str, str]:
    """`revision` is the SAE's name, @ and what changes when another index of it is read, or without
    one when it has other weights of a training run; nothing where there is neither. `note` says
    that the index is not finished, that a file in its place is not read, or of which checkpoint the
    SAE is. Both are "" for an SAE that there is not or that cannot be read, which the page itself
    says; of a run's SAE that is not there yet, `revision` has the name, and `note` says when it
    comes.
    """
    try:
        name = workbench.sae_name(sae)
    except ValueError:
        return NOTHING_READ
    sources = workbench.sources
    try:
        note = without_paths(sources.note(name))
        revision = sources.revision(name)
        if workbench.run is not None:
            revision = revision or workbench.bundle.content_hash(name)[:16]
            note = " ".join(filter(None, (checkpoint_note(workbench, name), note)))
        return {"revision": f"{name}@{revision}", "note": note}
    except ValueError as error:
        if workbench.run is None:
            return NOTHING_READ
        return {"revision": f"{name}@", "note": without_paths(str(error))}


def checkpoint_note(workbench: Workbench, name: str) -> str:
    """Of which checkpoint a training run's SAE is; "" for one of the run's end."""
    training = workbench.bundle.sae_config(name).metadata.get("training") or {}
    steps, planned = training.get("steps"), training.get("steps_planned")
    if workbench.run is None or not steps or not planned or steps >= planned:
        return ""
    at_work = status_of(workbench.run)[0] == "at work"
    newer = (
        "newer ones take their place while the run is at work"
        if at_work
        else ("the run is not at work")
    )
    return f"These features are of step {steps:,} of {planned:,}: {newer}."
