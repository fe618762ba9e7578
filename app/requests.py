"""What can be asked of the app: one pydantic model a request, each parameter described once.

A parameter's default, bounds, unit and sentence stand here alone. Endpoints, `gradio_client`, MCP
tools, the API page, forms and docs are made from these models (`app.endpoints`), and `parsed` turns
whatever comes from outside into one of them or into one sentence that names the parameter.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from app.settings import Settings

Mode = Literal["set", "scale", "add", "ablate", "cap"]
Sort = Literal["", "id", "frequency", "max_act", "mean_act", "threshold", "concentration"]
Role = Literal["user", "model", "assistant", "system"]
Arm = Literal["base", "steered"]

LARGEST_SEED: Final = 2**32 - 1


class RequestError(ValueError):
    """A request that cannot be answered: one sentence, and the parameter that it is about.

    `field` is a path such as `temperature` or `edits.0.strength`, empty where no single parameter
    is to blame.
    """

    def __init__(self, sentence: str, field: str = "") -> None:
        super().__init__(sentence)
        self.field = field


def shown(value: object) -> str:
    """A value as it stands in a sentence: short, and without a programming language's words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return f"“{value if len(value) <= 36 else value[:35] + '…'}”"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return "a list" if isinstance(value, Sequence) else "a group of values"


def _whole(value: object) -> object:
    """3.0 is a whole number: JavaScript has no other."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


def parameter(
    default: Any,
    title: str,
    sentence: str,
    *,
    unit: str = "",
    least: float | str | None = None,
    most: float | str | None = None,
) -> Any:
    """A field of a request; bounds are numbers or names of settings, `-name` for its negative.

    `...` as the default makes it required. A default above a setting's bound gives way to it.
    """
    extra: dict[str, Any] = {"unit": unit, "least": least, "most": most}
    return Field(default, title=title, description=sentence, json_schema_extra=extra)


class Request(BaseModel):
    """Base of all requests: unknown parameters and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Message(Request):
    """One turn of a conversation."""

    role: Role = parameter(..., "Role", "Who says it: user, model (or assistant) or system.")
    content: str = parameter(..., "Text", "What is said.")
    in_user_turn: bool = parameter(
        False,
        "In the user's turn",
        "Whether a system text stands before the first user turn, for templates without a system "
        "turn.",
    )


Messages = Annotated[
    list[Message] | None,
    parameter(
        None,
        "Conversation",
        "A conversation instead of a text, if the model has a chat template: turns with role and "
        "content.",
    ),
]


class EditRequest(Request):
    """A change of one feature's activation while the model generates."""

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
    positions: Literal["all", "prompt", "generated"] | list[Whole] = parameter(
        "all",
        "Positions",
        "Tokens to change: all, prompt, generated, or token numbers, where BOS is 0.",
    )
    sae: str | None = parameter(None, "SAE", "Name of its SAE; empty is the run's.")
    # Answers carry these beside an edit; sent back they are computed anew.
    max_act: float | None = parameter(None, "Largest", "Not read: an answer's own.")
    signature: str | None = parameter(None, "Signature", "Not read: an answer's own.")


def _sae() -> Any:
    return parameter("", "SAE", "Name of the SAE; empty is the bundle's first.")


def _text() -> Any:
    return parameter("", "Text", "The text; it gets a BOS token if the tokenizer has one.")


def _feature() -> Any:
    return parameter(..., "Feature", "Number of the feature, from 0.", least=0)


class FeatureRequest(Request):
    """One feature."""

    feature: Whole = _feature()
    sae: str = _sae()


class SearchRequest(Request):
    """A page of a list of features."""

    query: str = parameter(
        "",
        "Search",
        "A number such as 12 or #12, or text to find in tokens and signatures.",
        unit="characters",
        most="max_query_chars",
    )
    sae: str = _sae()
    sort: Sort = parameter(
        "",
        "Sort order",
        "Number to sort by; empty is frequency, and the id where the SAE has no index.",
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
        1.0, "Highest frequency", "Highest such share.", least=0, most=1
    )
    limit: Whole = parameter(
        50, "Limit", "Most features to return.", unit="features", least=1, most="max_rows"
    )
    offset: Whole = parameter(
        0, "Offset", "Features to skip.", unit="features", least=0, most=2**31
    )


class PromptFeaturesRequest(Request):
    """What fires on a text."""

    text: str = _text()
    sae: str = _sae()
    limit: Whole | None = parameter(
        200,
        "Limit",
        "Most features to list, by falling peak; left empty it lists all. Tokens list all of "
        "theirs in any case.",
        unit="features",
        least=1,
        most="max_rows",
    )
    messages: Messages = None


class DeltaLossRequest(Request):
    """What the splice costs on a text."""

    text: str = _text()
    sae: str = _sae()
    messages: Messages = None


