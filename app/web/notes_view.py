"""What a feature's page shows of the star, label, verdict and note that people keep of it."""

from collections.abc import Mapping
from typing import Any, Final

VERDICTS: Final = (
    ("", "no verdict"),
    ("monosemantic", "monosemantic: one meaning"),
    ("polysemantic", "polysemantic: several"),
    ("unclear", "unclear yet"),
    ("uninterpretable", "uninterpretable: none"),
)
"""(value, words) of the choice of a verdict."""


def notes_part(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part of a feature from `app.service.notes.kept` under `kept`; None where nothing can be
    kept.
    """
    kept = data.get("kept")
    if kept is None or not kept["can_keep"]:
        return None
    labels = kept["labels"]
    own = next((each["text"] for each in labels if each["kind"] == "yours"), "")
    return {
        "starred": kept["starred"],
        "own": own,
        "others": [each for each in labels if each["kind"] != "yours"],
        "verdicts": [
            {"value": value, "words": words, "chosen": value == kept["verdict"]}
            for value, words in VERDICTS
        ],
        "note": kept["note"],
        "problem": kept["problem"],
    }
