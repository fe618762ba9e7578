"""What a run says of its edits: where they applied, what they touched, how far they went."""

from typing import Any

import pytest

from app.endpoints import Api
from app.service import edit_effects
from app.settings import Settings
from sae_core.bundle import Bundle
from tests import tiny
from tests.unit.service_support import FIRING, OTHER, api_of, as_json, one_sentence, steer_stream

PROMPT = "The river remembers two letters"
OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0}


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle) -> Api:
    return api_of(tiny_bundle)


def test_where_nothing_is_said_an_edit_begins_at_the_prompts_last_token(api: Api) -> None:
    edit = {"feature": FIRING, "mode": "add", "strength": 30}
    result = as_json(api.steer(PROMPT, [edit], **OPTIONS))
    assert result["edits"][0]["positions"] == "continuation"
    assert result["settings"]["edits"][0]["positions"] == "continuation"
    new = len(result["steered"])
    assert result["edited"] == [{"applied": new + 1, "changed": new + 1, "sentence": None}]
    assert result["steered"][0]["id"] != result["base"][0]["id"]
    late = api.steer(PROMPT, [{**edit, "positions": "generated"}], **OPTIONS)
    assert late["edited"][0]["changed"] == len(late["steered"])
    assert late["steered"][0]["id"] == late["base"][0]["id"]
    everywhere = api.steer(PROMPT, [{**edit, "positions": "all"}], **OPTIONS)
    counted = len(everywhere["prompt_tokens"]) - 1 + len(everywhere["steered"])
    assert everywhere["edited"][0]["changed"] == counted


@pytest.mark.parametrize(
    ("edit", "applied", "why"),
    [
        ({"feature": FIRING, "positions": [0]}, False, "token 0 is special"),
        ({"feature": tiny.DEAD, "mode": "ablate"}, True, f"#{tiny.DEAD} is off on all 7 that"),
        ({"feature": FIRING, "mode": "cap", "strength": 90}, True, "stays below the cap on all 7"),
        ({"feature": FIRING, "mode": "add", "value": 0}, True, "has that activation already"),
        (
            {"feature": FIRING, "condition_feature": tiny.DEAD, "condition_above": 1.5},
            False,
            f"#{tiny.DEAD}, its condition, fires above 1.5 on none of those",
        ),
    ],
)
def test_an_edit_that_touches_no_token_says_why(
    api: Api, edit: dict[str, Any], applied: bool, why: str
) -> None:
    edits = [{"feature": OTHER, "strength": 1}, edit]
    answers = list(steer_stream(api, PROMPT, edits, **OPTIONS))
    first, second = answers[-1]["edited"]
    assert first["changed"] > 0
    assert first["sentence"] is None
    assert second["changed"] == 0
    assert bool(second["applied"]) is applied
    assert second["sentence"].startswith("Edit 2 changed no token: ")
    assert why in second["sentence"]
    assert second["sentence"].endswith(".")
    assert all(answer["edited"][1]["sentence"] is None for answer in answers[:-1])


def test_a_token_that_the_text_does_not_reach_is_named(api: Api) -> None:
    hasty = api_of(api.workbench.bundle, Settings(threads=1, max_seconds=1e-6))
    length = len(hasty.tokens(PROMPT)["tokens"])
    result = hasty.steer(PROMPT, [{"feature": FIRING, "positions": [length + 5]}], **OPTIONS)
    assert "the text ended before the first that it names" in result["edited"][0]["sentence"]


def test_conditions_and_fading_are_in_the_settings_that_repeat_a_run(api: Api) -> None:
    edits = [
        {
            "feature": FIRING,
            "strength": 20,
            "positions": "all",
            "condition_feature": tiny.ALWAYS,
            "condition_above": 0.2,
            "fade": 4,
        },
        {"feature": OTHER, "strength": 1},
    ]
    result = as_json(api.steer(PROMPT, edits, **OPTIONS))
    assert as_json(api.steer(**result["settings"])) == result
    assert as_json(api.steer(**{**result["settings"], "edits": result["edits"]})) == result
    conditioned, plain = result["settings"]["edits"]
    assert conditioned["condition_sae"] == tiny.SAE_NAME
    assert conditioned["fade"] == 4
    assert not {"fade", "condition_feature", "condition_above", "condition_sae"} & set(plain)
    tokens = len(result["prompt_tokens"]) - 1 + 3  # it has faded on the fourth new token
    assert 0 < result["edited"][0]["applied"] < tokens


def test_mistakes_of_conditions_are_sentences(api: Api) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"condition_feature": 64}, "condition_feature"),
        ({"condition_feature": 1, "condition_sae": "none"}, "condition_sae"),
        ({"condition_feature": 1, "condition_above": -1}, "condition_above"),
        ({"condition_above": 2}, "condition_feature"),
        ({"fade": 0}, "fade"),
        ({"positions": "everywhere"}, "positions"),
    ]
    for change, field in wrong:
        with one_sentence(f"edits.0.{field}"):
            api.steer(PROMPT, [{"feature": FIRING, **change}], **OPTIONS)


def test_how_far_edits_go_together(api: Api, tiny_bundle: Bundle) -> None:
    small = api.steer(PROMPT, [{"feature": FIRING, "value": 0.5}], **OPTIONS)
    [size] = small["sizes"]
    assert size["sae"] == tiny.SAE_NAME
    assert size["tokens"] == len(small["steered"]) + 1
    assert 0 < size["asked"] < edit_effects.LARGE
    assert size["realised"] == pytest.approx(size["asked"], rel=1e-4)
    assert small["warnings"] == []
    several = [{"feature": feature, "strength": 90} for feature in (FIRING, OTHER, 8, 9)]
    large = api.steer(PROMPT, several, **OPTIONS)
    assert large["sizes"][0]["asked"] > edit_effects.LARGE
    [warning] = large["warnings"]
    assert warning["about"] == "size"
    assert "usually falls apart" in warning["sentence"]
    rough = api_of(tiny_bundle, Settings(threads=1, dtype="bfloat16"))
    tiny_change = rough.steer(PROMPT, [{"feature": FIRING, "mode": "add", "value": 0.2}], **OPTIONS)
    [hint] = tiny_change["warnings"]
    assert hint["about"] == "dtype"
    assert hint["sentence"].startswith("In bfloat16 the change that was made differs by")
    assert tiny_change["sizes"][0]["deviation"] > 0.01
