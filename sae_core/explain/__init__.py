"""Automatic interpretability: features explained by a language model, and the explanations scored
on contexts that did not explain.

The names below are imported when they are first used: settings need no DuckDB.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_core.explain.chat_client import KEY_VARIABLE, ChatClient
    from sae_core.explain.excerpts import ExcerptChoice, choose_excerpts
    from sae_core.explain.explain_prompts import PROMPT_VERSION
    from sae_core.explain.explain_run import (
        Cost,
        Explanation,
        NoExplanationError,
        expected_cost,
        explained,
        scored,
    )
    from sae_core.explain.explanation_records import ExplanationRecords
else:
    _MODULES = {
        "KEY_VARIABLE": "chat_client",
        "ChatClient": "chat_client",
        "ExcerptChoice": "excerpts",
        "choose_excerpts": "excerpts",
        "PROMPT_VERSION": "explain_prompts",
        "Cost": "explain_run",
        "Explanation": "explain_run",
        "NoExplanationError": "explain_run",
        "expected_cost": "explain_run",
        "explained": "explain_run",
        "scored": "explain_run",
        "ExplanationRecords": "explanation_records",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = [
    "KEY_VARIABLE",
    "PROMPT_VERSION",
    "ChatClient",
    "Cost",
    "ExcerptChoice",
    "Explanation",
    "ExplanationRecords",
    "NoExplanationError",
    "choose_excerpts",
    "expected_cost",
    "explained",
    "scored",
]
