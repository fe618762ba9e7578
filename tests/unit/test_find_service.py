"""Features by example and neighbours, as the app answers them."""

import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.endpoints import Api
from app.engine.workbench import Workbench
from app.requests import RequestError
from app.service import find as service
from app.service import neighbours
from app.service.find import FIND_DEFINITIONS
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.check import check_rows
from sae_core.co_activation import correlations, decoder_cosines
from sae_core.find_by_example import TextPeaks
from tests.tiny import ALWAYS, DEAD, SAE_NAME, tiny_documents

TEXTS = [row["text"][:80] for row in tiny_documents(7)]


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle) -> Api:
    return Api(Workbench(Settings(device="cpu", check_tokens=0), tiny_bundle))


@pytest.fixture(scope="module")
def unindexed(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Api:
    folder = tmp_path_factory.mktemp("unindexed") / "bundle"
    shutil.copytree(tiny_bundle.path, folder)
    bundle = Bundle.open(folder)
    bundle.index_path(SAE_NAME).unlink()
    return Api(Workbench(Settings(device="cpu", check_tokens=0), bundle))


@pytest.fixture(scope="module")
def pair(chat_bundle: Bundle) -> Api:
    """Two SAEs at different sites."""
    return Api(Workbench(Settings(device="cpu", check_tokens=0), chat_bundle))


def largest(api: Api, texts: list[str], feature: int) -> list[float]:
    """The largest activation in each text, as the endpoint for one text has them."""
    return [max(api.test_text(text=text, feature=feature)["activations"]) for text in texts]


def test_every_number_is_that_of_the_texts_one_by_one(api: Api) -> None:
    answer = api.find(positives=TEXTS[:3], negatives=TEXTS[3:], limit=4)
    assert (answer["positives"], answer["negatives"], answer["stand_in"]) == (3, 4, False)
    assert len(answer["features"]) == 4
    assert answer["firing"] > 4
    assert answer["definitions"] == FIND_DEFINITIONS
    scores = [row["auroc"] for row in answer["features"]]
    assert scores == sorted(scores, reverse=True)
    for row in answer["features"]:
        high, low = (largest(api, part, row["feature"]) for part in (TEXTS[:3], TEXTS[3:]))
        pairs = [(p > n) + (p == n) / 2 for p in high for n in low]
        assert row["auroc"] == pytest.approx(np.mean(pairs))
        assert row["positive_mean"] == pytest.approx(np.mean(high), rel=1e-3)
        assert row["negative_mean"] == pytest.approx(np.mean(low), rel=1e-3)
        assert row["signature"]
        for side, values, texts in (("positive", high, TEXTS[:3]), ("negative", low, TEXTS[3:])):
            place = row[side]
            if not max(values):
                assert place is None
                continue
            assert place["activation"] == pytest.approx(max(values), rel=1e-3)
            assert place["text"] == values.index(max(values))
            told = api.test_text(text=texts[place["text"]], feature=row["feature"])
            assert told["activations"][place["token"]] == pytest.approx(max(values), rel=1e-3)
            assert place["tokens"][place["peak"]] == told["tokens"][place["token"]]
            assert len(place["tokens"]) == len(place["bytes"]) <= 16
            assert "<bos>" not in place["tokens"]


def test_a_list_is_cut_and_its_order_stays(api: Api) -> None:
    asked: dict[str, Any] = {"positives": TEXTS[:2], "negatives": TEXTS[2:4]}
    few, many = api.find(**asked, limit=2), api.find(**asked, limit=200)
    assert [row["feature"] for row in many["features"]][:2] == [
        row["feature"] for row in few["features"]
    ]
    assert len(many["features"]) == many["firing"]
    assert DEAD not in [row["feature"] for row in many["features"]]


def test_few_texts_are_said_to_tell_little(api: Api) -> None:
    # The same two texts in both boxes: whatever tells the one from the other tells nothing here.
    chance = api.find(positives=TEXTS[:2], negatives=TEXTS[:2])["chance"]
    assert chance["smallest_p"] == pytest.approx(1 / 6)
    assert chance["perfect"] == 0
    assert chance["sentence"].startswith("No feature separates the boxes perfectly. ")
    assert "Of the 6 ways to put these 4 texts into boxes of 2 and 2" in chance["sentence"]
    assert chance["any_perfect"] > 0.05
    assert chance["sentence"].endswith("may well be chance: more texts tell more.")
    assert chance["longer"] == ""


def test_many_texts_are_not(api: Api) -> None:
    texts = [row["text"][:40] for row in tiny_documents(40)]
    chance = api.find(positives=texts[:20], negatives=texts[20:])["chance"]
    assert chance["any_perfect"] < 0.05
    assert "Of the about 1.4e+11 ways" in chance["sentence"]
    assert "chance alone hardly gives" in chance["sentence"]


def test_what_hardly_ever_happens_is_not_said_to_happen_never(api: Api) -> None:
    texts = [f"The river is wide {number}" for number in range(20)]
    others = [f"My friend reads a book {number}" for number in range(20)]
    chance = api.find(positives=texts, negatives=others)["chance"]
    assert 0 < chance["any_perfect"] < chance["expected"] < 1e-6
    assert "random has fewer than 0.0001 such features" in chance["sentence"]
    assert "fewer than 0.0001 % of the ways" in chance["sentence"]


def test_longer_texts_are_said_to_have_larger_maxima(api: Api) -> None:
    long, short = tiny_documents(1)[0]["text"], "The river"
    chance = api.find(positives=[long], negatives=[short])["chance"]
    assert chance["perfect"] > 1
    assert chance["sentence"].startswith(f"{chance['perfect']} features separate the boxes")
    assert chance["longer"].startswith("The texts that have it are ")
    assert api.find(positives=[short], negatives=[long])["chance"]["longer"].startswith(
        "The texts that do not are "
    )


def test_passages_of_about_that_length_stand_in(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STAND_INS", 5)
    answer = api.find(positives=TEXTS[:3])
    assert answer["stand_in"]
    assert answer["negatives"] == 5
    assert answer["chance"]["longer"] == ""


@pytest.mark.parametrize("times", [1, 3, 9])
def test_no_short_end_of_a_document_stands_in(api: Api, times: int) -> None:
    engine = api.workbench.load()
    positives = service._rows(engine, ["The river and the old man. " * times], "positives")
    with engine.spliced([SAE_NAME]) as lm:
        passages = service._stand_ins(api.workbench, lm, SAE_NAME, positives)
    lengths = [len(row.ids) for row in passages]
    assert len(lengths) > 1
    assert min(lengths) >= 0.9 * len(positives[0].ids)
    assert max(lengths) <= len(positives[0].ids)


@pytest.mark.parametrize("bos", [True, False])
def test_the_first_word_is_shown_whether_or_not_there_is_a_bos(api: Api, bos: bool) -> None:
    lm = api.workbench.load().lm
    [row] = service._rows(api.workbench.load(), ["The river is wide"], "positives")
    if not bos:
        row = replace(row, ids=row.ids[1:])
    tokenizer = SimpleNamespace(bos_token_id=lm.tokenizer.bos_token_id if bos else None)
    engine: Any = SimpleNamespace(lm=SimpleNamespace(vocabulary=lm.vocabulary, tokenizer=tokenizer))
    one = np.array([3])
    peaks = TextPeaks(feature=one, activation=np.array([1.0]), token=one)
    shown = service._Seen(engine, [row], [peaks], 1).strongest(3)["positive"]
    assert "".join(shown["tokens"]) == "The river is wide"
    assert shown["peak"] == (2 if bos else 3)


def test_they_need_no_index(api: Api, unindexed: Api) -> None:
    asked: dict[str, Any] = {"positives": TEXTS[:2], "negatives": TEXTS[2:4], "limit": 3}
    answer, known = unindexed.find(**asked), api.find(**asked)
    assert answer["missing"] is not None
    assert known["missing"] is None
    for row, other in zip(answer["features"], known["features"], strict=True):
        # What a feature makes the model expect stands in the place of what it fires on.
        assert row.pop("signature") != other.pop("signature")
        assert row == other
    assert unindexed.co_activation(feature=ALWAYS, tokens=200)["together"]


@pytest.mark.parametrize(
    ("asked", "sentence", "field"),
    [
        ({"positives": []}, "Add at least one text that has it.", "positives"),
        ({"positives": ["  "]}, "Text 1 of the positives is empty", "positives"),
        (
            {"positives": ["a"], "negatives": ["b", ""]},
            "Text 2 of the negatives is empty",
            "negatives",
        ),
        ({"positives": ["a", 5]}, "Positives must be texts, not 5.", "positives"),
        ({"positives": "a"}, "Positives must be texts, not “a”.", "positives"),
        ({"positives": ["a"] * 51}, "51 texts are more than the limit of 50.", "positives"),
        ({"positives": ["a", "half \ud800"]}, "Text 2 holds half of a surrogate", "positives.1"),
        ({"positives": ["word " * 900]}, "Text 1 of the positives", "positives"),
    ],
)
def test_what_cannot_be_read_gets_a_sentence(
    api: Api, asked: dict[str, Any], sentence: str, field: str
) -> None:
    with pytest.raises(RequestError) as caught:
        api.find(**asked)
    assert sentence in str(caught.value)
    assert caught.value.field == field


def test_too_much_text_is_refused_before_the_model_runs(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_FIND_TOKENS", 20)
    with pytest.raises(RequestError, match="more than the limit of 20: shorten them"):
        api.find(positives=TEXTS)


def test_what_fires_together_has_its_counts(api: Api) -> None:
    answer = api.co_activation(feature=ALWAYS, tokens=300, limit=4)
    assert answer["other"] is None, "the bundle has one SAE"
    assert 0 < answer["fires"] <= answer["tokens"]
    assert len(answer["together"]) == 4
    values = [row["jaccard"] for row in answer["together"]]
    assert values == sorted(values, reverse=True)
    for row in answer["together"]:
        assert row["jaccard"] == pytest.approx(row["both"] / row["either"])
        assert row["low"] < row["jaccard"] < row["high"]
        assert row["feature"] != ALWAYS
        assert row["signature"]
    nothing = api.co_activation(feature=DEAD, tokens=200)
    assert (nothing["fires"], nothing["together"]) == (0, [])


@pytest.fixture(scope="module")
def likeness(pair: Api) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and correlations of the first SAE's feature with those of the second."""
    first, second = pair.workbench.bundle.sae_names
    with pair.workbench.load().spliced([first, second]) as lm:
        rows = check_rows(lm, lm.sae(first).cfg, None, 200)
        correlated = correlations(lm, first, ALWAYS, second, rows)
        return decoder_cosines(lm, first, ALWAYS, second), correlated


def assert_best(rows: list[dict[str, Any]], values: np.ndarray) -> None:
    best = np.argsort(-np.nan_to_num(values, nan=-1), kind="stable")[: len(rows)].tolist()
    assert [row["feature"] for row in rows] == best
    assert [row["value"] for row in rows] == pytest.approx(values[best].tolist())
    assert all(row["signature"] and row["value"] > 0 for row in rows)


def test_the_same_feature_has_the_nearest_direction_of_the_other_sae(
    pair: Api, likeness: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair.workbench.bundle.sae_names
    # The tiny SAEs' directions are random, and no nearer than that.
    monkeypatch.setattr("sae_core.co_activation.random_cosine", lambda *_: 0.1)
    answer = pair.co_activation(feature=ALWAYS, tokens=200, limit=3)
    other = answer["other"]
    assert (answer["sae"], other["sae"], other["by"]) == (first, second, "decoder cosine")
    assert other["sentence"].endswith("none is nearer than 0.10 in 19 of 20 cases.")
    assert len(other["features"]) == 3
    assert_best(other["features"], likeness[0])
    # And back again, from the SAE that is named.
    back = pair.co_activation(feature=ALWAYS, sae=second, other_sae=first, tokens=200)
    assert back["other"]["sae"] == first
    with pytest.raises(RequestError, match="the feature's own: choose another"):
        pair.co_activation(feature=ALWAYS, other_sae=first)


@pytest.mark.parametrize(
    ("name", "replaced", "why"),
    [
        ("random_cosine", lambda *_: 0.99, "since the nearest has a cosine of 0."),
        ("writes_to_stream", lambda lm, name: name == "early", "writes what an MLP reads."),
    ],
)
def test_where_directions_tell_nothing_activations_are_correlated(
    pair: Api,
    likeness: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    replaced: Any,
    why: str,
) -> None:
    monkeypatch.setattr(f"sae_core.co_activation.{name}", replaced)
    other = pair.co_activation(feature=ALWAYS, tokens=200, limit=3)["other"]
    assert other["by"] == "correlation"
    assert why in other["sentence"]
    assert other["features"]
    assert_best(other["features"], likeness[1])


def test_a_feature_that_does_not_fire_there_has_no_equal(
    pair: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_core.co_activation.random_cosine", lambda *_: 1.0)
    assert pair.co_activation(feature=DEAD, tokens=200)["other"]["features"] == []


def test_likeness_of_a_feature_that_fires_seldom_is_said_to_be_weak(
    pair: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_core.co_activation.random_cosine", lambda *_: 1.0)
    answer = pair.co_activation(feature=ALWAYS, tokens=200)
    assert "by chance" not in answer["other"]["sentence"]
    fires = answer["fires"]
    monkeypatch.setattr(neighbours, "FEW_FIRINGS", fires + 1)
    said = pair.co_activation(feature=ALWAYS, tokens=200)["other"]["sentence"]
    assert said.endswith(
        f"It fires on only {fires} tokens there, so whatever is strong on as few may come first "
        "by chance."
    )
