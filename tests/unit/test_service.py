"""The service: its numbers against the model itself, bundles, threads."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.endpoints import Api
from app.engine.workbench import Workbench
from app.requests import SearchRequest
from app.service import features, overview
from app.service.features import random_feature
from app.settings import Settings
from sae_core.bundle import Bundle, write_bundle
from sae_core.formats.saelens import save_sae
from sae_core.sites import activations
from sae_core.tokens import encode_text
from tests import tiny
from tests.unit.service_support import FIRING, api_of, as_json, counted_forwards, text_of

TEXT = "The old clock measures two letters at noon. 🙂 Café!"


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle) -> Api:
    return api_of(tiny_bundle)


# Prompts


def test_features_of_a_prompt_are_those_of_the_sae(api: Api) -> None:
    actual = as_json(api.prompt_features(TEXT))
    engine = api.workbench.load()
    sae, site = engine.lm.sae(tiny.SAE_NAME), engine.lm.site(tiny.SAE_NAME)
    ids = encode_text(engine.lm.tokenizer, TEXT)
    x = activations(engine.model, torch.tensor([ids]), [site])[site][0]
    acts = sae.encode(x)
    acts[0] = 0  # BOS is left alone

    assert [row["id"] for row in actual["tokens"]] == ids
    assert text_of(actual["tokens"][1:]) == TEXT
    assert [row["special"] for row in actual["tokens"]] == [True] + [False] * (len(ids) - 1)
    by_feature = torch.zeros_like(acts)
    for row in actual["features"]:
        for token, activation in row["tokens"]:
            by_feature[token, row["feature"]] = activation
        assert row["peak"] == max(act for _, act in row["tokens"])
        assert [row["peak_token"], row["peak"]] in row["tokens"]
        assert [token for token, _ in row["tokens"]] == sorted(token for token, _ in row["tokens"])
    torch.testing.assert_close(by_feature, acts, atol=1e-5, rtol=1e-5)
    by_token = torch.zeros_like(acts)
    for row in actual["tokens"]:
        assert row["active"] == len(row["active_features"])
        strengths = [activation for _, activation in row["active_features"]]
        assert strengths == sorted(strengths, reverse=True)
        for feature, activation in row["active_features"]:
            by_token[row["i"], feature] = activation
    assert torch.equal(by_token, by_feature)
    peaks = [row["peak"] for row in actual["features"]]
    assert peaks == sorted(peaks, reverse=True)
    assert not actual["truncated"]


def test_totals_of_a_prompt_follow_from_its_tokens_and_the_index_s_mean(api: Api) -> None:
    actual = api.prompt_features(TEXT)
    totals, tokens = actual["totals"], actual["tokens"]
    assert tokens[0]["loss"] is tokens[0]["delta"] is tokens[0]["kl"] is None
    losses = np.array([[row["loss"], row["spliced_loss"], row["kl"]] for row in tokens[1:]])
    for row in tokens[1:]:
        assert row["delta"] == pytest.approx(row["spliced_loss"] - row["loss"], abs=1e-6)
    means = losses[1:].mean(0)  # what is predicted from BOS alone no splice can change
    assert [totals["ce_base"], totals["ce_spliced"], totals["kl"]] == pytest.approx(means.tolist())
    assert totals["delta_lm_loss"] == pytest.approx(means[1] - means[0], abs=1e-6)
    assert totals["tokens"] == len(tokens) - 1
    assert totals["l0"] == pytest.approx(np.mean([row["active"] for row in tokens[1:]]))

    engine = api.workbench.load()
    sae, site = engine.lm.sae(tiny.SAE_NAME), engine.lm.site(tiny.SAE_NAME)
    ids = torch.tensor([[row["id"] for row in tokens]])
    x = activations(engine.model, ids, [site])[site][0, 1:]
    mean = torch.tensor(api.workbench.index().meta["mean_activation"])
    fvu = (x - sae(x)).double().square().sum() / (x - mean).double().square().sum()
    assert totals["fvu"] == pytest.approx(float(fvu), rel=1e-5)
    own_mean = (x - sae(x)).double().square().sum() / (x - x.mean(0)).double().square().sum()
    assert float(own_mean) != pytest.approx(float(fvu), rel=1e-3)


def test_delta_loss_agrees_with_prompt_features(api: Api) -> None:
    cost, whole = as_json(api.delta_loss(TEXT)), api.prompt_features(TEXT)
    assert cost["totals"] == whole["totals"]
    for a, b in zip(cost["tokens"], whole["tokens"], strict=True):
        assert a == {key: b[key] for key in a}


def test_a_limit_cuts_the_list_of_features_and_nothing_else(api: Api) -> None:
    whole, cut = api.prompt_features(TEXT), api.prompt_features(TEXT, limit=3)
    assert cut["features"] == whole["features"][:3]
    assert cut["tokens"] == whole["tokens"]
    assert cut["truncated"]
    assert cut["features_total"] == whole["features_total"] == len(whole["features"])


def test_features_carry_what_the_index_says(api: Api) -> None:
    for row in api.prompt_features(TEXT, limit=5)["features"]:
        page = api.feature(row["feature"])
        for key in ("signature", "frequency", "max_act"):
            assert row[key] == page[key]


def test_the_same_text_is_analysed_once(tiny_bundle: Bundle) -> None:
    fresh = api_of(tiny_bundle, Settings(threads=1, cached_analyses=2))
    with counted_forwards(fresh.workbench.load().model) as forwards:
        first = fresh.prompt_features("one")
        assert len(forwards) == 1
        assert fresh.prompt_features("one") == first
        fresh.delta_loss("one")
        assert len(forwards) == 1
        fresh.prompt_features("two")
        fresh.prompt_features("one")
        fresh.prompt_features("three")  # pushes "two" out, not "one"
        assert len(forwards) == 3
        fresh.prompt_features("one")
        assert len(forwards) == 3
        fresh.prompt_features("two")
        assert len(forwards) == 4


def test_one_token_has_null_where_nothing_is_defined(api: Api) -> None:
    actual = as_json(api.prompt_features("T"))
    assert actual["tokens"][1]["loss"] > 0
    assert actual["totals"]["ce_base"] is None
    assert actual["totals"]["tokens"] == 1


def test_hostile_text_comes_back_as_it_went_in(api: Api) -> None:
    actual = as_json(api.prompt_features(tiny.HOSTILE))
    assert text_of(actual["tokens"][1:]) == tiny.HOSTILE
    spelt = api.prompt_features("<bos>a<eos>")
    assert [row["special"] for row in spelt["tokens"]].count(True) == 1


def test_a_feature_on_one_s_own_text(api: Api) -> None:
    actual = as_json(api.test_text(TEXT, tiny.ALWAYS, tiny.SAE_NAME))
    row = next(
        row for row in api.prompt_features(TEXT)["features"] if row["feature"] == tiny.ALWAYS
    )
    expected = dict(map(tuple, row["tokens"]))
    for i, (act, pre) in enumerate(
        zip(actual["activations"], actual["pre_activations"], strict=True)
    ):
        assert act == pytest.approx(expected.get(i, 0.0), abs=1e-5)
        if actual["special"][i]:
            assert pre is None
        else:
            assert (pre > actual["threshold"]) == (act > 0)
    assert str(actual["activations"]).find("-0.0") == -1
    assert "".join(actual["tokens"][1:]) == TEXT


# Features


def test_feature_knows_its_neighbours_by_number(api: Api) -> None:
    assert api.feature(0)["previous"] is None
    assert api.feature(tiny.D_SAE - 1)["next"] is None
    middle = as_json(api.feature(7.0, tiny.SAE_NAME))
    assert (middle["previous"], middle["feature"], middle["next"]) == (6, 7, 8)
    assert middle["sae"] == tiny.SAE_NAME


def test_search_passes_its_arguments_on(api: Api) -> None:
    actual = as_json(api.search_features(sort="max_act", descending=False, limit=5, offset=2))
    every = api.search_features(sort="max_act", descending=False, limit=tiny.D_SAE)
    assert actual["total"] == every["total"] == tiny.D_SAE
    assert actual["features"] == every["features"][2:7]
    acts = [row["max_act"] for row in every["features"]]
    assert acts == sorted(acts)
    narrow = api.search_features(min_frequency=0.3, max_frequency=0.9)
    assert [row["feature"] for row in narrow["features"]] == [tiny.ALWAYS]
    one = api.search_features(query="#12")
    assert [row["feature"] for row in one["features"]] == [12]


def test_a_random_feature_fires(api: Api) -> None:
    drawn = {random_feature(api.workbench, "") for _ in range(300)}
    assert tiny.DEAD not in drawn
    assert len(drawn) > tiny.D_SAE // 2


def test_overview_describes_the_bundle(api: Api) -> None:
    actual = as_json(overview.overview(api.workbench))
    assert actual["bundle"]["name"] == "tiny"
    assert actual["model"]["parameters"] == sum(
        parameter.numel() for parameter in api.workbench.load().model.parameters()
    )
    assert actual["model"]["layers"] == tiny.N_LAYERS
    (sae,) = actual["saes"]
    assert (sae["name"], sae["site"], sae["layer"]) == (tiny.SAE_NAME, "resid_post", 1)
    histogram = actual["frequency_histogram"]
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    dead = int((api.workbench.index().frequencies() == 0).sum())
    assert dead >= 1
    assert histogram["dead"] == pytest.approx(dead / tiny.D_SAE)
    assert sum(histogram["counts"]) + dead == tiny.D_SAE
    assert actual["index"]["tokens"] > 0


def test_overview_needs_no_model_in_memory(tiny_bundle: Bundle) -> None:
    fresh = api_of(tiny_bundle)
    overview.overview(fresh.workbench)
    fresh.feature(3)
    assert fresh.workbench.engine is None


def test_it_is_known_whether_the_model_is_being_loaded(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = api_of(tiny_bundle)
    seen: list[bool] = []

    def refused(*_: Any) -> None:
        seen.append(fresh.workbench.is_loading())
        raise ValueError("no model")

    monkeypatch.setattr("app.engine.engine.Engine", refused)
    assert not fresh.workbench.is_loading()
    with pytest.raises(ValueError, match="no model"):
        fresh.workbench.load()
    assert seen == [True]
    assert not fresh.workbench.is_loading()


# Bundles


def test_an_index_of_other_weights_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    other = tiny.make_sae(tiny_model, tiny_tokenizer, seed=1)
    save_sae(other, tmp_path / "saes" / tiny.SAE_NAME)
    indexed = tiny_bundle.index_path(tiny.SAE_NAME)
    (tmp_path / "saes" / tiny.SAE_NAME / indexed.name).write_bytes(indexed.read_bytes())
    bundle = write_bundle(
        tmp_path,
        name="mixed",
        title="",
        model=str(tiny_bundle.path / "model"),
        saes=[tiny.SAE_NAME],
    )
    mixed = api_of(bundle)
    with pytest.raises(ValueError, match="built from other weights"):
        mixed.workbench.index()
    # Its numbers are those of another SAE: none of them is shown.
    actual = overview.overview(mixed.workbench)
    assert "built from other weights" in actual["missing"]["reason"]
    assert actual["frequency_histogram"] is None
    assert mixed.feature(FIRING)["frequency"] is None


# Threads


def rounded(answer: Any) -> Any:
    """An answer with its fractions as what pytest compares to 1e-4: people who steer together share
    products, which are rounded otherwise than those of one.
    """
    if isinstance(answer, dict):
        return {key: rounded(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [rounded(value) for value in answer]
    return pytest.approx(answer, rel=1e-4, abs=1e-4) if isinstance(answer, float) else answer


def test_answers_do_not_depend_on_who_else_asks(tiny_bundle: Bundle) -> None:
    texts = [f"{text} {n}" for n, text in enumerate(["The river", "A student", TEXT, "It"])]
    alone = api_of(tiny_bundle)
    expected = [alone.prompt_features(text) for text in texts]
    steered = [alone.steer(text, [{"feature": FIRING, "strength": 5}]) for text in texts]
    crowded = api_of(tiny_bundle)
    with ThreadPoolExecutor(8) as pool:
        runs = [
            pool.submit(crowded.steer, text, [{"feature": FIRING, "strength": 5}]) for text in texts
        ]
        answers = [pool.submit(crowded.prompt_features, text) for text in texts]
        pages = [pool.submit(crowded.feature, n) for n in range(20)]
        assert [answer.result() for answer in answers] == expected
        assert [run.result() for run in runs] == rounded(steered)
        assert [page.result()["feature"] for page in pages] == list(range(20))


# First questions


@pytest.mark.parametrize(
    "ask",
    [
        lambda api: api.test_text(TEXT, FIRING),
        lambda api: api.prompt_features(TEXT),
        lambda api: api.delta_loss(TEXT),
        lambda api: api.steer(
            "The", [{"feature": FIRING, "mode": "set", "strength": 1.0}], max_new_tokens=2
        ),
    ],
    ids=["test_text", "prompt_features", "delta_loss", "steer"],
)
def test_any_question_may_be_the_first(tiny_bundle: Bundle, ask: Any) -> None:
    """Each loads what it needs, whether or not another one did before."""
    assert as_json(ask(api_of(tiny_bundle)))


def test_a_search_finds_labels_first_and_shows_a_context(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    settings = Settings(
        threads=1, device="cpu", check_tokens=0, notes=str(tmp_path / "notes.duckdb")
    )
    workbench = Workbench(settings, tiny_bundle)
    digest = tiny_bundle.content_hash(workbench.sae_name())
    workbench.notes.set_label(digest, 40, "Trains at night")
    workbench.notes.set_note(digest, 41, "no train at all")
    answer = features.search_features(workbench, SearchRequest(query="train"))
    numbers = [row["feature"] for row in answer["features"]]
    assert numbers[:2] == [40, 41]
    assert answer["sort"] == "match"
    assert answer["total"] == len(set(numbers)) > 2
    last = answer["features"][2]
    assert "train" in last["matches"][0]["word"]
    assert last["context"]["tokens"][last["context"]["peak"]]
    assert features.search_features(workbench, SearchRequest())["sort"] == "frequency"
