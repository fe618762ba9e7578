"""Every parameter of every request, given right, left out, and wrong in each way that there is."""

import math
from typing import Any, Final, get_args

import pytest

from app.endpoints import ENDPOINTS
from app.requests import (
    AnalysisNumber,
    CheckRequest,
    CoActivationRequest,
    CompareRequest,
    ContextNumber,
    DeltaLossRequest,
    EditRequest,
    EffectNumber,
    EffectsRequest,
    ExplainRequest,
    FeatureOnTextRequest,
    FeatureRequest,
    FindRequest,
    Kind,
    LadderRequest,
    ListsRequest,
    MapRequest,
    Message,
    NotesRequest,
    PairRequest,
    Parameter,
    PatchRequest,
    PromptFeaturesRequest,
    ProveRequest,
    RatingsRequest,
    ReproduceRequest,
    Request,
    RequestError,
    RunNumber,
    SavedRequest,
    SearchRequest,
    SpliceRequest,
    SqlRequest,
    SteerRequest,
    SwitchRequest,
    ThresholdRequest,
    TokensRequest,
    parameters_of,
    parsed,
    shown,
)
from app.requests.models import Sort
from app.settings import Settings
from sae_core.index import SORTS
from tests.unit.service_support import NO_PLAIN_WORDS, one_sentence

SETTINGS: Final = Settings()
EDIT: Final = {"feature": 5}
SAID: Final = {"role": "user", "content": "Where?"}

RIGHT: Final[dict[type[Request], dict[str, Any]]] = {
    FeatureRequest: {"feature": 5},
    SearchRequest: {},
    NotesRequest: {"feature": 5},
    ListsRequest: {},
    SavedRequest: {},
    PromptFeaturesRequest: {"text": "The river"},
    DeltaLossRequest: {"text": "The river"},
    FeatureOnTextRequest: {"text": "The river", "feature": 5},
    TokensRequest: {"text": "The river"},
    EffectsRequest: {"text": "The river"},
    CompareRequest: {"text": "The river", "other_text": "The ship"},
    PatchRequest: {"text": "The river", "other_text": "The ship", "features": [5]},
    SpliceRequest: {"text": "The river"},
    SqlRequest: {"query": "SELECT 1"},
    SteerRequest: {"prompt": "The river", "edits": [EDIT]},
    LadderRequest: {"prompt": "The river", "edits": [EDIT]},
    ProveRequest: {"prompt": "The river", "edits": [EDIT]},
    ExplainRequest: {"feature": 5},
    RatingsRequest: {},
    ThresholdRequest: {"feature": 5},
    CheckRequest: {},
    FindRequest: {"positives": ["The river"]},
    MapRequest: {},
    CoActivationRequest: {"feature": 5},
    ReproduceRequest: {"asked": {"quantity": "l0", "text": "The river"}},
    AnalysisNumber: {"quantity": "l0", "text": "The river"},
    EffectNumber: {"effect": "kl", "token": 2, "position": 1, "feature": 5, "target": 3},
    RunNumber: {"settings": {"prompt": "x"}, "arm": "base", "step": 0, "edit": 0},
    ContextNumber: {"feature": 5, "group": "top", "context": 0},
}
"""Requests, each with what it requires."""

NESTED: Final[dict[type[Request], tuple[type[Request], str, dict[str, Any]]]] = {
    EditRequest: (SteerRequest, "edits", EDIT),
    Message: (DeltaLossRequest, "messages", SAID),
    PairRequest: (EffectsRequest, "joint", {"position": 1, "feature": 5}),
    SwitchRequest: (SpliceRequest, "states", {"sae": "tiny"}),
}
"""Requests within others: in which, under which name, and one that is right."""

STRANGE: Final[list[Any]] = [
    True,
    7,
    2.5,
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    "x",
    "half \ud800",
    "words " * 50_000,
    [],
    [1],
    ["x"],
    [[]],
    {},
    {"colour": 1},
    {"\ud800": 1},
    b"x",
    object(),
]
"""Values of every type that may come from outside, and some that may not."""

PARAMETERS: Final = [
    pytest.param(model, each, id=f"{model.__name__}.{each.name}")
    for model in (*RIGHT, *NESTED)
    for each in parameters_of(model, SETTINGS)
]


def test_every_request_is_tested_here() -> None:
    assert {endpoint.request for endpoint in ENDPOINTS} <= set(RIGHT)


