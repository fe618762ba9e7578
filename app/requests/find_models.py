"""Requests for features by texts that have something in common, and by what fires with one."""

from typing import Any, Final

from app.requests.models import feature_parameter, sae_parameter
from app.requests.parameters import Request, Whole, parameter

MOST_TEXTS: Final = 50
"""Texts of one kind, at most."""
MOST_COMPANION_TOKENS: Final = 4000
"""Tokens of the check's text that co-activation is measured on, at most."""


def _texts(default: Any, title: str, sentence: str, missing: str = "") -> Any:
    return parameter(default, title, sentence, unit="texts", most=MOST_TEXTS, missing=missing)


class FindRequest(Request):
    """Texts that have something, and texts that do not."""

    positives: list[str] = _texts(
        ..., "Positives", "Texts that have it.", "Add at least one text that has it."
    )
    negatives: list[str] | None = _texts(
        None,
        "Negatives",
        "Texts that do not, best alike in all else; left out, passages of the check's text that "
        "are about as long stand in.",
    )
    sae: str = sae_parameter()
    limit: Whole = parameter(
        20, "Limit", "Most features to return.", unit="features", least=1, most="max_rows"
    )


class CoActivationRequest(Request):
    """What fires together with a feature, and which is the same in another SAE."""

    feature: Whole = feature_parameter()
    sae: str = sae_parameter()
    other_sae: str = parameter(
        "",
        "Other SAE",
        "Name of the SAE in which the same feature is looked for; empty is the first other one of "
        "the bundle.",
    )
    limit: Whole = parameter(
        10, "Limit", "Most features of each list.", unit="features", least=1, most="max_rows"
    )
    tokens: Whole = parameter(
        MOST_COMPANION_TOKENS,
        "Tokens",
        "About how many tokens of the check's text to measure on.",
        unit="tokens",
        least=100,
        most=MOST_COMPANION_TOKENS,
    )
