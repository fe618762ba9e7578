"""The request about what people keep of a feature: what is given is kept, what is not stays."""

from typing import Literal

from app.requests.parameters import Request, Whole, parameter
from sae_core.notes.feature_notes import MOST_LABEL, MOST_NOTE


class NotesRequest(Request):
    """What is kept about a feature, and what of it is to be changed."""

    feature: Whole = parameter(..., "Feature", "Number of the feature.", least=0)
    sae: str = parameter("", "SAE", "Name of an SAE of the bundle; empty is its first.")
    starred: Literal["", "yes", "no"] = parameter(
        "", "Star", "yes or no: whether the feature has a star; empty leaves that as it is."
    )
    label: str | None = parameter(
        None,
        "Label",
        "Your name for it, on one line; empty removes it, and left out it stays as it is.",
        most=MOST_LABEL,
        unit="characters",
    )
    verdict: Literal["", "monosemantic", "polysemantic", "unclear", "uninterpretable", "none"] = (
        parameter(
            "",
            "Verdict",
            "How many meanings it has for you; none takes the verdict back, and empty leaves it as "
            "it is.",
        )
    )
    note: str | None = parameter(
        None,
        "Note",
        "A text of any number of lines; empty removes it, and left out it stays as it is.",
        most=MOST_NOTE,
        unit="characters",
    )
