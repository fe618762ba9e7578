"""Labels in answers: whatever names a feature by its signature has its label beside that.

An answer's parts that have a `feature` and a `signature` get a `label`, the text that people gave
the feature or None; what shows one (`app.web.templating`, js/dom.js) takes the label first. Edits
are left as they are, since an answer's settings are sent back to repeat a run.
"""

from collections.abc import Mapping
from typing import Any

from app.engine.workbench import Workbench
from sae_core.notes import Label, SAENotes
from sae_core.notes.feature_notes import NOTHING


def notes_of(workbench: Workbench, sae: str) -> SAENotes:
    """What is kept about the features of an SAE of the bundle; nothing if its weights cannot be
    read, which is said where they are needed.
    """
    try:
        return workbench.notes.of(workbench.bundle.content_hash(sae))
    except (ValueError, OSError):
        return NOTHING


def with_labels(workbench: Workbench, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with labels; the same object where no feature has one.

    They are those of the SAE that it names, or the edit that it is about; parts that name another
    have that one's.
    """
    names = workbench.bundle.sae_names
    labels = {name: notes_of(workbench, name).labels for name in names}
    if not any(labels.values()):
        return answer
    target = answer.get("target")
    sae = target.get("sae") if isinstance(target, dict) else None
    return _labelled(answer, sae if sae in labels else names[0], labels)


def _labelled(part: Any, sae: str, labels: Mapping[str, Mapping[int, Label]]) -> Any:
    if isinstance(part, list | tuple):
        # Numbers and texts are most of an answer, and name nothing.
        if not part or not isinstance(part[0], dict | list):
            return part
        return [_labelled(each, sae, labels) for each in part]
    if not isinstance(part, dict):
        return part
    own = part.get("sae")
    sae = own if isinstance(own, str) and own in labels else sae
    changed = {key: _labelled(value, sae, labels) for key, value in part.items()}
    if "signature" in part and "mode" not in part and isinstance(part.get("feature"), int):
        label = labels[sae].get(part["feature"])
        changed["label"] = None if label is None else label.text
    return changed
