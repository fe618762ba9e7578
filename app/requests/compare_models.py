"""Requests about two texts, and about several SAEs in one model."""

from typing import Any, ClassVar, Literal

from app.requests.models import (
    EditRequest,
    Message,
    messages_parameter,
    sae_parameter,
    text_parameter,
)
from app.requests.parameters import Request, Whole, parameter


def _other_text() -> Any:
    return parameter("", "Other text", "The text to compare with, B; the first one is A.")


def _other_messages() -> Any:
    return parameter(
        None,
        "Other conversation",
        "A conversation instead of the other text.",
        unit="messages",
        missing="Add at least one message to the other conversation.",
    )


def _token() -> Any:
    return parameter(
        None,
        "Token",
        "Number of a token of A that is aligned with one of B; left out, all aligned tokens.",
        least=0,
    )


class CompareRequest(Request):
    """What differs between two texts."""

    text: str = text_parameter()
    other_text: str = _other_text()
    sae: str = sae_parameter()
    token: Whole | None = _token()
    limit: Whole = parameter(
        200,
        "Limit",
        "Most features to list, by falling size of the difference; 0 lists all.",
        unit="features",
        least=0,
        most="max_rows",
    )
    messages: list[Message] | None = messages_parameter()
    other_messages: list[Message] | None = _other_messages()


class PatchRequest(Request):
    """Features of one text put into another."""

    text: str = text_parameter()
    other_text: str = _other_text()
    features: list[Whole] = parameter(
        ...,
        "Features",
        "Numbers of the features whose activations B takes from A.",
        unit="features",
        least=1,
        most="max_rows",
        missing="Name at least one feature whose activation is to be put into B.",
    )
    sae: str = sae_parameter()
    token: Whole | None = _token()
    messages: list[Message] | None = messages_parameter()
    other_messages: list[Message] | None = _other_messages()


class SwitchRequest(Request):
    """What becomes of one SAE."""

    noun: ClassVar[str] = "switch"
    holds: ClassVar[str] = "an SAE and its state"

    sae: str = parameter(..., "SAE", "Name of the SAE.")
    state: Literal["off", "spliced", "edited"] = parameter(
        "spliced",
        "State",
        "off, spliced (the reconstruction takes the activation's place), or edited (its edits are "
        "made and the error is kept).",
    )


class SpliceRequest(Request):
    """What several SAEs cost, alone and together."""

    text: str = text_parameter()
    states: list[SwitchRequest] | None = parameter(
        None,
        "States",
        "Each SAE's state, with sae and state; SAEs that are not named are off. Left out, all are "
        "spliced.",
        unit="SAEs",
        most="max_rows",
        missing="Name at least one SAE with its state, or leave this out.",
    )
    edits: list[EditRequest] | None = parameter(
        None,
        "Edits",
        "The edits of those that are edited, each with sae, feature, mode, strength or value, and "
        "positions.",
        unit="edits",
        most="max_edits",
        missing="Name at least one edit, or leave this out.",
    )
    messages: list[Message] | None = messages_parameter()
