"""Two texts and several SAEs as the app answers them, against the library and single analyses."""

from typing import Any

import numpy as np
import pytest

from app.endpoints import Api
from sae_core.bundle import Bundle
from sae_core.compare import Comparison
from sae_core.patching import patch
from sae_core.tokens import encode_text
from tests import tiny
from tests.unit.service_support import FIRING, OTHER, api_of, as_json, one_sentence

A = "The river remembers two letters in the winter of 1912. My neighbour returns it at noon."
B = "The river follows an old ship in the winter of 1912. My neighbour ignores it."
BOTH = {"text": A, "other_text": B}


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle) -> Api:
    return api_of(tiny_bundle)


@pytest.fixture(scope="module")
def compared(api: Api) -> dict[str, Any]:
    return as_json(api.compare(**BOTH, limit=0))


def activations_of(api: Api, text: str) -> list[dict[int, float]]:
    return [dict(row["active_features"]) for row in api.prompt_features(text)["tokens"]]


def expected_rows(api: Api, pairs: list[tuple[int, int]]) -> dict[int, tuple[float, float]]:
    """Each feature's mean activation at the pairs, in A and in B."""
    acts = [activations_of(api, text) for text in (A, B)]
    rows = {}
    for feature in range(tiny.D_SAE):
        a = [acts[0][pair[0]].get(feature, 0.0) for pair in pairs]
        b = [acts[1][pair[1]].get(feature, 0.0) for pair in pairs]
        if any(a) or any(b):
            rows[feature] = (float(np.mean(a)), float(np.mean(b)))
    return rows


def test_over_all_aligned_tokens(api: Api, compared: dict[str, Any]) -> None:
    lm = api.workbench.load().lm
    texts = Comparison(lm, *(encode_text(lm.tokenizer, text) for text in (A, B)))
    assert [[row["id"] for row in compared[side]["tokens"]] for side in "ab"] == [texts.a, texts.b]
    assert compared["a"]["text"] == A
    assert [(row["a"], row["b"], row["same"]) for row in compared["pairs"]] == [
        (pair.a, pair.b, pair.same) for pair in texts.pairs
    ]
    np.testing.assert_allclose([row["kl"] for row in compared["pairs"]], texts.kl())
    pairs = [(pair.a, pair.b) for pair in texts.pairs if pair.a]
    expected = expected_rows(api, pairs)
    rows = {row["feature"]: row for row in compared["features"]}
    assert rows.keys() == expected.keys()
    for feature, (a, b) in expected.items():
        row = rows[feature]
        assert (row["a"], row["b"]) == pytest.approx((a, b))
        assert row["difference"] == pytest.approx(b - a)
        assert row["fires_in"] == ("both" if a and b else "a" if a else "b")
        assert row["signature"]
    assert {row["fires_in"] for row in rows.values()} == {"a", "b", "both"}
    sizes = [abs(row["difference"]) for row in compared["features"]]
    assert sizes == sorted(sizes, reverse=True)
    acts = [activations_of(api, text) for text in (A, B)]
    row = compared["features"][0]

    def gap(pair: tuple[int, int]) -> float:
        return abs(
            acts[0][pair[0]].get(row["feature"], 0) - acts[1][pair[1]].get(row["feature"], 0)
        )

    widest = (row["widest"]["a"], row["widest"]["b"])
    assert widest in pairs
    assert gap(widest) == pytest.approx(max(gap(pair) for pair in pairs))
    (end,) = compared["predictions"]
    assert end["at"] == {"a": len(texts.a) - 1, "b": len(texts.b) - 1}


