"""Proofs through the service: the controls that are taken, settings that repeat, limits."""

from types import SimpleNamespace
from typing import Any

import pytest

from app.endpoints import Api
from app.requests import ProveRequest, parsed
from app.service import prove
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.proof import like_frequency
from tests import tiny
from tests.unit.service_support import (
    FIRING,
    OTHER,
    api_of,
    as_json,
    counted_forwards,
    one_sentence,
    text_of,
)

PROOF: dict[str, Any] = {
    "prompt": "The river",
    "edits": [{"feature": FIRING, "mode": "set", "strength": 3}],
    "max_new_tokens": 8,
    "seeds": 4,
    "seed": 2,
    "temperature": 0.9,
}


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle) -> Api:
    return api_of(tiny_bundle)


@pytest.fixture(scope="module")
def answer(api: Api) -> dict[str, Any]:
    return as_json(api.prove(**PROOF))


def test_the_arms_are_the_edit_and_its_controls(api: Api, answer: dict[str, Any]) -> None:
    frequencies = api.workbench.index().frequencies()
    like = like_frequency(frequencies, FIRING)
    assert [(arm["kind"], arm["feature"]) for arm in answer["arms"]] == [
        ("without", None),
        ("target", FIRING),
        *(("feature", feature) for feature in like),
        ("random", None),
        ("opposite", FIRING),
    ]
    for arm in answer["arms"]:
        assert [run["seed"] for run in arm["runs"]] == [2, 3, 4, 5]
        assert arm["passed"] == sum(run["passed"] for run in arm["runs"])
        assert arm["low"] <= arm["passed"] / 4 <= arm["high"]
        if arm["feature"] is not None:
            assert arm["frequency"] == frequencies[arm["feature"]]
        for run in arm["runs"]:
            fires = [token["act"] > 0 for token in run["tokens"] if token["id"] > 2]
            assert run["share"] == pytest.approx(sum(fires) / len(fires))
    assert answer["done"]
    assert answer["note"] is None
    assert answer["fewest_seeds"] == 4
    assert "5 features" in answer["controls"]
    assert answer["target"]["edit"]["feature"] == FIRING
    assert f"#{FIRING}" in answer["sentence"]


def test_steered_runs_are_those_of_the_steering_endpoint(api: Api, answer: dict[str, Any]) -> None:
    without, target = answer["arms"][:2]
    for run, steered in zip(without["runs"], target["runs"], strict=True):
        settings = {k: v for k, v in PROOF.items() if k != "seeds"} | {"seed": run["seed"]}
        alone = api.steer(**settings)
        assert text_of(alone["base"]) == text_of(run["tokens"])
        assert text_of(alone["steered"]) == text_of(steered["tokens"])


def test_its_settings_give_the_same_digits(api: Api, answer: dict[str, Any]) -> None:
    settings = answer["settings"]
    assert settings["seeds"] == 4
    assert settings["edits"][0]["strength"] == 3
    assert as_json(api.prove(**settings)) == answer


def test_it_grows_and_ends_with_everything(api: Api) -> None:
    request = parsed(ProveRequest, PROOF, api.workbench.settings)
    *growing, last = prove.prove(api.workbench, request)
    assert growing[0] == {"progress": {"tokens": 0, "of": 8, "runs": 36}, "done": False}
    assert not any(each["done"] for each in growing)
    assert last["done"]
    assert last["progress"]["tokens"] == 8


def test_whoever_goes_ends_it(api: Api) -> None:
    request = parsed(ProveRequest, PROOF | {"max_new_tokens": 100}, api.workbench.settings)
    with counted_forwards(api.workbench.load().model) as seen:
        growing = prove.prove(api.workbench, request)
        next(growing)
        next(growing)
        growing.close()
        # The prompt, then two tokens of every row at most.
        assert len(seen) <= 3


def test_when_its_time_is_over_it_judges_what_is_there_and_can_be_repeated(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = api_of(tiny_bundle)
    clock = iter([0.0, 0.0, 0.0, 0.0, 0.0, 0.0] + [1e9] * 100)
    monkeypatch.setattr(prove, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    cut = api.prove(**PROOF | {"max_new_tokens": 30})
    assert "limit of one run" in cut["note"]
    assert 0 < cut["settings"]["max_new_tokens"] < 30
    monkeypatch.undo()
    again = api.prove(**cut["settings"])
    assert again["note"] is None
    assert as_json(again["arms"]) == as_json(cut["arms"])


def test_other_edits_stay_in_every_run(api: Api) -> None:
    edits = [
        {"feature": OTHER, "mode": "add", "strength": 4, "positions": "all"},
        {"feature": FIRING, "mode": "set", "strength": 3, "positions": "generated"},
    ]
    result = api.prove(**PROOF | {"edits": edits, "edit": 1, "max_new_tokens": 4})
    assert result["target"]["edit"]["feature"] == FIRING
    assert OTHER not in [arm["feature"] for arm in result["arms"]]
    alone = api.steer(
        PROOF["prompt"], edits[:1], max_new_tokens=4, seed=2, temperature=PROOF["temperature"]
    )
    assert text_of(alone["steered"]) == text_of(result["arms"][0]["runs"][0]["tokens"])


def test_without_an_index_features_are_drawn_by_the_seed(
    bundle: Bundle,
) -> None:
    bundle.index_path(tiny.SAE_NAME).unlink()
    api = api_of(bundle)
    edits = [{"feature": FIRING, "mode": "set", "value": 6.0}]
    first, second, other = (
        [
            arm["feature"]
            for arm in api.prove(**PROOF | {"edits": edits, "seed": seed})["arms"]
            if arm["kind"] == "feature"
        ]
        for seed in (2, 2, 3)
    )
    assert first == second != other
    assert len(set(first) - {FIRING}) == 5


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"seeds": 2}, "seeds"),
        ({"seeds": 21}, "seeds"),
        ({"temperature": 0}, "temperature"),
        ({"edit": 1}, "edit"),
        ({"edits": []}, "edits"),
        ({"edits": [{"feature": 99}]}, "edits.0.feature"),
        ({"edits": [{"feature": FIRING}, {"feature": FIRING}]}, "edits.1.feature"),
        ({"prompt": " "}, "prompt"),
    ],
)
def test_mistakes_are_one_sentence_about_their_field(
    api: Api, changed: dict[str, Any], field: str
) -> None:
    with one_sentence(field):
        api.prove(**PROOF | changed)


def test_a_context_too_short_is_said_before_anything_runs(tiny_bundle: Bundle) -> None:
    api = api_of(tiny_bundle, Settings(threads=1, device="cpu", max_new_tokens=400))
    with one_sentence("max_new_tokens"):
        api.prove(**PROOF | {"max_new_tokens": 300})