def fits(value: Any, parameter: Parameter) -> bool:
    """Whether a value is one that the parameter takes, by a second reading of its description."""
    least = -math.inf if parameter.least is None else parameter.least
    most = math.inf if parameter.most is None else parameter.most
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match parameter.kind:
        case Kind.WHOLE:
            return is_number and math.isfinite(value) and value % 1 == 0 and least <= value <= most
        case Kind.NUMBER:
            return is_number and math.isfinite(value) and least <= value <= most
        case Kind.TEXT:
            return isinstance(value, str) and "\ud800" not in value and len(value) <= most
        case Kind.FLAG:
            return isinstance(value, bool)
        case Kind.CHOICE:
            numbers = parameter.name == "positions" and value in ([], [1])
            return numbers or value in parameter.choices
        case Kind.ITEMS:
            numbers = {"strengths": ([], [1]), "features": ([1],), "marked": ([], [1])}
            texts = {"positives": (["x"],), "negatives": ([], ["x"])}
            return value in (*numbers.get(parameter.name, ()), *texts.get(parameter.name, ()))
        case Kind.GROUP:
            return isinstance(value, dict)


def given(model: type[Request], **changed: Any) -> Request:
    """A request, or the one that it stands in, with some parameters changed."""
    if model in NESTED:
        outer, name, right = NESTED[model]
        return parsed(outer, {**RIGHT[outer], name: [right, {**right, **changed}]}, SETTINGS)
    return parsed(model, {**RIGHT[model], **changed}, SETTINGS)


def place(model: type[Request], name: str) -> str:
    """Where an error about a parameter says that it is."""
    return f"{NESTED[model][1]}.1.{name}" if model in NESTED else name


def is_huge(value: Any) -> bool:
    return isinstance(value, int) and value > 10**300


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:16])
@pytest.mark.parametrize(("model", "parameter"), PARAMETERS)
def test_a_value_is_taken_or_gets_one_sentence(
    model: type[Request], parameter: Parameter, value: Any
) -> None:
    if is_huge(value) and parameter.kind is Kind.NUMBER:
        right = False
    elif is_huge(value):
        right = parameter.kind is Kind.WHOLE and parameter.most is None
    else:
        right = fits(value, parameter)
    if right:
        assert given(model, **{parameter.name: value})
        return
    with one_sentence():
        given(model, **{parameter.name: value})
    with pytest.raises(RequestError) as caught:
        given(model, **{parameter.name: value})
    field, expected = caught.value.field, place(model, parameter.name)
    assert field == expected or field.startswith(f"{expected}."), f"{field}: {caught.value}"


@pytest.mark.parametrize(("model", "parameter"), PARAMETERS)
def test_bounds_hold_at_their_edges(model: type[Request], parameter: Parameter) -> None:
    if parameter.kind not in (Kind.WHOLE, Kind.NUMBER):
        return
    step = 1 if parameter.kind is Kind.WHOLE else 1e-9
    for bound, outward in ((parameter.least, -step), (parameter.most, step)):
        if bound is None:
            continue
        assert given(model, **{parameter.name: bound})
        beyond = bound + outward if abs(bound) < 1000 else bound * (1 + 1e-6)
        beyond = int(bound) + int(outward) if parameter.kind is Kind.WHOLE else beyond
        with one_sentence(place(model, parameter.name)):
            given(model, **{parameter.name: beyond})


@pytest.mark.parametrize(("model", "parameter"), PARAMETERS)
def test_what_is_left_out_has_its_default_or_is_asked_for(
    model: type[Request], parameter: Parameter
) -> None:
    """None stands for what is left out, whatever the parameter is."""
    if parameter.required:
        with one_sentence(place(model, parameter.name)):
            given(model, **{parameter.name: None})
        return
    request = given(model, **{parameter.name: None})
    if model in NESTED:
        request = getattr(request, NESTED[model][1])[1]
    if parameter.name not in RIGHT.get(model, {}):
        assert getattr(request, parameter.name) == parameter.default


@pytest.mark.parametrize("model", [*RIGHT, *NESTED], ids=lambda model: model.__name__)
def test_an_unknown_parameter_is_named(model: type[Request]) -> None:
    for value in (1, None, "\ud800"):
        with one_sentence(place(model, "colour")):
            given(model, colour=value)
    with pytest.raises(RequestError, match=r"no parameter “colour”: use \w+"):
        given(model, colour=1)
    with one_sentence():
        given(model, **{"\ud800": 1})
    with one_sentence():
        given(model, **{"colour" * 1000: 1})


