"""What the prompt page shows: the text of its address, and where to begin.

The analysis is the browser's to ask for (js/prompt.js): it waits for its turn, and for the model.
"""

from collections.abc import Mapping
from typing import Any, Final

from app.engine.workbench import Workbench
from app.service.overview import example_prompts
from app.web.ready_predictions import ready_predictions

VIEWS: Final = (
    ("cost", "Cost of the SAE"),
    ("active", "Features active"),
    ("feature", "One feature"),
)
"""What the tokens may be coloured by; js/prompt-colours.js has them."""

SORTS: Final = (
    ("activation", "activation"),
    ("share", "share of maximum"),
    ("frequency", "rarity"),
)


def prompt(workbench: Workbench, query: Mapping[str, str]) -> dict[str, Any]:
    """What fires on a text or a conversation, and what the SAE costs there."""
    text = query.get("text", "")
    return {
        "text": text,
        "other": query.get("other"),
        "asked": bool(text or query.get("messages")),
        "examples": example_prompts(workbench),
        "predictions": ready_predictions(workbench),
        "limit": workbench.settings.max_prompt_tokens,
        "views": VIEWS,
        "sorts": SORTS,
        "can_keep": workbench.notes.kept,
    }
