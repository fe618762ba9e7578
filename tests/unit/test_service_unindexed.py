"""The service on an SAE without an index: what weights and model say, and what to do for more."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from app.endpoints import Api
from app.requests import RequestError
from app.service import overview
from app.service.features import random_feature
from sae_core.bundle import Bundle, write_bundle
from sae_core.index.logits import top_logits
from sae_core.tokens import encode_text, special_ids
from tests import tiny
from tests.unit.service_support import FIRING, OTHER, api_of, as_json

TEXT = "The old clock measures two letters at noon."


@pytest.fixture(scope="module")
def api(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Api:
    folder = tmp_path_factory.mktemp("unindexed") / "bundle"
    shutil.copytree(tiny_bundle.path, folder)
    bundle = Bundle.open(folder)
    bundle.index_path(tiny.SAE_NAME).unlink()
    return api_of(bundle)


@pytest.fixture(scope="module")
def indexed(tiny_bundle: Bundle) -> Api:
    return api_of(tiny_bundle)


def test_the_overview_says_what_is_loaded_and_what_builds_an_index(api: Api) -> None:
    fresh = api_of(api.workbench.bundle)
    result = as_json(overview.overview(fresh.workbench))
    assert fresh.workbench.engine is None
    assert result["missing"]["reason"] == "SAE tiny has no index yet"
    command = result["missing"]["command"]
    folder = api.workbench.bundle.path
    assert command.startswith(f"jumpscope index --bundle {folder} --sae tiny --corpus")
    assert result["frequency_histogram"] is None
    assert result["highlights"] == []
    (sae,) = result["saes"]
    assert sae["reads"] == "resid_post/1"
    assert (sae["d_model"], sae["d_sae"], sae["d_out"]) == (tiny.D_MODEL, tiny.D_SAE, tiny.D_MODEL)
    assert len(sae["content_hash"]) == 64


def test_a_feature_is_what_the_index_would_say_of_its_weights(api: Api, indexed: Api) -> None:
    result, known = as_json(api.feature(FIRING)), indexed.feature(FIRING)
    for key in ("feature", "previous", "next", "threshold"):
        assert result[key] == known[key]
    for side in ("raises", "lowers"):
        mine, theirs = result["logits"][side], known["logits"][side]
        assert [row["id"] for row in mine] == [row["id"] for row in theirs]
        assert [row["token"] for row in mine] == [row["token"] for row in theirs]
        expected = [row["logit"] for row in theirs]
        assert [row["logit"] for row in mine] == pytest.approx(expected, rel=2e-3)
    mine = {row["feature"]: row["cosine"] for row in result["neighbours"]}
    theirs = {row["feature"]: row["cosine"] for row in known["neighbours"]}
    assert mine == pytest.approx(theirs, abs=1e-4)
    assert FIRING not in mine
    assert result["norms"] == pytest.approx({"encoder": 1.0, "decoder": 0.5}, rel=1e-4)
    assert result["frequency"] is result["max_act"] is result["pre_activation_histogram"] is None
    assert result["groups"] == []
    assert "tiny has no index" in result["missing"]["reason"]
    assert result["unscored"] is None, "scores are put into an index"


def test_in_the_signature_s_place_stand_the_tokens_it_raises(api: Api) -> None:
    signature = api.feature(FIRING)["signature"]
    assert signature.startswith("→ ")
    words = signature.removeprefix("→ ").split(" · ")
    assert 1 <= len(words) <= 3
    raised = [row["token"].strip() for row in api.feature(FIRING)["logits"]["raises"]]
    assert words[0] in raised


def test_words_are_for_as_many_as_are_cheap(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    unembedding = api.workbench.load().model.get_output_embeddings().weight
    monkeypatch.setattr("app.engine.weights_only._BUDGET", {"cpu": 3 * unembedding.numel()})
    result = api.prompt_features(TEXT)["features"]
    assert len(result) > 4
    assert [bool(row["signature"]) for row in result] == [True] * 3 + [False] * (len(result) - 3)


def test_features_are_listed_by_number_and_threshold(api: Api) -> None:
    result = as_json(api.search_features(limit=5))
    assert result["total"] == tiny.D_SAE
    assert [row["feature"] for row in result["features"]] == [0, 1, 2, 3, 4]
    assert result["missing"]["command"]
    rest = api.search_features(limit=5, offset=62)["features"]
    assert [row["feature"] for row in rest] == [62, 63]
    by_threshold = api.search_features(sort="threshold", limit=tiny.D_SAE)["features"]
    thresholds = [row["threshold"] for row in by_threshold]
    assert thresholds == sorted(thresholds, reverse=True)
    backwards = api.search_features(sort="id", limit=2)["features"]
    assert [row["feature"] for row in backwards] == [63, 62]
    for query in ("12", "#12"):
        assert [row["feature"] for row in api.search_features(query=query)["features"]] == [12]
    assert api.search_features(query="64")["total"] == 0


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"query": "river"}, "found by number alone"),
        ({"sort": "frequency"}, "How often features fire is not known"),
        ({"sort": "max_act"}, "How often features fire is not known"),
        ({"min_frequency": 0.1}, "How often features fire is not known"),
        ({"max_frequency": 0.1}, "How often features fire is not known"),
        ({"sort": "side_effect"}, "What features write is not known"),
        ({"min_output_score": 0.1}, "What features write is not known"),
        ({"max_side_effect": 2}, "What features write is not known"),
    ],
)
def test_what_needs_an_index_says_so(api: Api, asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        api.search_features(**asked)
    assert "jumpscope index" in str(caught.value)
    assert isinstance(caught.value, RequestError)
    assert [caught.value.field] == list(asked)


def test_a_random_feature_is_any_one(api: Api) -> None:
    drawn = {random_feature(api.workbench, "") for _ in range(2000)}
    assert drawn == set(range(tiny.D_SAE))


def test_on_a_prompt_the_variance_is_the_text_s_own(api: Api) -> None:
    result = as_json(api.prompt_features(TEXT))
    engine = api.workbench.load()
    ids = encode_text(engine.lm.tokenizer, TEXT)
    with engine.spliced([tiny.SAE_NAME]) as lm:
        own = lm.analyse(ids, tiny.SAE_NAME).totals["fvu"]
    assert result["totals"]["fvu"] == pytest.approx(own)
    assert "of this text alone" in result["definitions"]["fvu"]
    assert "max_act" not in result["definitions"]
    assert all(row["max_act"] is None and row["frequency"] is None for row in result["features"])
    assert as_json(api.delta_loss(TEXT))["totals"] == result["totals"]
    assert api.delta_loss(TEXT)["definitions"] == result["definitions"]


def test_a_text_of_one_s_own(api: Api, indexed: Api) -> None:
    result = as_json(api.test_text(TEXT, FIRING))
    known = as_json(indexed.test_text(TEXT, FIRING))
    assert result.pop("max_act") is None
    assert known.pop("max_act") > 0
    assert result == known


def test_steering_takes_values_and_refuses_multiples_of_what_is_unknown(api: Api) -> None:
    edits = [
        {"feature": FIRING, "mode": "set", "value": 2.5},
        {"feature": OTHER, "mode": "scale", "strength": 2},
        {"feature": OTHER, "mode": "ablate"},
    ]
    result = as_json(api.steer("The river", edits, max_new_tokens=3, temperature=0))
    assert [edit["value"] for edit in result["edits"]] == [2.5, 2, 0]
    assert [edit["max_act"] for edit in result["edits"]] == [None] * 3
    assert as_json(api.steer(**result["settings"])) == result
    for edit in ({"feature": FIRING}, {"feature": FIRING, "mode": "cap", "strength": 1}):
        with pytest.raises(ValueError, match="Edit 1 needs a value in the activation's own units"):
            api.steer("The river", [edit])


def test_an_index_that_is_built_meanwhile_is_used(
    api: Api, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(api.workbench.bundle.path, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    served = api_of(bundle)
    before = served.prompt_features(TEXT)
    shutil.copy(tiny_bundle.index_path(tiny.SAE_NAME), bundle.index_path(tiny.SAE_NAME))
    after = served.prompt_features(TEXT)
    assert before["missing"]
    assert after["missing"] is None
    assert after["totals"]["fvu"] != before["totals"]["fvu"]
    assert after["features"][0]["max_act"] > 0


def test_logits_of_some_features_are_those_of_all(api: Api) -> None:
    engine = api.workbench.load()
    with engine.spliced([tiny.SAE_NAME]) as lm:
        sae, leave_out = lm.sae(tiny.SAE_NAME), special_ids(lm.tokenizer)
        every = top_logits(lm.model, sae, 5, leave_out)
        some = top_logits(lm.model, sae, 5, leave_out, torch.tensor([9, 3]))
    torch.testing.assert_close(some.raises, every.raises[[9, 3]])
    torch.testing.assert_close(some.lowers_logit, every.lowers_logit[[9, 3]])


def test_saes_of_one_site_and_width_are_told_apart(
    tiny_bundle: Bundle, tiny_sae_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(tiny_bundle.path / "model")
    entries = [{"name": name, "source": str(tiny_sae_folder)} for name in ("one", "two")]
    bundle = write_bundle(tmp_path, name="twins", title="", model="model", saes=entries)
    labels = [facts["label"] for facts in api_of(bundle).workbench.saes()]
    common = "layer 1 · resid_post · 64 features"
    assert labels == [f"{common} · one", f"{common} · two"]