class TestTextRequest(Request):
    """One feature on a text."""

    __test__ = False  # no test class, though its name begins as theirs do

    text: str = _text()
    feature: Whole = _feature()
    sae: str = _sae()


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
    messages: Messages = None


class CheckRequest(Request):
    """Whether an SAE's numbers can be trusted."""

    sae: str = _sae()


class ReproduceRequest(Request):
    """Which number is to be reproduced."""

    asked: dict[str, Any] = parameter(
        ...,
        "Number",
        "Which number: quantity, sae, text or messages, token, feature; or settings of a steering "
        "run with arm, step, edit, when; or sae, feature, group, context.",
    )


class AnalysisNumber(Request):
    """A number of a text's analysis."""

    quantity: str = parameter(..., "Quantity", "Which number of the text or of a token.")
    sae: str = _sae()
    text: str = _text()
    messages: Messages = None
    token: Whole | None = parameter(None, "Token", "Number of the token, from 0.", least=0)
    feature: Whole | None = parameter(None, "Feature", "Number of the feature.", least=0)


class RunNumber(Request):
    """An activation on a generated token of a steering run."""

    settings: dict[str, Any] = parameter(
        ..., "Settings", "The settings that the steering run answered."
    )
    arm: Arm = parameter(..., "Continuation", "Which continuation: base or steered.")
    step: Whole = parameter(..., "New token", "Number of the new token, from 0.", least=0)
    edit: Whole = parameter(..., "Edit", "Number of the edit, from 0.", least=0)
    when: Literal["own", "after"] = parameter("own", "Moment", "Before the edit (own) or after it.")


class ContextNumber(Request):
    """The number at the peak of a context on a feature's page."""

    feature: Whole = _feature()
    group: str = parameter(..., "Group", "Name of the group of contexts.")
    context: Whole = parameter(..., "Context", "Number of the context in it, from 0.", least=0)
    sae: str = _sae()


R = TypeVar("R", bound=Request)


def parsed(model: type[R], given: Mapping[str, Any], settings: Settings, *, path: str = "") -> R:
    """A request from values that came from outside; RequestError with one sentence if it is none.

    A required parameter that is None counts as missing. `path` is where the request stands within
    another one.
    """
    values = {
        name: value
        for name, value in given.items()
        if value is not None or name not in model.model_fields or _takes_none(model, name)
    }
    for name, info in model.model_fields.items():
        if name not in values and not info.is_required():
            values[name] = default_of(info, settings)
    try:
        request = model.model_validate(values)
    except ValidationError as error:
        raise _sentence(model, error, settings, path) from None
    _check_bounds(request, settings, path)
    return request


def _takes_none(model: type[Request], name: str) -> bool:
    return model.model_fields[name].default is None


def bounds_of(info: FieldInfo, settings: Settings) -> tuple[float | None, float | None]:
    """The least and the most that a parameter may be under these settings; None is no bound."""
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    least, most = (_bound(extra[end], settings) for end in ("least", "most"))
    return least, most


def _bound(written: Any, settings: Settings) -> float | None:
    if isinstance(written, str):
        return (-1 if written[0] == "-" else 1) * getattr(settings, written.removeprefix("-"))
    return written


def default_of(info: FieldInfo, settings: Settings) -> Any:
    """A parameter's default under these settings: no more than they allow."""
    _, most = bounds_of(info, settings)
    default = info.default
    if most is not None and isinstance(default, int | float) and not isinstance(default, bool):
        return min(default, most)
    return default


def unit_of(info: FieldInfo) -> str:
    """The unit of a parameter, empty if it has none."""
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["unit"])


def _check_bounds(request: Request, settings: Settings, path: str) -> None:
    for name, info in type(request).model_fields.items():
        value = getattr(request, name)
        where = f"{path}{name}"
        least, most = bounds_of(info, settings)
        if isinstance(value, str):
            if most is not None and len(value) > most:
                raise RequestError(
                    f"{_subject(info, path)} is {len(value):,} characters long: use at most "
                    f"{most:,.0f}.",
                    where,
                )
            _check_characters(value, info, where, path)
        elif isinstance(value, list):
            _check_list(value, info, (least, most), settings, where, path)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            inside = (least is None or value >= least) and (most is None or value <= most)
            if not inside or value != value:  # NaN differs from itself
                raise RequestError(
                    f"{_subject(info, path)} must be {_kind(value, info, settings)}, "
                    f"not {shown(value)}.",
                    where,
                )


def _check_characters(value: str, info: FieldInfo, where: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"{_subject(info, path)} holds half of a surrogate pair, which is no character.", where
        ) from None


