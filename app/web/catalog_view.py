"""What the catalog page shows: known pairs of a language model and SAEs, model by model."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from app.engine.workbench import Workbench
from sae_core.hub.known_pairs import known_pairs


def catalog(workbench: Workbench, query: Mapping[str, str]) -> dict[str, Any]:
    """The pairs, each model's together; which model and SAEs are open in the app."""
    return catalog_page(workbench.bundle.model)


def catalog_page(model: str) -> dict[str, Any]:
    """The same for the bundle's language model."""
    pairs = sorted(known_pairs(), key=lambda pair: pair.model.lower())
    models = [
        {"name": name, "pairs": list(group), "open": name == model.partition("@")[0]}
        for name, group in groupby(pairs, key=lambda pair: pair.model)
    ]
    # The smallest first; one whose size is not known here is no small one.
    models.sort(key=lambda each: each["pairs"][0].model_gb or 1000)
    return {"models": models, "count": len(pairs)}
