"""The requests, each parameter described once: its default, bounds, unit and sentence.

Endpoints, `gradio_client`, tools, the API page, forms and docs are made from these models.
"""

from typing import Any, ClassVar, Final, Literal

from pydantic import model_validator

from app.requests.parameters import Request, Whole, parameter

Mode = Literal["set", "scale", "add", "ablate", "cap"]
Sort = Literal[
    "",
    "id",
    "frequency",
    "max_act",
    "mean_act",
    "threshold",
    "concentration",
    "output_score",
    "side_effect",
]
Kept = Literal["", "starred", "labelled", "noted"]
Role = Literal["user", "model", "assistant", "system"]

LARGEST_SEED: Final = 2**32 - 1
LARGEST_OFFSET: Final = 2**31
LONGEST_FADE: Final = 10_000


class Message(Request):
    """One turn of a conversation."""

    noun: ClassVar[str] = "message"
    holds: ClassVar[str] = "a role and a text"

    role: Role = parameter(..., "Role", "Who says it: user, model (or assistant) or system.")
    content: str = parameter(..., "Text", "What is said.")
    in_user_turn: bool = parameter(
        False,
        "Place in the user's turn",
        "Whether a system text stands before the first user turn, for templates without a system "
        "turn.",
    )


class EditRequest(Request):
    """A change of one feature's activation while the model generates."""

    noun: ClassVar[str] = "edit"
    holds: ClassVar[str] = "a feature and what to do with it"

    feature: Whole = parameter(..., "Feature", "Number of the feature.", least=0)
    mode: Mode = parameter(
        "set", "Mode", "What is done: set, scale, add, cap, or ablate, which switches it off."
    )
    strength: float | None = parameter(
        None,
        "Strength",
        "How much, in multiples of the feature's largest activation; a factor for scale. It is 1 "
        "where neither strength nor value is given.",
        unit="× max",
        least="-max_strength",
        most="max_strength",
    )
    value: float | None = parameter(
        None,
        "Value",
        "How much, in the activation's own units, instead of a strength.",
        least="-max_value",
        most="max_value",
    )
    positions: Literal["continuation", "all", "prompt", "generated"] | list[Whole] | None = (
        parameter(
            None,
            "Positions",
            "Tokens to change: continuation (the prompt's last token, which predicts the first new "
            "one, and the new ones), all, prompt, generated (the new ones), or token numbers, "
            "where BOS is 0. Where nothing is said, continuation if the model generates, else all.",
        )
    )
    sae: str | None = parameter(None, "SAE", "Name of its SAE; empty is the run's.")
    condition_feature: Whole | None = parameter(
        None,
        "Condition",
        "Number of a feature that must fire on a token for it to be edited, as the unedited model "
        "reads the text.",
        least=0,
    )
    condition_above: float = parameter(
        0.0,
        "Value of the condition",
        "What that feature's activation must exceed, in its own units.",
        least=0,
        most="max_value",
    )
    condition_sae: str | None = parameter(
        None, "SAE of the condition", "Name of that feature's SAE; empty is the edit's."
    )
    fade: Whole | None = parameter(
        None,
        "Fading",
        "New tokens over which the change falls evenly to nothing; empty is a constant strength.",
        unit="tokens",
        least=1,
        most=LONGEST_FADE,
    )
    # Answers carry these beside an edit, and a run repeats an answer's edits as they stand.
    max_act: float | None = parameter(None, "Largest activation", "An answer's.", unread=True)
    signature: str | None = parameter(None, "Signature", "An answer's.", unread=True)

    @model_validator(mode="before")
    @classmethod
    def _strength_counts(cls, given: Any) -> Any:
        """An answer's edits have both; the value is what the strength came to, however large."""
        if isinstance(given, dict) and given.get("strength") is not None:
            return {name: value for name, value in given.items() if name != "value"}
        return given


def sae_parameter() -> Any:
    return parameter("", "SAE", "Name of the SAE; empty is the bundle's first.")


def text_parameter() -> Any:
    return parameter("", "Text", "The text; it gets a BOS token if the tokenizer has one.")


def feature_parameter() -> Any:
    return parameter(..., "Feature", "Number of the feature.", least=0)


def messages_parameter() -> Any:
    return parameter(
        None,
        "Conversation",
        "A conversation instead of a text, if the model has a chat template: turns with role and "
        "content.",
        unit="messages",
        missing="Add at least one message to the conversation.",
    )


class FeatureRequest(Request):
    """One feature."""

    feature: Whole = feature_parameter()
    sae: str = sae_parameter()


