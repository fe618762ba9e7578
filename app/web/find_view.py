"""What the page of features by example shows: the texts of its address.

The answer is the browser's to ask for (js/find.js): it waits for its turn, and for the model.
"""

from collections.abc import Mapping
from typing import Any

from app.engine.workbench import Workbench
from app.requests.find_models import MOST_TEXTS
from app.service.find import MOST_FIND_TOKENS


def find(workbench: Workbench, query: Mapping[str, str]) -> dict[str, Any]:
    """Both boxes, and what may be put into them."""
    return {
        "positives": query.get("positives", ""),
        "negatives": query.get("negatives", ""),
        "most_texts": MOST_TEXTS,
        "most_tokens": MOST_FIND_TOKENS,
    }