def test_answers_edits_may_come_back() -> None:
    answered = {**EDIT, "strength": 1.0, "value": 3.2, "max_act": 3.2, "signature": "river"}
    assert parsed(SteerRequest, {"edits": [answered]}, SETTINGS)
    assert "max_act" not in {each.name for each in parameters_of(EditRequest, SETTINGS)}
    with pytest.raises(RequestError) as caught:
        parsed(SteerRequest, {"edits": [{**EDIT, "colour": 1}]}, SETTINGS)
    assert "max_act" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "changed", "sentence", "field"),
    [
        (FeatureRequest, {"feature": "five"}, "not “five”.", "feature"),
        (FeatureRequest, {"feature": True}, "not yes.", "feature"),
        (FeatureRequest, {"feature": math.nan}, "not an undefined number.", "feature"),
        (SearchRequest, {"limit": 1000}, "whole number from 1 to 200, not 1000.", "limit"),
        (SqlRequest, {"query": "x" * 8001}, "8,001 characters long: use at most 8,000.", "query"),
        (SearchRequest, {"query": "x" * 201}, "201 characters long: use at most 200.", "query"),
        (SteerRequest, {"seed": 2**32}, "from 0 to 4,294,967,295,", "seed"),
        (SteerRequest, {"edits": []}, "Add at least one edit: choose", "edits"),
        (SteerRequest, {"edits": None}, "Add at least one edit: choose", "edits"),
        (SteerRequest, {"edits": [EDIT] * 9}, "9 edits are more than the limit of 8.", "edits"),
        (SteerRequest, {"edits": [EDIT, 5]}, "Edit 2 must say a feature and", "edits.1"),
        (
            SteerRequest,
            {"edits": [{**EDIT, "mode": "boom"}]},
            "The mode of edit 1 must be one of set, scale, add, ablate, cap, not “boom”.",
            "edits.0.mode",
        ),
        (
            SteerRequest,
            {"edits": [EDIT, {**EDIT, "strength": 101}]},
            "The strength of edit 2 must be a number from -100 to 100, not 101.",
            "edits.1.strength",
        ),
        (
            SteerRequest,
            {"edits": [{**EDIT, "positions": [1, "a"]}]},
            "one of continuation, all, prompt, generated, or token numbers, not “a”.",
            "edits.0.positions",
        ),
        (SpliceRequest, {"text": "a", "states": 5}, "one or more switches, each with", "states"),
        (DeltaLossRequest, {"messages": []}, "Add at least one message", "messages"),
        (
            DeltaLossRequest,
            {"messages": [SAID, {"role": "user"}]},
            "The text of message 2 is missing.",
            "messages.1.content",
        ),
    ],
)
def test_sentences_say_what_to_do(
    model: type[Request], changed: dict[str, Any], sentence: str, field: str
) -> None:
    with pytest.raises(RequestError) as caught:
        given(model, **changed)
    assert sentence in str(caught.value)
    assert caught.value.field == field


def test_limits_are_those_of_the_settings() -> None:
    narrow = Settings(max_rows=20, max_new_tokens=9, max_temperature=0.5, max_edits=1)
    search = parsed(SearchRequest, {}, narrow)
    assert search.limit == 20, "the default gives way to the limit"
    run = parsed(SteerRequest, {"edits": [EDIT]}, narrow)
    assert (run.max_new_tokens, run.temperature) == (9, 0.5)
    with pytest.raises(RequestError, match="from 1 to 20, not 21"):
        parsed(SearchRequest, {"limit": 21}, narrow)
    with pytest.raises(RequestError, match="2 edits are more than the limit of 1"):
        parsed(SteerRequest, {"edits": [EDIT] * 2}, narrow)


def test_whole_numbers_may_come_as_javascript_writes_them() -> None:
    request = parsed(SteerRequest, {"edits": [{"feature": 5.0, "positions": [1.0, 2]}]}, SETTINGS)
    assert isinstance(request.edits[0].feature, int)
    assert request.edits[0].positions == [1, 2]


def test_a_request_does_not_change() -> None:
    request = parsed(FeatureRequest, {"feature": 5}, SETTINGS)
    with pytest.raises(ValueError, match="frozen"):
        request.feature = 6  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("model", "parameter"), PARAMETERS)
def test_every_parameter_is_described_in_plain_words(
    model: type[Request], parameter: Parameter
) -> None:
    assert parameter.title
    assert parameter.title[0].isupper()
    assert parameter.sentence.endswith(".")
    assert not NO_PLAIN_WORDS.search(f"{parameter.title} {parameter.sentence} {parameter.limits}")
    if parameter.kind is Kind.ITEMS:
        assert parameter.items or parameter.or_numbers or parameter.texts


def test_values_as_they_stand_in_a_sentence() -> None:
    assert [shown(v) for v in (None, "", True, False, 3, 2.5, math.inf, [1], {}, "a\nb")] == [
        "nothing",
        "nothing",
        "yes",
        "no",
        "3",
        "2.5",
        "an infinite number",
        "several values",
        "a group of values",
        "“a b”",
    ]
    assert len(shown("x" * 1000)) < 50
    assert len(shown(10**4000)) < 50


def test_what_can_be_sorted_by_is_what_an_index_sorts_by() -> None:
    assert get_args(Sort) == ("", *SORTS)