class SearchRequest(Request):
    """A page of a list of features."""

    query: str = parameter(
        "",
        "Search",
        "A number such as 12 or #12, or words to find in tokens, signatures, labels and notes: all "
        "of them, and what is in double quotes with its spaces.",
        unit="characters",
        most="max_query_chars",
    )
    sae: str = sae_parameter()
    sort: Sort = parameter(
        "",
        "Sort order",
        "What to sort by: id, frequency, max_act, mean_act, threshold, concentration, output_score "
        "or side_effect; empty is the best match with a search and frequency without, and the id "
        "where the SAE has no index.",
    )
    descending: bool = parameter(True, "Descending", "Whether the largest come first.")
    min_frequency: float = parameter(
        0.0,
        "Lowest frequency",
        "Lowest share of tokens on which a feature is active.",
        least=0,
        most=1,
    )
    max_frequency: float = parameter(
        1.0,
        "Highest frequency",
        "Highest share of tokens on which a feature is active.",
        least=0,
        most=1,
    )
    limit: Whole = parameter(
        50, "Limit", "Most features to return.", unit="features", least=1, most="max_rows"
    )
    offset: Whole = parameter(
        0, "Offset", "Features to skip.", unit="features", least=0, most=LARGEST_OFFSET
    )
    min_output_score: float = parameter(
        0.0, "Lowest output score", "Lowest output score, from 0 to 1.", least=0, most=1
    )
    max_side_effect: float | None = parameter(
        None, "Highest side effect", "Highest side effect; empty is any.", unit="nats", least=0
    )
    kept: Kept = parameter(
        "",
        "What you keep",
        "starred, labelled or noted: only features that have a star, a label or a note; empty is "
        "all.",
    )


class PromptFeaturesRequest(Request):
    """What fires on a text."""

    text: str = text_parameter()
    sae: str = sae_parameter()
    limit: Whole = parameter(
        200,
        "Limit",
        "Most features to list, by falling peak; 0 lists all, and tokens list all of theirs in any "
        "case.",
        unit="features",
        least=0,
        most="max_rows",
    )
    messages: list[Message] | None = messages_parameter()
    uniformity: bool = parameter(
        False,
        "Uniformity",
        "Whether the totals tell the uniformity of effects too, which takes several times as long.",
    )


class DeltaLossRequest(Request):
    """What the splice costs on a text."""

    text: str = text_parameter()
    sae: str = sae_parameter()
    messages: list[Message] | None = messages_parameter()


class FeatureOnTextRequest(Request):
    """One feature on a text."""

    text: str = text_parameter()
    feature: Whole = feature_parameter()
    sae: str = sae_parameter()


class TokensRequest(Request):
    """How the model reads a text."""

    text: str = text_parameter()
    messages: list[Message] | None = messages_parameter()


class SteerRequest(Request):
    """A continuation as it is and with edits."""

    prompt: str = parameter("", "Prompt", "Text to continue.")
    edits: list[EditRequest] = parameter(
        ...,
        "Edits",
        "Changes, each with feature, mode, strength or value, positions, and sae if it is "
        "another's.",
        unit="edits",
        least=1,
        most="max_edits",
        missing="Add at least one edit: choose a feature and what to do with it.",
    )
    sae: str = parameter(
        "", "SAE", "Name of the SAE of edits that name none; empty is the bundle's first."
    )
    max_new_tokens: Whole = parameter(
        60, "New tokens", "Tokens to generate.", unit="tokens", least=1, most="max_new_tokens"
    )
    temperature: float = parameter(
        0.8, "Temperature", "Sampling temperature; 0 is greedy.", least=0, most="max_temperature"
    )
    seed: Whole = parameter(0, "Seed", "Seed of both continuations.", least=0, most=LARGEST_SEED)
    messages: list[Message] | None = messages_parameter()


class CheckRequest(Request):
    """Whether an SAE's numbers can be trusted."""

    sae: str = sae_parameter()


class ReproduceRequest(Request):
    """Which number is to be reproduced."""

    asked: dict[str, Any] = parameter(
        ...,
        "Number",
        "Which number: quantity, sae, text or messages, token, feature; or settings of a steering "
        "run with arm, step, edit, when; or sae, feature, group, context.",
        missing="Say which number: a quantity of a text, an activation in a steering run, or a "
        "context of a feature.",
    )


class AnalysisNumber(Request):
    """A number of a text's analysis."""

    quantity: str = parameter("", "Quantity", "Which number of the text or of a token.")
    sae: str = sae_parameter()
    text: str = text_parameter()
    messages: list[Message] | None = messages_parameter()
    token: Whole | None = parameter(None, "Token", "Number of the token.", least=0)
    feature: Whole | None = parameter(None, "Feature", "Number of the feature.", least=0)


class RunNumber(Request):
    """An activation on a generated token of a steering run."""

    settings: dict[str, Any] = parameter(
        ...,
        "Settings",
        "The settings that the steering run answered.",
        missing="Give the settings that the steering run answered.",
    )
    arm: Literal["base", "steered"] = parameter(
        ..., "Continuation", "Which continuation: base or steered."
    )
    step: Whole = parameter(..., "New token", "Number of the new token.", least=0)
    edit: Whole = parameter(..., "Edit", "Number of the edit.", least=0)
    when: Literal["own", "after"] = parameter("own", "Moment", "Before the edit (own) or after it.")


class ContextNumber(Request):
    """The number at the peak of a context on a feature's page."""

    feature: Whole = feature_parameter()
    group: str = parameter("", "Group", "Name of the group of contexts.")
    context: Whole = parameter(..., "Context", "Number of the context in it.", least=0)
    sae: str = sae_parameter()