def test_at_one_pair(api: Api, compared: dict[str, Any]) -> None:
    pair = next(each for each in compared["pairs"] if not each["same"])
    answer = as_json(api.compare(**BOTH, token=pair["a"], limit=0))
    expected = expected_rows(api, [(pair["a"], pair["b"])])
    rows = {row["feature"]: (row["a"], row["b"]) for row in answer["features"]}
    assert rows == {feature: pytest.approx(acts) for feature, acts in expected.items()}
    here, end = answer["predictions"]
    assert here["at"] == {"a": pair["a"], "b": pair["b"]}
    assert here["kl"] == pytest.approx(pair["kl"], abs=1e-6)
    assert end == compared["predictions"][0]
    tops = [max(row["a"], row["b"]) for row in here["tokens"]]
    assert tops == sorted(tops, reverse=True)
    lm = api.workbench.load().lm
    log_p, log_q = Comparison(lm, *(encode_text(lm.tokenizer, text) for text in (A, B))).log_probs(
        pair["a"], pair["b"]
    )
    for row in here["tokens"]:
        p = [float(each[row["id"]].exp()) for each in (log_p, log_q)]
        assert [row["a"], row["b"]] == pytest.approx(p)
    ids = {row["id"] for row in here["tokens"]}
    assert {int(log_p.argmax()), int(log_q.argmax())} <= ids


def test_a_limit_cuts_the_list_of_features(api: Api, compared: dict[str, Any]) -> None:
    few = api.compare(**BOTH, limit=3)
    assert few["features"] == compared["features"][:3]
    assert few["truncated"]
    assert few["features_total"] == len(compared["features"])


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_patch_is_the_library_s(api: Api, compared: dict[str, Any], everywhere: bool) -> None:
    pair = next(each for each in compared["pairs"] if not each["same"])
    token = None if everywhere else pair["a"]
    features = [row["feature"] for row in compared["features"][:3]]
    answer = as_json(api.patch(**BOTH, features=[*features, features[0]], token=token))
    lm = api.workbench.load().lm
    texts = Comparison(lm, *(encode_text(lm.tokenizer, text) for text in (A, B)))
    pairs = [(each.a, each.b) for each in texts.pairs if each.a and (everywhere or each.a == token)]
    end = (len(texts.a) - 1, len(texts.b) - 1)
    read = [end] if everywhere else [(pair["a"], pair["b"]), end]
    expected = patch(texts, tiny.SAE_NAME, features, pairs, read=read)
    assert [(row["a"], row["b"]) for row in answer["pairs"]] == pairs
    assert [row["feature"] for row in answer["patched"]] == features
    for arm, row in enumerate(answer["patched"]):
        assert row["moved"] == pytest.approx(expected.kl[arm].tolist())
        assert row["kl_patched"] == pytest.approx(expected.kl_from_a[arm].tolist())
        assert row["a"] == pytest.approx(float(expected.a[:, arm].mean()))
        assert row["b"] == pytest.approx(float(expected.b[:, arm].mean()))
    assert len(answer["predictions"]) == len(read)
    for at, prediction in enumerate(answer["predictions"]):
        assert prediction["kl"] == pytest.approx(expected.kl_before[at], abs=1e-6)
        assert prediction["moved"] == pytest.approx(expected.kl[-1, at])
        assert prediction["kl_patched"] == pytest.approx(expected.kl_from_a[-1, at])
        p = expected.log_probs_patched[at].exp()
        for row in prediction["tokens"]:
            assert row["patched"] == pytest.approx(float(p[row["id"]]))
    assert answer["predictions"][0]["moved"] > 1e-3


def test_conversations(chat_bundle: Bundle) -> None:
    api = api_of(chat_bundle)
    first, second = ([{"role": "user", "content": text}] for text in (A, B))
    answer = as_json(api.compare("", messages=first, other_messages=second))
    assert answer["a"]["messages"] == first
    assert answer["b"]["messages"] == second
    assert answer["b"]["turns"] == ["user", "model"]
    assert all("turn" in row for row in answer["b"]["tokens"])
    assert answer["pairs"][-1]["same"], "both end as the template has it"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"text": "", "other_text": B}, "text"),
        ({"text": A, "other_text": " "}, "other_text"),
        ({"text": A, "other_text": "word " * 20_000}, "other_text"),
        ({"text": A, "other_messages": [{"role": "user", "content": "x"}]}, "other_messages"),
        ({**BOTH, "token": 500}, "token"),
        ({**BOTH, "token": 0}, "token"),
        ({**BOTH, "token": -1}, "token"),
        ({"text": A, "other_text": A[:4], "token": 20}, "token"),
        ({**BOTH, "sae": "other"}, "sae"),
    ],
)
def test_mistakes_about_the_texts(api: Api, given: dict[str, Any], field: str) -> None:
    with one_sentence(field):
        api.compare(**given)
    with one_sentence(field):
        api.patch(**given, features=[FIRING])


