"""`/effects`: its answer against the library's numbers and the index's."""

import math
from typing import Any

import pytest

from app.endpoints import Api
from app.service.next_token import DEFINED
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.effects import effects, joint_effect
from sae_core.index import Index
from sae_core.splice import SplicedLM
from tests import tiny
from tests.unit.service_support import api_of, as_json, one_sentence

TEXT = "The river remembers two letters in the winter of 1912."
TOKEN = 9


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle) -> Api:
    return api_of(tiny_bundle, Settings(threads=1, device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def lm(api: Api) -> SplicedLM:
    with api.workbench.load().spliced([tiny.SAE_NAME]) as lm:
        return lm


@pytest.fixture(scope="module")
def ids(api: Api) -> list[int]:
    return [row["id"] for row in api.tokens(TEXT)["tokens"]]


def test_the_answer_is_the_library_s(api: Api, lm: SplicedLM, ids: list[int]) -> None:
    answer = as_json(api.effects(TEXT, token=TOKEN))
    expected = effects(lm, ids, tiny.SAE_NAME, TOKEN)
    assert answer["token"]["i"] == TOKEN
    assert answer["token"]["id"] == ids[TOKEN]
    assert answer["target"]["id"] == expected.target == answer["base"][0]["id"]
    assert answer["target"]["logp"] == pytest.approx(math.log(answer["base"][0]["p"]))
    assert [row["id"] for row in answer["base"]] == expected.tokens.tolist()
    assert len(answer["base"]) == 8
    columns = ("position", "feature", "activation", "kl", "dlogp", "estimate", "exact")
    for name in columns:
        values = [row[name] for row in answer["effects"]]
        assert values == pytest.approx(getattr(expected, name).tolist(), abs=1e-6), name
    assert len(answer["effects"]) == answer["effects_total"] >= 2
    row = answer["effects"][0]
    assert row["becomes"]["id"] == expected.becomes[0]
    assert row["becomes"]["p"] == pytest.approx(math.exp(expected.becomes_logp[0]))
    assert row["changes"] == pytest.approx(expected.change[0].tolist(), abs=1e-6)
    assert answer["rank_correlation"] == pytest.approx(expected.rank_correlation())
    assert answer["joint"] is None
    assert 0 < answer["uniformity"] <= 1
    assert answer["definitions"] == DEFINED
    assert answer["text"] == TEXT


def test_estimates_can_be_left_out(api: Api) -> None:
    answer = as_json(api.effects(TEXT, token=TOKEN, estimates=False))
    whole = as_json(api.effects(TEXT, token=TOKEN))
    assert {row.pop("estimate") for row in answer["effects"]} == {None}
    assert None not in {row.pop("estimate") for row in whole["effects"]}
    assert answer["rank_correlation"] is None
    assert answer["effects"] == whole["effects"]


def test_the_last_token_is_meant_where_none_is_named(api: Api, ids: list[int]) -> None:
    answer = api.effects(TEXT)
    assert answer["token"]["i"] == len(ids) - 1
    assert answer["uniformity"] is None, "nothing comes after it"


def test_the_splice_s_probabilities_are_those_of_the_loss(api: Api, ids: list[int]) -> None:
    following = api.delta_loss(TEXT)["tokens"][TOKEN + 1]
    answer = api.effects(TEXT, token=TOKEN, target=ids[TOKEN + 1])
    (row,) = [row for row in answer["base"] if row["id"] == ids[TOKEN + 1]]
    assert -math.log(row["p"]) == pytest.approx(following["loss"], abs=1e-4)
    assert -math.log(row["p_spliced"]) == pytest.approx(following["spliced_loss"], abs=1e-4)
    assert answer["kl_spliced"] == pytest.approx(following["kl"], abs=1e-4)


def test_another_next_token_is_followed(api: Api, lm: SplicedLM, ids: list[int]) -> None:
    answer = api.effects(TEXT, token=TOKEN, target=17, next_tokens=3)
    expected = effects(lm, ids, tiny.SAE_NAME, TOKEN, target=17, tokens=3)
    assert answer["target"]["id"] == 17
    assert len(answer["base"]) == 4
    assert [row["dlogp"] for row in answer["effects"]] == pytest.approx(
        expected.dlogp.tolist(), abs=1e-6
    )


def test_the_index_says_how_unusual_an_activation_is(api: Api, tiny_bundle: Bundle) -> None:
    index = Index.open(tiny_bundle.index_path(tiny.SAE_NAME))
    rows = api.effects(TEXT, token=TOKEN)["effects"]
    known = index.summaries([row["feature"] for row in rows])
    for row in rows:
        summary = known[row["feature"]]
        assert row["signature"] == summary["signature"]
        assert row["share"] == pytest.approx(row["activation"] / summary["max_act"])
        usual = summary["mean_act"] * summary["frequency"]
        assert row["lift"] == pytest.approx(row["activation"] / usual)


def test_earlier_tokens_are_estimated_and_the_largest_measured(api: Api) -> None:
    answer = as_json(api.effects(TEXT, token=TOKEN, earlier=True, exact=5, limit=12))
    rows = answer["effects"]
    assert len(rows) == 12
    assert answer["truncated"]
    assert answer["effects_total"] > 12
    assert [row["exact"] for row in rows] == [True] * 5 + [False] * 7
    assert len({row["position"] for row in rows}) > 1
    for row in rows[5:]:
        assert (row["kl"], row["dlogp"], row["changes"], row["becomes"]) == (None,) * 4
    assert -1 <= answer["rank_correlation"] <= 1


def test_several_at_once_beside_their_sum(api: Api, lm: SplicedLM, ids: list[int]) -> None:
    rows = api.effects(TEXT, token=TOKEN)["effects"][:2]
    pairs = [(row["position"], row["feature"]) for row in rows]
    asked = [{"position": position, "feature": feature} for position, feature in pairs]
    joint = api.effects(TEXT, token=TOKEN, joint=[*asked, asked[0]])["joint"]
    expected = joint_effect(lm, ids, tiny.SAE_NAME, pairs, TOKEN)
    assert joint["pairs"] == asked, "a pair that is named twice counts once"
    assert joint["kl"] == pytest.approx(expected.kl, abs=1e-6)
    assert joint["sum_kl"] == pytest.approx(sum(row["kl"] for row in rows), abs=1e-5)
    assert joint["sum_dlogp"] == pytest.approx(sum(row["dlogp"] for row in rows), abs=1e-5)
    assert joint["beyond_kl"] == pytest.approx(joint["kl"] - joint["sum_kl"])
    assert joint["beyond_dlogp"] == pytest.approx(joint["dlogp"] - joint["sum_dlogp"])
    assert joint["changes"] == pytest.approx(expected.change.tolist(), abs=1e-6)


def test_a_special_token_has_no_effects_but_a_prediction(api: Api) -> None:
    answer = as_json(api.effects(TEXT, token=0))
    assert answer["effects"] == []
    assert len(answer["base"]) == 8
    assert answer["rank_correlation"] is None
    for row in answer["base"]:
        assert row["p_spliced"] == pytest.approx(row["p"], abs=1e-6), "nothing is spliced yet"


def test_uniformity_is_told_where_it_is_asked_for(api: Api) -> None:
    assert "uniformity" not in api.prompt_features(TEXT)["totals"]
    totals = api.prompt_features(TEXT, uniformity=True)["totals"]
    assert 0 < totals["uniformity"] <= 1


PAIRS = [{"position": 1, "feature": 1}]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"token": 10**400}, "token"),
        ({"target": 10**400}, "target"),
        ({"target": tiny.VOCAB_SIZE}, "target"),
        ({"joint": [{"position": TOKEN + 1, "feature": 1}]}, "joint.0.position"),
        ({"joint": [{"position": 1, "feature": tiny.D_SAE}]}, "joint.0.feature"),
        ({"joint": [*PAIRS, {"position": 0, "feature": 1}]}, "joint.1.position"),
        ({"joint": []}, "joint"),
    ],
)
def test_mistakes_are_named(api: Api, given: dict[str, Any], field: str) -> None:
    with one_sentence(field):
        api.effects(TEXT, **{"token": TOKEN} | given)
