"""What a parameter of a request is: its default, kind, bounds, unit and sentence.

`parameter` describes one within a model. The functions that end in `_of` read the description, for
whatever is made from it: endpoints, tools, the API page, forms, docs and the sentences of errors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from app.settings import Settings

Bound = float | str | None
"""A number, the name of a setting, its negative as `-name`, or no bound."""


def _as_whole(value: object) -> object:
    """3.0 is a whole number: JavaScript has no other."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_as_whole)]


class Kind(StrEnum):
    """What values a parameter takes."""

    WHOLE = "a whole number"
    NUMBER = "a number"
    TEXT = "text"
    FLAG = "yes or no"
    CHOICE = "a choice"
    ITEMS = "items"
    GROUP = "named values"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a parameter's type does not say."""

    unit: str
    least: Bound
    most: Bound
    missing: str
    unread: bool


def parameter(
    default: Any,
    title: str,
    sentence: str,
    *,
    unit: str = "",
    least: Bound = None,
    most: Bound = None,
    missing: str = "",
    unread: bool = False,
) -> Any:
    """A parameter of a request; `...` as the default makes it required.

    Bounds are those of a number, of a text's characters or of a list's items. `missing` is said
    instead of the usual sentence where the parameter is missing or empty. One that is `unread` may
    be given, since answers have it, and is shown to nobody.
    """
    extra: dict[str, Any] = {
        "unit": unit,
        "least": least,
        "most": most,
        "missing": missing,
        "unread": unread,
    }
    return Field(default, title=title, description=sentence, json_schema_extra=extra)


class Request(BaseModel):
    """Base of all requests: unknown parameters and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    noun: ClassVar[str] = "request"
    """What one is called among others of its kind: `edit` for the edits of a run."""
    holds: ClassVar[str] = "parameters"
    """What one consists of."""

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, given: Any) -> Any:
        return given_values(cls, given) if isinstance(given, Mapping) else given


def given_values(model: type[Request], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given for a request: None stands for a parameter that is left out."""
    fields = model.model_fields
    return {n: value for n, value in given.items() if value is not None or n not in fields}


def description_of(info: FieldInfo) -> Description:
    """What `parameter` was told."""
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    return Description(**extra)  # pyright: ignore[reportArgumentType] - as `parameter` wrote it


def bounds_of(info: FieldInfo, settings: Settings) -> tuple[float | None, float | None]:
    """The least and the most that a parameter may be under these settings; None is no bound."""
    described = description_of(info)
    return _bound(described.least, settings), _bound(described.most, settings)


def _bound(written: Bound, settings: Settings) -> float | None:
    if isinstance(written, str):
        return (-1 if written[0] == "-" else 1) * getattr(settings, written.removeprefix("-"))
    return written


def default_of(info: FieldInfo, settings: Settings) -> Any:
    """A parameter's default under these settings: no more than they allow."""
    _, most = bounds_of(info, settings)
    if most is None or info.default is None or kind_of(info) not in (Kind.WHOLE, Kind.NUMBER):
        return info.default
    return min(info.default, most)


def range_in_words(least: float | None, most: float | None) -> str:
    """Bounds, of which one is not None: `0 to 1`, `0 or more`, `at most 8`."""
    if most is None:
        assert least is not None
        return f"{figure(least)} or more"
    return f"at most {figure(most)}" if least is None else f"{figure(least)} to {figure(most)}"


def figure(number: float) -> str:
    """A bound as it is written: grouped, no more digits than it has."""
    return f"{number:,.0f}" if number == int(number) else f"{number:,g}"


_KINDS: Final = {
    bool: Kind.FLAG,
    int: Kind.WHOLE,
    float: Kind.NUMBER,
    str: Kind.TEXT,
    list: Kind.ITEMS,
    dict: Kind.GROUP,
}


def kind_of(info: FieldInfo) -> Kind:
    """What values a parameter takes; of one that takes several, the first that it names."""
    first = next(_alternatives(info.annotation))
    if get_origin(first) is Literal:
        return Kind.CHOICE
    return _KINDS[get_origin(first) or first]


def choices_of(info: FieldInfo) -> tuple[str, ...]:
    """The words that a parameter may be; none unless it is a choice."""
    return tuple(
        word
        for each in _alternatives(info.annotation)
        if get_origin(each) is Literal
        for word in get_args(each)
    )


def takes_numbers(info: FieldInfo) -> bool:
    """`Parameter.or_numbers`."""
    lists = (each for each in _alternatives(info.annotation) if get_origin(each) is list)
    return any(get_args(each) != (str,) for each in lists)


def holds_fractions(info: FieldInfo) -> bool:
    """Whether a parameter is a list of numbers that need not be whole."""
    return any(get_args(each) == (float,) for each in _alternatives(info.annotation))


def holds_texts(info: FieldInfo) -> bool:
    """Whether a parameter is a list of texts."""
    return any(get_args(each) == (str,) for each in _alternatives(info.annotation))


def item_of(info: FieldInfo) -> type[Request] | None:
    """The request that each item of a parameter is; None if its items are none."""
    for each in _alternatives(info.annotation):
        if get_origin(each) is list:
            (item,) = get_args(each)
            if isinstance(item, type) and issubclass(item, Request):
                return item
    return None


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The types of a union, without None and without what is annotated to them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for each in get_args(annotation):
            yield from _alternatives(each)
    elif annotation is not NoneType:
        yield annotation


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter under some settings, as it is told to people and programs."""

    name: str
    title: str
    sentence: str
    kind: Kind
    unit: str
    required: bool
    default: Any
    """None where it is required, or where leaving it out is a value of its own."""
    least: float | None
    most: float | None
    choices: tuple[str, ...]
    or_numbers: bool
    """Whether it may be several whole numbers instead of one of its choices."""
    fractions: bool
    """Whether it is a list of numbers that need not be whole."""
    texts: bool
    """Whether it is a list of texts."""
    items: tuple["Parameter", ...]
    """Those of each item of a list; none of a list of numbers or texts."""

    @property
    def limits(self) -> str:
        """Bounds and unit in words, empty where there are none: `1 to 200 tokens`."""
        if self.least is None and self.most is None:
            return ""
        return f"{range_in_words(self.least, self.most)} {self.unit}".strip()


def parameters_of(model: type[Request], settings: Settings) -> tuple[Parameter, ...]:
    """A request's parameters in their order, without those that are not read."""
    parameters = []
    for name, info in model.model_fields.items():
        if description_of(info).unread:
            continue
        least, most = bounds_of(info, settings)
        item = item_of(info)
        parameters.append(
            Parameter(
                name=name,
                title=str(info.title),
                sentence=str(info.description),
                kind=kind_of(info),
                unit=description_of(info).unit,
                required=info.is_required(),
                default=None if info.is_required() else default_of(info, settings),
                least=least,
                most=most,
                choices=choices_of(info),
                or_numbers=takes_numbers(info),
                fractions=holds_fractions(info),
                texts=holds_texts(info),
                items=() if item is None else parameters_of(item, settings),
            )
        )
    return tuple(parameters)
