"""Whatever comes from outside as a request, or as one sentence about the parameter to blame.

pydantic finds what is missing, unknown or of another type, and the bounds that depend on settings
are checked after it. Sentences speak of a parameter by its title and of what it must be; they hold
no word of a programming language.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app.requests.parameters import (
    Kind,
    Request,
    bounds_of,
    choices_of,
    default_of,
    description_of,
    figure,
    given_values,
    holds_fractions,
    holds_texts,
    item_of,
    kind_of,
    parameters_of,
    range_in_words,
    takes_numbers,
)
from app.settings import Settings

LONGEST_SHOWN: Final = 36
"""Characters of a text that a sentence repeats."""

LONGEST_LIST: Final = 90
"""Characters of the names that a sentence lists."""

HALF: Final = "holds half of a surrogate pair, which is no character"

R = TypeVar("R", bound=Request)


class RequestError(ValueError):
    """A request that cannot be answered: one sentence, and the parameter that it is about.

    `field` is a path such as `temperature` or `edits.0.strength`, empty where no single parameter
    is to blame.
    """

    def __init__(self, sentence: str, field: str = "") -> None:
        super().__init__(sentence)
        self.field = field


def parsed(model: type[R], given: Mapping[str, Any], settings: Settings) -> R:
    """A request from values that came from outside; RequestError with one sentence if it is none.

    None stands for a parameter that is left out.
    """
    defaults = {
        name: default_of(info, settings)
        for name, info in model.model_fields.items()
        if not info.is_required()
    }
    try:
        request = model.model_validate(defaults | given_values(model, given))
    except ValidationError as error:
        raise _complaint(model, error, settings) from None
    _check_bounds(request, settings)
    return request


def shown(value: object) -> str:
    """A value as it stands in a sentence: short, and without a programming language's words."""
    match value:
        case None | "":
            return "nothing"
        case bool():
            return "yes" if value else "no"
        case str():
            return f"“{' '.join(_safe(value).split())}”"
        case int():
            return str(value) if abs(value) < 10**15 else f"{Decimal(value):.2e}"
        case float():
            return _shown_float(value)
        case Mapping():
            return "a group of values"
        case Sequence():
            return "several values" if value else "nothing"
    return "something else"


def _shown_float(value: float) -> str:
    if math.isnan(value):
        return "an undefined number"
    return f"{value:g}" if math.isfinite(value) else "an infinite number"


