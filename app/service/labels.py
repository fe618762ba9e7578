"""Labels in answers: whatever names a feature by its signature has its label beside that.

An answer's parts that have a `feature` and a `signature` get a `label`, the text that people gave
the feature or None; what shows one (`app.web.templating`, js/dom.js) takes the label first. Edits
are left as they are, since an answer's settings are sent back to repeat a run.
"""

import time
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from app.engine.workbench import Workbench
from sae_core.notes import Label, SAENotes
from sae_core.notes.feature_notes import NOTHING

_RETRY_SECONDS: Final = 5.0
"""How long weights that could not be read are left alone."""
_FAILED: Final[WeakKeyDictionary[Workbench, dict[str, float]]] = WeakKeyDictionary()
"""Until when, by SAE, of each workbench."""


def notes_of(workbench: Workbench, sae: str) -> SAENotes:
    """What is kept about the features of an SAE of the bundle; nothing if `hash_of` has none."""
    if workbench.notes.empty:
        return NOTHING  # its weights need not be had for that
    sae_hash = hash_of(workbench, sae)
    return NOTHING if sae_hash is None else workbench.notes.of(sae_hash)


def hash_of(workbench: Workbench, sae: str) -> str | None:
    """The hash of an SAE's weights; None if they cannot be read, which is said where they are
    needed, and not tried again for some seconds.
    """
    failed = _FAILED.setdefault(workbench, {})
    if time.monotonic() < failed.get(sae, 0.0):
        return None
    try:
        return workbench.bundle.content_hash(sae)
    except (ValueError, OSError):
        failed[sae] = time.monotonic() + _RETRY_SECONDS
        return None


def with_labels(workbench: Workbench, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with labels; the same object where no feature has one.

    They are those of the SAE that it names, or the edit that it is about; parts that name another
    have that one's.
    """
    if workbench.notes.empty:
        return answer
    names = workbench.bundle.sae_names
    labels = _Labels(workbench)
    target = answer.get("target")
    sae = target.get("sae") if isinstance(target, dict) else None
    labelled = _labelled(answer, sae if sae in names else names[0], labels)
    return labelled if any(labels.values()) else answer


class _Labels(dict[str, Mapping[int, Label]]):
    """Labels by SAE, of those alone that are asked for: the others' weights need not be had."""

    def __init__(self, workbench: Workbench) -> None:
        super().__init__()
        self.workbench, self.names = workbench, frozenset(workbench.bundle.sae_names)

    def __missing__(self, sae: str) -> Mapping[int, Label]:
        self[sae] = notes_of(self.workbench, sae).labels
        return self[sae]


def _labelled(part: Any, sae: str, labels: _Labels) -> Any:
    if isinstance(part, list | tuple):
        # Numbers and texts are most of an answer, and name nothing.
        if not part or not isinstance(part[0], dict | list):
            return part
        return [_labelled(each, sae, labels) for each in part]
    if not isinstance(part, dict):
        return part
    own = part.get("sae")
    sae = own if isinstance(own, str) and own in labels.names else sae
    changed = {key: _labelled(value, sae, labels) for key, value in part.items()}
    if "signature" in part and "mode" not in part and isinstance(part.get("feature"), int):
        label = labels[sae].get(part["feature"])
        changed["label"] = None if label is None else label.text
    return changed
