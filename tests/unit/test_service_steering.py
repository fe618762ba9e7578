"""Steering through the service: units, streams, limits, repeatable settings."""

from typing import Any

import pytest

from app.endpoints import Api
from app.requests import SteerRequest, parsed
from app.service import steer
from app.settings import Settings
from sae_core.bundle import Bundle
from tests import tiny
from tests.unit.service_support import (
    FIRING,
    OTHER,
    api_of,
    as_json,
    counted_forwards,
    steer_stream,
    text_of,
)


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle) -> Api:
    return api_of(tiny_bundle)


def test_an_edit_that_changes_nothing_changes_nothing(api: Api) -> None:
    edits = [{"feature": tiny.ALWAYS, "mode": "scale", "strength": 1}]
    result = as_json(api.steer("The river", edits, max_new_tokens=12, temperature=1))
    assert len(result["base"]) == 12
    for base, steered in zip(result["base"], result["steered"], strict=True):
        assert steered["own"] == steered["after"]
        # The two are different rows of one matrix product, which may round differently.
        assert steered.pop("own") == pytest.approx(base.pop("own"), abs=1e-5)
        assert steered.pop("after") == pytest.approx(base.pop("after"), abs=1e-5)
        assert steered == base


def test_strength_is_in_multiples_of_the_largest_activation(api: Api) -> None:
    largest = api.feature(FIRING)["max_act"]
    result = api.steer(
        "The river",
        [
            {"feature": FIRING, "mode": "set", "strength": 2.5},
            {"feature": FIRING, "mode": "scale", "strength": 3},
            {"feature": OTHER, "mode": "ablate"},
        ],
        max_new_tokens=3,
        temperature=0,
    )
    values = [edit["value"] for edit in result["edits"]]
    assert values == pytest.approx([2.5 * largest, 3.0, 0.0])
    assert result["edits"][0]["max_act"] == largest
    assert result["edits"][0]["positions"] == "continuation"
    for row in result["base"]:
        assert row["own"] == row["after"]
        assert len(row["own"]) == 3
        assert row["own"][0] == row["own"][1]
    # Decoder rows are half of the unit-norm encoder's: half of the change is read back.
    assert all(row["after"][0] > row["own"][0] for row in result["steered"])


def test_a_value_is_in_the_activation_s_own_units(api: Api) -> None:
    edits = [
        {"feature": FIRING, "mode": "set", "value": 3.25},
        {"feature": FIRING, "mode": "scale", "value": 2},
        {"feature": tiny.DEAD, "mode": "add", "value": -0.5},
    ]
    result = as_json(api.steer("The river", edits, max_new_tokens=3, temperature=0))
    assert [edit["value"] for edit in result["edits"]] == [3.25, 2.0, -0.5]
    assert not any("strength" in edit for edit in result["edits"])
    assert as_json(api.steer(**result["settings"])) == result
    # A strength beside a value is what was asked for; the value is what an answer said it came to.
    both = [{"feature": FIRING, "strength": 2, "value": 1e9}]
    (edit,) = api.steer("The river", both, max_new_tokens=1)["edits"]
    assert edit["value"] == 2 * edit["max_act"]


def test_the_settings_in_an_answer_repeat_it(api: Api) -> None:
    edits = [{"feature": FIRING, "strength": 1.5, "positions": [1, 2, 5]}, {"feature": OTHER}]
    result = as_json(api.steer("A student", edits, max_new_tokens=6, temperature=1, seed=7))
    assert as_json(api.steer(**result["settings"])) == result
    # The edits as answered, with their raw values, are understood too.
    again = api.steer(**{**result["settings"], "edits": result["edits"]})
    assert as_json(again) == result
    other = api.steer(**{**result["settings"], "seed": 8})
    assert text_of(other["base"]) != text_of(result["base"])


def test_a_stream_grows_token_by_token_into_the_answer(api: Api) -> None:
    edits = [{"feature": FIRING, "strength": 2}]
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0}
    answers = list(steer_stream(api, "My neighbour", edits, **options))
    lengths = [len(answer["steered"]) for answer in answers]
    assert lengths == [*range(9), 8]
    assert [answer["done"] for answer in answers] == [False] * 9 + [True]
    assert answers[-1] == api.steer("My neighbour", edits, **options)
    # An answer given out is not changed by later tokens.
    assert answers[3]["steered"] == answers[-1]["steered"][:3]
    assert answers[-1]["steered"][0]["i"] == len(answers[-1]["prompt_tokens"])


@pytest.mark.parametrize(("seconds", "few"), [(3600.0, steer.FEW), (1.0, 1 / 3600)])
def test_the_first_and_the_last_answer_of_a_run_are_always_sent(
    api: Api, monkeypatch: pytest.MonkeyPatch, seconds: float, few: float
) -> None:
    """However long the others have to wait, as where many people generate."""
    monkeypatch.setattr(steer, "FRAME_SECONDS", seconds)
    monkeypatch.setattr(steer, "FEW", few)
    given = {"prompt": "The ship", "edits": [{"feature": FIRING}], "max_new_tokens": 6}
    run = parsed(SteerRequest, given, api.workbench.settings)
    answers = list(steer.steer(api.workbench, run))
    assert [len(answer["base"]) for answer in answers] == [0, 6]
    assert [answer["done"] for answer in answers] == [False, True]


def test_closing_a_stream_ends_the_work(api: Api) -> None:
    model = api.workbench.load().model
    with counted_forwards(model) as forwards:
        stream = steer_stream(api, "The ship", [{"feature": FIRING}], max_new_tokens=50)
        for _ in range(4):
            next(stream)
        stream.close()  # pyright: ignore[reportAttributeAccessIssue] - it is a generator
        done = len(forwards)
        assert done <= 4
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert list(stream) == []


def test_a_run_ends_at_its_time_limit_and_says_so(tiny_bundle: Bundle) -> None:
    hasty = api_of(tiny_bundle, Settings(threads=1, max_seconds=1e-6))
    result = hasty.steer("The ship", [{"feature": FIRING}], max_new_tokens=50)
    assert len(result["steered"]) == 1
    assert result["done"]
    assert "1e-06 seconds" in result["note"]


def test_edits_of_generated_tokens_leave_the_prompt_alone(api: Api) -> None:
    strong = {"feature": FIRING, "mode": "add", "strength": 20}
    options: dict[str, Any] = {"max_new_tokens": 4, "temperature": 0}
    late = api.steer("The ship", [{**strong, "positions": "generated"}], **options)
    early = api.steer("The ship", [{**strong, "positions": "prompt"}], **options)
    # The first new token is predicted from the prompt alone.
    assert late["steered"][0]["id"] == late["base"][0]["id"]
    assert early["steered"][0]["after"] == early["steered"][0]["own"]
    assert late["steered"][0]["after"] != late["steered"][0]["own"]
