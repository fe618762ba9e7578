"""What a feature's page shows of its explanations by language models."""

from collections.abc import Mapping
from typing import Any

from app.engine.workbench import Workbench
from app.service.explain import host_of, records_of
from app.web.numbers import fixed
from sae_core.definitions import EXPLANATION_DEFINITIONS
from sae_core.explain import PROMPT_VERSION

SHOWN = 3
"""Explanations of one feature that show, the newest first."""


def explanation_part(workbench: Workbench, data: Mapping[str, Any]) -> dict[str, Any]:
    """The template's values for the answer of `app.service.features.feature`; nothing to show where
    there is no explanation and nobody to ask.
    """
    settings = workbench.settings
    offer = None
    has_contexts = data["missing"] is None and data["frequency"] > 0
    if settings.explain_endpoint and workbench.notes.kept and has_contexts:
        offer = {"model": settings.explain_model, "host": host_of(settings.explain_endpoint)}
    try:
        rows = records_of(workbench, data["sae"]).of(data["feature"])
    except ValueError:
        rows = []  # notes that cannot be read are told where notes are shown
    if any(_is_offered(row, settings.explain_model) for row in rows):
        offer = None  # it would say the same
    return {
        "rows": [_row(row) for row in rows[:SHOWN]],
        "offer": offer,
        "definitions": EXPLANATION_DEFINITIONS,
    }


def _is_offered(row: Mapping[str, Any], model: str) -> bool:
    """Whether it is the one that this model would be asked for."""
    return (row["model"], row["prompt_version"], row["seed"]) == (model, PROMPT_VERSION, 0)


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = (fixed(row[f"detection_{end}"], 2) for end in ("low", "high"))
    detection = fixed(row["detection"], 2)
    unread = row["unread_simulations"], row["unread_texts"]
    return {
        **row,
        "made": row["made"][:10],
        "correlation": fixed(row["correlation"], 2),
        "detection": f"{detection} [{low}, {high}]" if row["positives"] else detection,
        "missing": f"; {unread[0]} simulations and {unread[1]} texts had no readable answer"
        if any(unread)
        else "",
    }
