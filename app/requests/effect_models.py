"""Requests about what carries a prediction."""

from typing import ClassVar, Final

from app.requests.models import Message, messages_parameter, sae_parameter, text_parameter
from app.requests.parameters import Request, Whole, parameter

MOST_EXACT: Final = 256
"""Most pairs of a token and a feature that one request sets to 0 in turn, beside a token's own."""
MOST_JOINT: Final = 64
MOST_NEXT: Final = 32


class PairRequest(Request):
    """A feature on a token."""

    noun: ClassVar[str] = "pair"
    holds: ClassVar[str] = "a position and a feature"

    position: Whole = parameter(..., "Position", "Number of the token.", least=0)
    feature: Whole = parameter(..., "Feature", "Number of the feature.", least=0)


class EffectsRequest(Request):
    """What carries the prediction after a token of a text."""

    text: str = text_parameter()
    token: Whole | None = parameter(
        None,
        "Token",
        "Number of the token after which the model predicts, where BOS is 0; empty is the last.",
        least=0,
    )
    sae: str = sae_parameter()
    target: Whole | None = parameter(
        None,
        "Next token",
        "Id of the next token whose log-probability is followed; empty is the likeliest.",
        least=0,
    )
    next_tokens: Whole = parameter(
        8,
        "Next tokens",
        "How many of the likeliest next tokens to tell.",
        unit="tokens",
        least=1,
        most=MOST_NEXT,
    )
    earlier: bool = parameter(
        False,
        "Earlier tokens too",
        "Whether features of earlier tokens are told as well: estimates of all, of which the "
        "largest are measured.",
    )
    estimates: bool = parameter(
        True,
        "Estimates",
        "Whether a token's own features are estimated as well, beside being measured; earlier "
        "tokens' always are.",
    )
    exact: Whole = parameter(
        30,
        "Measured",
        "With earlier tokens, how many of the largest estimates to measure.",
        unit="features",
        least=0,
        most=MOST_EXACT,
    )
    joint: list[PairRequest] | None = parameter(
        None,
        "Together",
        "Features to set to 0 all at once, each with position and feature.",
        unit="pairs",
        most=MOST_JOINT,
        missing="Name at least one feature, or leave this out.",
    )
    limit: Whole = parameter(
        200,
        "Limit",
        "Most effects to list, by falling KL, then by falling size of the estimate; 0 lists all.",
        unit="effects",
        least=0,
        most="max_rows",
    )
    messages: list[Message] | None = messages_parameter()


class EffectNumber(Request):
    """A number of one feature's effect on a prediction."""

    effect: str = parameter(..., "Effect", "Which number: kl, dlogp or estimate.")
    sae: str = sae_parameter()
    text: str = text_parameter()
    messages: list[Message] | None = messages_parameter()
    token: Whole = parameter(
        ..., "Token", "Number of the token after which the model predicts.", least=0
    )
    position: Whole = parameter(..., "Position", "Number of the feature's token.", least=0)
    feature: Whole = parameter(..., "Feature", "Number of the feature.", least=0)
    target: Whole = parameter(..., "Next token", "Id of the next token that is followed.", least=0)
