"""The map's endpoint and page, without a browser."""

import base64
import shutil
from typing import Any

import httpx
import numpy as np
import pytest

from app.endpoints import Api
from app.engine.workbench import Workbench
from app.requests import RequestError
from app.settings import Settings
from app.web.map_view import how, kept
from sae_core.bundle import Bundle
from tests import tiny
from tests.unit.test_feature_map import without_map as index_without_map
from tests.unit.test_pages import ask


def workbench_of(bundle: Bundle) -> Workbench:
    return Workbench(Settings(device="cpu", check_tokens=0), bundle)


@pytest.fixture(scope="module")
def workbench(tiny_bundle: Bundle) -> Workbench:
    return workbench_of(tiny_bundle)


@pytest.fixture
def without_map(tiny_bundle: Bundle, tmp_path: Any) -> Workbench:
    bundle = Bundle.open(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    index_without_map(bundle.index_path(tiny.SAE_NAME))
    return workbench_of(bundle)


def columns_of(answer: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(base64.b64decode(column["data"]), column["dtype"])
        for name, column in answer["columns"].items()
    }


def test_columns_are_of_the_features_that_fire(workbench: Workbench) -> None:
    index = workbench.sources.index(tiny.SAE_NAME)
    answer = Api(workbench).map()
    columns = columns_of(answer)
    frequency = index.frequencies()
    alive = np.flatnonzero(frequency > 0)
    assert 0 < len(alive) <= tiny.D_SAE
    assert answer["shown"] == len(alive)
    assert answer["dead"] == tiny.D_SAE - len(alive)
    assert answer["total"] == tiny.D_SAE
    assert answer["computed"]["method"] == "pca"
    assert index.feature_map is not None
    np.testing.assert_array_equal(columns["feature"], alive)
    places = np.stack([columns["x"], columns["y"]], 1)
    np.testing.assert_array_equal(places, index.feature_map.places[alive])
    np.testing.assert_allclose(columns["frequency"], frequency[alive], rtol=1e-6)
    np.testing.assert_array_equal(columns["source"], index.main_sources()[alive])
    assert ("output_score" in columns) == answer["scored"] == index.has_output_scores


def test_of_more_features_than_the_limit_those_that_fire_most(workbench: Workbench) -> None:
    frequency = workbench.sources.index(tiny.SAE_NAME).frequencies()
    answer = Api(workbench).map(limit=5)
    few = columns_of(answer)["feature"]
    assert answer["shown"] == 5
    assert sorted(few) == list(few)
    others = np.setdiff1d(np.arange(tiny.D_SAE), few)
    assert frequency[few].min() >= frequency[others].max()


def test_given_features_are_named_in_their_order(workbench: Workbench) -> None:
    index = workbench.sources.index(tiny.SAE_NAME)
    answer = Api(workbench).map(features=[9, 3])
    assert "columns" not in answer
    assert [row["feature"] for row in answer["features"]] == [9, 3]
    for row in answer["features"]:
        known = index.feature(row["feature"])
        assert row["signature"] == known["signature"]
        assert row["frequency"] == known["frequency"]
        assert index.feature_map is not None
        assert [row["x"], row["y"]] == index.feature_map.places[row["feature"]].tolist()
        top = known["groups"][0]["contexts"]
        assert row["source"] in {context["source"] for context in top}
    with pytest.raises(RequestError, match="9999"):
        Api(workbench).map(features=[9999])


def test_an_index_without_a_map_says_what_adds_it(without_map: Workbench) -> None:
    with pytest.raises(RequestError, match=r"has no map: jumpscope index .* --add-map adds it"):
        Api(without_map).map()
    page = ask(without_map, "/map")
    assert page.status_code == 200
    assert "--add-map" in page.text
    assert "This index has no map yet." in page.text
    assert 'id="map-plot"' not in page.text


def test_without_an_index_the_page_says_what_builds_one(without_map: Workbench) -> None:
    without_map.bundle.index_path(tiny.SAE_NAME).unlink()
    page = ask(without_map, "/map")
    assert page.status_code == 200
    assert "jumpscope index" in page.text
    assert 'id="map-plot"' not in page.text


def test_the_page_says_how_the_map_was_computed(workbench: Workbench) -> None:
    page = ask(workbench, "/map?feature=3&colour=source")
    assert page.status_code == 200
    assert "PCA (PyTorch" in page.text
    assert "need not be alike" in page.text
    assert 'data-marked="3"' in page.text
    assert '<option value="source" selected>' in page.text


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("/map?colour=taste", "choose one of frequency, source, score"),
        ("/map?feature=9999", "9999"),
    ],
)
def test_an_address_that_means_nothing(workbench: Workbench, address: str, sentence: str) -> None:
    answer: httpx.Response = ask(workbench, address)
    assert answer.status_code == 404
    assert sentence in answer.text


def test_features_and_each_feature_lead_to_the_map(workbench: Workbench) -> None:
    assert 'href="map"' in ask(workbench, "/features").text
    alive = int(np.argmax(workbench.sources.index(tiny.SAE_NAME).frequencies()))
    assert f'href="map?feature={alive}"' in ask(workbench, f"/features?feature={alive}").text


def test_sentences() -> None:
    umap = {"method": "umap", "version": "0.5.12", "neighbours": 15, "min_dist": 0.1}
    umap |= {"rounds": 500, "seed": 3, "kept": 0.1127, "by_chance": 0.002442}
    assert how(umap) == (
        "UMAP (umap-learn 0.5.12) of the decoder directions by cosine: 15 neighbours, min_dist "
        "0.1, 500 rounds from PCA, seed 3."
    )
    assert "11\N{NO-BREAK SPACE}% are among" in kept(umap)
    assert kept({"kept": None, "by_chance": None}) == ""
