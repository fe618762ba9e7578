"""The request that looks for a strength."""

from typing import Final

from app.requests.models import SteerRequest
from app.requests.parameters import Whole, parameter

MOST_STRENGTHS: Final = 16
MOST_SEEDS: Final = 5


class LadderRequest(SteerRequest):
    """Continuations at several strengths of one edit."""

    max_new_tokens: Whole = parameter(
        40, "New tokens", "Tokens to generate.", unit="tokens", least=1, most="max_new_tokens"
    )
    edit: Whole = parameter(
        0,
        "Varied edit",
        "Number, from 0, of the edit whose strength is varied; the others stay as they are.",
        least=0,
    )
    strengths: list[float] | None = parameter(
        None,
        "Strengths",
        "Multiples of the feature's largest activation to try; empty is 0.25 to 2 in eight equal "
        "steps. Of an edit without a known largest activation, multiples of its value.",
        unit="strengths",
        most=MOST_STRENGTHS,
    )
    seeds: Whole = parameter(
        3,
        "Seeds",
        "Texts at each strength, of seeds that follow one another.",
        unit="texts",
        least=1,
        most=MOST_SEEDS,
    )
    margin: float = parameter(
        1.0,
        "Margin",
        "By how much a usable text's mean negative log-likelihood may exceed that of unsteered "
        "text.",
        unit="nats per token",
        least=0,
        most=10,
    )