@pytest.mark.parametrize(
    ("features", "field"),
    [
        (None, "features"),
        ([], "features"),
        ("5", "features"),
        (["x"], "features"),
        ([1.5], "features"),
        ([FIRING] * 201, "features"),
        ([FIRING, tiny.D_SAE], "features.1"),
        ([-1], "features.0"),
    ],
)
def test_mistakes_about_the_features(api: Api, features: Any, field: str) -> None:
    with one_sentence(field):
        api.patch(**BOTH, features=features)


# Several SAEs


@pytest.fixture(scope="module")
def two(chat_bundle: Bundle) -> Api:
    return api_of(chat_bundle)


def test_each_alone_costs_what_delta_loss_says(two: Api) -> None:
    answer = as_json(two.splice(A))
    assert [row["sae"] for row in answer["each"]] == ["early", "late"]
    for row in answer["each"]:
        totals = two.delta_loss(A, row["sae"])["totals"]
        assert row["loss"] == totals["ce_spliced"]
        assert row["delta"] == totals["delta_lm_loss"]
        assert row["kl"] == totals["kl"]
        assert answer["none"] == {"loss": totals["ce_base"], "delta": 0, "kl": 0}
    for name in ("delta", "kl"):
        rest = answer["all"][name] - sum(row[name] for row in answer["each"])
        assert answer["beyond"][name] == pytest.approx(rest)
        assert answer["beyond"][name] != 0


def test_states(two: Api) -> None:
    off = {"sae": "late", "state": "off"}
    one = as_json(two.splice(A, [{"sae": "early", "state": "spliced"}]))
    assert one["states"] == [{"sae": "early", "state": "spliced"}, off]
    assert [row["sae"] for row in one["each"]] == ["early"]
    assert one["all"] == {key: one["each"][0][key] for key in ("loss", "delta", "kl")}
    assert one["beyond"] == {"delta": 0, "kl": 0}
    none = as_json(two.splice(A, [off]))
    assert none["each"] == []
    assert none["all"] == none["none"] == one["none"]
    edits = [{"sae": "early", "feature": FIRING, "mode": "set", "value": 6.0}]
    states = [{"sae": "early", "state": "edited"}, {"sae": "late", "state": "spliced"}]
    edited = as_json(two.splice(A, states, edits))
    assert [row["sae"] for row in edited["each"]] == ["early", "late"]
    assert edited["each"][0]["kl"] not in (0, one["each"][0]["kl"])
    assert edited["edits"][0]["value"] == 6.0
    edits[0] |= {"condition_feature": OTHER, "condition_sae": "late"}
    conditional = two.splice(A, states[:1], edits)["each"][0]["kl"]
    assert 0 < conditional < edited["each"][0]["kl"]


def test_a_text_of_one_token_costs_nothing_that_is_defined(two: Api) -> None:
    answer = as_json(two.splice("a"))
    assert answer["none"] == {"loss": None, "delta": None, "kl": None}
    assert answer["beyond"] == {"delta": None, "kl": None}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"text": ""}, "text"),
        ({"text": A, "states": [{"sae": "other", "state": "off"}]}, "states.0.sae"),
        ({"text": A, "states": [{"sae": "late", "state": "on"}]}, "states.0.state"),
        ({"text": A, "states": [{"sae": "late"}] * 2}, "states.1.sae"),
        ({"text": A, "states": [{"sae": "late", "state": "edited"}]}, "states.1.state"),
        (
            {"text": A, "edits": [{"sae": "early", "feature": 5, "mode": "ablate"}]},
            "edits.0.sae",
        ),
    ],
)
def test_mistakes_about_the_states(two: Api, given: dict[str, Any], field: str) -> None:
    with one_sentence(field):
        two.splice(**given)