def _check_list(
    value: list[Any],
    info: FieldInfo,
    bounds: tuple[float | None, float | None],
    settings: Settings,
    where: str,
    path: str,
) -> None:
    least, most = bounds
    if least is not None and len(value) < least:
        raise RequestError(_EMPTY.get(where, f"{_subject(info, path)}: add at least one."), where)
    if most is not None and len(value) > most:
        raise RequestError(
            f"{len(value)} {unit_of(info)} are more than the limit of {most:g}.", where
        )
    for number, item in enumerate(value):
        if isinstance(item, Request):
            _check_bounds(item, settings, f"{where}.{number}.")


_EMPTY: Final = {"edits": "Add at least one edit: choose a feature and what to do with it."}


def _subject(info: FieldInfo, path: str) -> str:
    """What a sentence about a parameter begins with: `Strength`, or `The strength of edit 2`."""
    title = str(info.title)
    if not path:
        return title
    group, number = path.rstrip(".").split(".")[-2:]
    named = title if title.isupper() else title[0].lower() + title[1:]
    return f"The {named} of {group.removesuffix('s')} {int(number) + 1}"


def _kind(value: object, info: FieldInfo, settings: Settings) -> str:
    """What a number must be, with its bounds."""
    noun = "a whole number" if "Whole" in str(info.annotation) or _is_whole(info) else "a number"
    least, most = bounds_of(info, settings)
    if least is not None and most is not None:
        return f"{noun} from {least:,g} to {most:,g}"
    if least is not None:
        return f"{noun}, {least:,g} or more"
    return f"a finite {noun.removeprefix('a ')}" if most is None else f"{noun}, at most {most:,g}"


def _is_whole(info: FieldInfo) -> bool:
    return info.annotation is int or int in getattr(info.annotation, "__args__", ())


def _sentence(
    model: type[Request], error: ValidationError, settings: Settings, path: str
) -> RequestError:
    """pydantic's first complaint as one sentence about the parameter that it is about."""
    first = error.errors(include_url=False)[0]
    place = [part for part in first["loc"] if isinstance(part, int) or not _is_branch(part)]
    owner, info, where, item = _owner(model, place, path)
    field = ".".join([path.rstrip("."), *map(str, place)]).lstrip(".")
    if first["type"] == "extra_forbidden":
        known = ", ".join(n for n in owner.model_fields if n not in ("max_act", "signature"))
        holder = f"{item} has" if item else "There is"
        return RequestError(f"{holder} no parameter {shown(place[-1])}: use {known}.", field)
    if info is None:
        kind = "edit" if item.startswith("Edit") else "turn"
        what = "a feature and what to do with it" if kind == "edit" else "who speaks, and a text"
        return RequestError(f"{item or 'The request'} must say {what}.", field)
    subject = _subject(info, where)
    if first["type"] == "missing":
        if field in _EMPTY:
            return RequestError(_EMPTY[field], field)
        sentence = str(info.description).rstrip(".")
        return RequestError(f"{subject} is missing: {sentence[0].lower()}{sentence[1:]}.", field)
    return RequestError(
        f"{subject} must be {_wanted(info, settings)}, not {shown(first['input'])}.", field
    )


def _is_branch(part: str) -> bool:
    """Whether a part of an error's place names a branch of a union, not a parameter."""
    return "[" in part or part in ("int", "str", "float", "bool", "list", "none")


def _owner(
    model: type[Request], place: list[Any], path: str
) -> tuple[type[Request], FieldInfo | None, str, str]:
    """The model and field that an error's place is in, the path before it, and the item's name."""
    info, where, item = None, path, ""
    for position, part in enumerate(place):
        if isinstance(part, int):
            name = str(place[position - 1])
            where += f"{name}.{part}."
            item = f"{name.removesuffix('s').capitalize()} {part + 1}"
            inner = _MODELS.get(name)
            if inner is None:
                # A number within a list of numbers: the list's field is to blame.
                return model, info, where.removesuffix(f"{name}.{part}."), item
            model, info = inner, None
        else:
            info = model.model_fields.get(part)
    return model, info, where, item


_MODELS: Final[dict[str, type[Request]]] = {"edits": EditRequest, "messages": Message}


def _wanted(info: FieldInfo, settings: Settings) -> str:
    """What a parameter must be, as the end of a sentence."""
    annotation = info.annotation
    words = [word for word in _literals(annotation) if word]
    if words:
        numbers = " or token numbers" if "list" in str(annotation) else ""
        return f"one of {', '.join(words)}{numbers}"
    if annotation is bool:
        return "yes or no"
    if annotation is str or str in getattr(annotation, "__args__", ()):
        return "text"
    if _is_whole(info) or annotation is float or float in getattr(annotation, "__args__", ()):
        return _kind(0, info, settings)
    return "a list" if "list" in str(annotation) else "a group of values"


def _literals(annotation: Any) -> list[str]:
    arguments = getattr(annotation, "__args__", ())
    if getattr(annotation, "__origin__", None) is Literal:
        return list(arguments)
    return [word for each in arguments for word in _literals(each)]
