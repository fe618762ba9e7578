"""What people keep about a feature: read, and written where something is given."""

from typing import Any

from app.engine.workbench import Workbench
from app.requests import NotesRequest
from app.sentences import without_paths
from app.service.labels import notes_of
from sae_core.notes.feature_notes import FeatureNote


def notes(workbench: Workbench, request: NotesRequest) -> dict[str, Any]:
    """The star, labels, verdict and note of a feature, after what is given has been kept.

    They stay with the SAE's weights, by whatever name those are served.
    """
    name = workbench.sae_name(request.sae)
    feature = workbench.feature_number(name, request.feature)
    given = {
        "label": request.label,
        "note": request.note,
        "starred": request.starred == "yes" if request.starred else None,
        "verdict": request.verdict.removesuffix("none") if request.verdict else None,
    }
    if any(value is not None for value in given.values()):
        workbench.notes.set(workbench.bundle.content_hash(name), feature, **given)
    return {"sae": name, "feature": feature, **kept(workbench, name, feature)}


def kept(workbench: Workbench, sae: str, feature: int) -> dict[str, Any]:
    """What is kept about a feature: `label` is the one that is shown, `labels` are all with their
    sources; `can_keep` is whether anything can be kept, and `problem` why it cannot be read.
    """
    notes = notes_of(workbench, sae)
    note = notes.features.get(feature, FeatureNote())
    labels = notes.all_labels.get(feature, ())
    return {
        "starred": note.starred,
        "label": labels[0].text if labels else None,
        "labels": [
            {
                "text": each.text,
                "kind": each.kind,
                "source": each.source_text,
                "time": each.time.isoformat(timespec="seconds") + "Z",
            }
            for each in labels
        ],
        "verdict": note.verdict,
        "note": note.note,
        "can_keep": workbench.notes.kept,
        "problem": without_paths(workbench.notes.problem),
    }