def _complaint(model: type[Request], error: ValidationError, settings: Settings) -> RequestError:
    """pydantic's first complaint as one sentence about the parameter that it is about."""
    errors = error.errors(include_url=False)
    owner, name, path = place = _place(model, errors[0]["loc"])
    # Of the branches of a union the one that reaches furthest says most.
    same = [each for each in errors if _place(model, each["loc"]) == place]
    first = max(same, key=lambda each: len(each["loc"]))
    if first["type"] == "extra_forbidden":
        holder = f"{_item(owner, path)} has" if path else "There is"
        unknown = str(first["loc"][-1])
        usable = _listed([each.name for each in parameters_of(owner, settings)])
        return RequestError(
            f"{holder} no parameter {shown(unknown)}: use {usable}.", f"{path}{_safe(unknown)}"
        )
    if name is None and first["type"] == "string_unicode":
        return RequestError(f"The name of a parameter {HALF}.", path.rstrip("."))
    if name is None:
        return RequestError(f"{_item(owner, path)} must say {owner.holds}.", path.rstrip("."))
    info = owner.model_fields[name]
    subject, told = _subject(owner, info, path), description_of(info).missing
    wanted, field = _wanted(info, settings), f"{path}{name}"
    if first["type"] == "missing":
        give = "" if kind_of(info) is Kind.TEXT else f": give {wanted}"
        return RequestError(told or f"{subject} is missing{give}.", field)
    if kind_of(info) is Kind.GROUP and told:
        return RequestError(told, field)
    return RequestError(f"{subject} must be {wanted}, not {shown(first['input'])}.", field)


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence, as many as fit it."""
    shown_names: list[str] = []
    for name in names:
        if len(", ".join([*shown_names, name])) > LONGEST_LIST:
            return ", ".join([*shown_names, "…"])
        shown_names.append(name)
    return ", ".join(shown_names)


def _safe(text: str) -> str:
    """A text that goes back to whoever sent it: short, and whole characters alone."""
    short = text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
    return short.encode(errors="replace").decode()


def _place(model: type[Request], loc: Sequence[int | str]) -> tuple[type[Request], str | None, str]:
    """The model and parameter that an error's place is in, and the path before it.

    Places also name branches of unions, which are no parameters.
    """
    name, path = None, ""
    for part in loc:
        if name is None:
            name = part if isinstance(part, str) and part in model.model_fields else None
        elif isinstance(part, int) and (item := item_of(model.model_fields[name])):
            path += f"{name}.{part}."
            model, name = item, None
    return model, name, path


def _item(model: type[Request], path: str) -> str:
    """`Edit 2`, for the path `edits.1.`."""
    return f"{model.noun.capitalize()} {_number(path)}"


def _number(path: str) -> int:
    return int(path.rstrip(".").rpartition(".")[2]) + 1


def _subject(model: type[Request], info: FieldInfo, path: str = "") -> str:
    """What a sentence about a parameter begins with: `Strength`, or `The strength of edit 2`."""
    title = str(info.title)
    if not path:
        return title
    name = title if title.isupper() else title[0].lower() + title[1:]
    return f"The {name} of {model.noun} {_number(path)}"


def _wanted(info: FieldInfo, settings: Settings) -> str:
    """What a parameter must be, as the end of a sentence."""
    kind = kind_of(info)
    if kind is Kind.CHOICE:
        words = [word for word in choices_of(info) if word]
        numbers = ", or token numbers" if takes_numbers(info) else ""
        return f"one of {', '.join(words)}{numbers}"
    if kind is Kind.ITEMS:
        item = item_of(info)
        if holds_texts(info):
            return "texts"
        if item is None:
            return "numbers" if holds_fractions(info) else "whole numbers"
        nouns = item.noun + ("es" if item.noun.endswith("ch") else "s")
        return f"one or more {nouns}, each with {item.holds}"
    if kind not in (Kind.WHOLE, Kind.NUMBER):
        return kind
    least, most = bounds_of(info, settings)
    if least is None and most is None:
        return kind
    join = " from " if least is not None and most is not None else ", "
    return f"{kind}{join}{range_in_words(least, most)}"


def _check_bounds(request: Request, settings: Settings, path: str = "") -> None:
    for name, info in type(request).model_fields.items():
        value, subject = getattr(request, name), _subject(type(request), info, path)
        least, most = bounds_of(info, settings)
        if isinstance(value, str):
            _check_text(value, subject, most, f"{path}{name}")
        elif isinstance(value, list):
            _check_count(value, info, most, f"{path}{name}")
            for number, item in enumerate(value if item_of(info) else ()):
                _check_bounds(item, settings, f"{path}{name}.{number}.")
            for number, text in enumerate(value if holds_texts(info) else ()):
                _check_text(text, f"Text {number + 1}", None, f"{path}{name}.{number}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            inside = (least is None or value >= least) and (most is None or value <= most)
            if not inside or (isinstance(value, float) and not math.isfinite(value)):
                raise RequestError(
                    f"{subject} must be {_wanted(info, settings)}, not {shown(value)}.",
                    f"{path}{name}",
                )


def _check_text(value: str, subject: str, most: float | None, field: str) -> None:
    if most is not None and len(value) > most:
        raise RequestError(
            f"{subject} is {len(value):,} characters long: use at most {figure(most)}.", field
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{subject} {HALF}.", field) from None


def _check_count(value: list[Any], info: FieldInfo, most: float | None, field: str) -> None:
    described = description_of(info)
    if not value and described.missing:
        raise RequestError(described.missing, field)
    if most is not None and len(value) > most:
        raise RequestError(
            f"{len(value):,} {described.unit} are more than the limit of {figure(most)}.", field
        )
