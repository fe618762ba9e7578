"""What people keep about features, in a file of its own: `Notes`."""

from sae_core.notes.feature_lists import FeatureList, ListedFeature
from sae_core.notes.feature_notes import VERDICTS, FeatureNote, Kind, Label, SAENotes, Verdict
from sae_core.notes.kept_notes import Notes
from sae_core.notes.notes_file import NotesFile, Topic

__all__ = [
    "VERDICTS",
    "FeatureList",
    "FeatureNote",
    "Kind",
    "Label",
    "ListedFeature",
    "Notes",
    "NotesFile",
    "SAENotes",
    "Topic",
    "Verdict",
]
