"""The map of features: where they are placed, by what, and how an index keeps it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch

from app.cli import main
from app.web.map_view import how, kept
from sae_core.bundle import Bundle
from sae_core.index import Index, feature_map
from sae_core.index.arrays import pack
from sae_core.index.changes import put_map
from sae_core.index.feature_map import chosen_method, principal_places, quantised
from sae_core.index.index_config import IndexConfig
from sae_core.index.index_run import run_index
from sae_core.index.logits import neighbours
from sae_core.index.map_reader import PLACES, FeatureMap, read_map
from sae_core.index.schema import STORAGE
from sae_core.sae import SAE
from tests import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the tiny bundle, whose index may be changed."""
    return Bundle.open(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


def placed(sae: SAE, **how: Any) -> FeatureMap:
    near, cosine = neighbours(sae, feature_map.NEIGHBOURS)
    answer = feature_map.feature_map(sae, near, cosine, **how)
    assert answer is not None
    return answer


def test_pca_is_that_of_the_directions(tiny_sae: SAE) -> None:
    rows = tiny_sae.W_dec.detach().numpy().astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centred = unit - unit.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    for axis in axes[:2]:
        axis *= np.sign(axis[np.abs(axis).argmax()])
    places, variance = principal_places(tiny_sae.W_dec)
    np.testing.assert_allclose(places, centred @ axes[:2].T, atol=1e-5)
    np.testing.assert_allclose(variance, (sizes**2 / (sizes**2).sum())[:2], rtol=1e-5)
    # Length and order do not matter.
    scaled = tiny_sae.W_dec.detach() * torch.linspace(0.1, 9, len(rows))[:, None]
    np.testing.assert_allclose(principal_places(scaled)[0], places, atol=1e-5)
    answer = placed(tiny_sae, method="pca")
    assert answer.settings["method"] == "pca"
    assert answer.settings["variance"] == pytest.approx(list(variance), abs=1e-6)
    np.testing.assert_array_equal(answer.places, quantised(places))


def test_places_keep_their_proportions_in_a_square() -> None:
    flat = np.array([[0, 0], [4, 1], [2, 2]], np.float32)
    assert quantised(flat).tolist() == [[0, 16384], [65535, 32768], [32768, 49151]]
    assert quantised(np.ones((3, 2), np.float32)).tolist() == [[32768, 32768]] * 3


def test_how_many_neighbours_a_map_keeps(tiny_sae: SAE) -> None:
    answer = placed(tiny_sae, method="pca")
    near = neighbours(tiny_sae, feature_map.KEPT_OF)[0].numpy()
    where = answer.places.astype(float)
    kept = []
    for i, of_feature in enumerate(near):
        apart = np.hypot(*(where - where[i]).T)
        apart[i] = np.inf
        kept.append(len(set(of_feature) & set(np.argsort(apart)[:10])) / 10)
    assert answer.settings["kept"] == pytest.approx(np.mean(kept), abs=0.004)
    assert answer.settings["by_chance"] == pytest.approx(10 / (tiny.D_SAE - 1), abs=1e-6)


def test_what_auto_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, d_sae, expected in (
        (True, 1023, "pca"),
        (True, 1024, "umap"),
        (True, 2**18, "umap"),
        (True, 2**18 + 1, "pca"),
        (False, 4096, "pca"),
    ):
        monkeypatch.setattr(feature_map, "umap_is_there", lambda there=there: there)
        assert chosen_method("auto", d_sae) == expected
    with pytest.raises(ValueError, match=r"umap-learn is not installed: .*jumpscope\[map\]"):
        chosen_method("umap", 4096)
    assert chosen_method("off", 4096) == "off"


GROUPS = """
import json, sys
import numpy as np, torch, umap
from sae_core.index.feature_map import feature_map
from sae_core.index.logits import neighbours
torch.manual_seed(0)
centres = torch.nn.functional.normalize(torch.randn(3, 32), dim=1)
W_dec = (centres.repeat_interleave(16, 0) + 0.1 * torch.randn(48, 32)).requires_grad_()
sae = type("SAE", (), {"W_dec": W_dec})()
near, cosine = neighbours(sae, 15)
maps = [feature_map(sae, near, cosine, method="umap", seed=s, rounds=30) for s in (0, 0, 1)]
unit = torch.nn.functional.normalize(W_dec.detach(), dim=1).numpy()
graph = umap.umap_.fuzzy_simplicial_set(
    unit, 16, np.random.RandomState(0), "cosine",
    knn_indices=np.argsort(1 - unit @ unit.T, axis=1)[:, :16],
    knn_dists=np.sort(np.maximum(1 - unit @ unit.T, 0), axis=1)[:, :16],
)[0].toarray()
print(json.dumps({
    "places": [m.places.tolist() for m in maps], "settings": maps[0].settings,
    "graph": graph.tolist(),
}))
"""


def test_umap_keeps_groups_together_and_is_decided_by_its_seed() -> None:
    """In a process of its own, without the compilation that would take longer than the work."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", GROUPS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    first, again, other = (np.array(each, float) for each in answer["places"])
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    settings = answer["settings"]
    assert settings["method"] == "umap"
    assert settings["seed"] == 0
    assert settings["rounds"] == 30
    assert settings["version"][0].isdigit()
    apart = np.hypot(*(first[:, None] - first[None]).transpose(2, 0, 1))
    group = np.arange(48) // 16
    same = (group[:, None] == group[None]) & ~np.eye(48, dtype=bool)
    assert apart[same].max() < apart[group[:, None] != group[None]].min()
    # What the library itself joins is what is near.
    joined = np.array(answer["graph"]) > 0
    assert apart[joined].mean() < 0.5 * apart[~joined & ~np.eye(48, dtype=bool)].mean()


def test_an_index_has_the_map_of_its_sae(tiny_bundle: Bundle) -> None:
    sae = tiny_bundle.load_sae(tiny.SAE_NAME)
    index = Index.open(tiny_bundle.index_path(tiny.SAE_NAME))
    kept, expected = index.feature_map, placed(sae, method="pca")
    assert kept is not None
    assert kept.settings == expected.settings == index.meta["map"]
    np.testing.assert_array_equal(kept.places, expected.places)
    assert kept.places.dtype == np.uint16


def test_the_source_that_most_of_the_strongest_contexts_are_from(tiny_bundle: Bundle) -> None:
    index = Index.open(tiny_bundle.index_path(tiny.SAE_NAME))
    names = [row["source"] for row in index.meta["sources"]]
    sources = index.main_sources()
    assert (sources >= 0).any()
    for feature in range(tiny.D_SAE):
        top = index.feature(feature)["groups"][0]
        count = Counter(names.index(context["source"]) for context in top["contexts"])
        expected = min(count, key=lambda source: (-count[source], source), default=-1)
        assert sources[feature] == expected


def rows_of(path: Path) -> list[list[tuple[Any, ...]]]:
    """Everything in an index but its map."""
    with duckdb.connect(str(path), read_only=True) as connection:
        return [
            connection.execute(f"SELECT * FROM {table} WHERE {kept} ORDER BY ALL").fetchall()
            for table, kept in (
                ("meta", "key <> 'map'"),
                ("arrays", "name <> 'map'"),
                ("features", "true"),
                ("pages", "true"),
                ("documents", "true"),
            )
        ]


def without_map(path: Path) -> None:
    """Make it an index as it was before there were maps: a file of its own, without free blocks."""
    old = path.rename(path.with_suffix(".old"))
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{old}' AS old")
        connection.execute(f"ATTACH '{path}' AS new ({STORAGE})")
        connection.execute("DELETE FROM old.meta WHERE key = 'map'")
        connection.execute("DELETE FROM old.arrays WHERE name = 'map'")
        connection.execute("COPY FROM DATABASE old TO new")
        connection.execute("CHECKPOINT new")
    old.unlink()


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_a_map_is_added_to_an_index_without(
    bundle: Bundle, schema: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle.index_path(tiny.SAE_NAME)
    without_map(path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", [str(schema)])
    old = Index.open(path)
    assert old.feature_map is None
    old.close()
    before = rows_of(path)
    shutil.rmtree(bundle.path / "model")  # which it does not need
    command = ["index", "--bundle", str(bundle.path), "--add-map", "--device", "cpu"]
    assert main([*command, "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)["indexes"]
    assert entry["method"] == "pca"
    assert entry["features"] == tiny.D_SAE
    assert entry["bytes"] == path.stat().st_size
    assert rows_of(path) == before
    new = Index.open(path)
    expected = placed(bundle.load_sae(tiny.SAE_NAME), method="pca")
    assert new.feature_map is not None
    np.testing.assert_array_equal(new.feature_map.places, expected.places)
    new.close()
    # Once more, in place of the one that is there; the file is no larger, and taken for whole.
    size = path.stat().st_size
    assert main(command) == 0
    assert path.stat().st_size <= size
    Index.open(path).close()
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM arrays WHERE name = 'map'").fetchone() == (
            1,
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--map", "off"], "--add-map adds a map: give --map auto, umap or pca."),
        (["--add-output-scores"], "give either --add-output-scores or --add-map, not both."),
        (["--corpus", "a.txt"], "--add-map reads no corpus: leave --corpus out."),
        (["--map", "umap"], "umap-learn is not installed"),
    ],
)
def test_what_is_refused(
    bundle: Bundle,
    options: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(feature_map, "umap_is_there", lambda: False)
    before = bundle.index_path(tiny.SAE_NAME).read_bytes()
    assert main(["index", "--bundle", str(bundle.path), "--add-map", *options]) == 2
    assert sentence in capsys.readouterr().err
    assert bundle.index_path(tiny.SAE_NAME).read_bytes() == before


def test_an_index_without_a_map_where_none_is_wanted(bundle: Bundle, tiny_corpus: Path) -> None:
    cfg = IndexConfig(
        bundle=str(bundle.path), corpus=(str(tiny_corpus),), tokens=300, map="off", device="cpu"
    )
    run_index(cfg)
    index = Index.open(bundle.index_path(tiny.SAE_NAME))
    assert index.feature_map is None
    assert "map" not in index.meta


@pytest.mark.parametrize("moment", ["copied", "written"])
def test_a_change_that_is_killed_leaves_the_index_and_the_next_one_clears_up(
    bundle: Bundle, moment: str
) -> None:
    path = bundle.index_path(tiny.SAE_NAME)
    before, there = path.read_bytes(), {each.name for each in path.parent.iterdir()}
    program = f"""
import os, shutil, sys
from pathlib import Path
from sae_core.index import changes
def killed(*_):
    os._exit(9)
if {moment!r} == "copied":
    changes._put_entries = killed
else:
    os.replace = killed
changes.put_scores(Path(sys.argv[1]), [], [], {{}})
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, check=False)
    assert done.returncode == 9
    assert path.read_bytes() == before
    assert {each.name for each in path.parent.iterdir()} > there
    Index.open(path).close()
    put_map(path, placed(bundle.load_sae(tiny.SAE_NAME), method="pca"))
    assert {each.name for each in path.parent.iterdir()} == there
    Index.open(path).close()


def test_a_map_that_cannot_be_is_refused(bundle: Bundle) -> None:
    path = bundle.index_path(tiny.SAE_NAME)
    good = placed(bundle.load_sae(tiny.SAE_NAME), method="pca")
    for damage, sentence in (
        ("DELETE FROM meta WHERE key = 'map'", "its map is half there"),
        ("DELETE FROM arrays WHERE name = 'map'", "its map is half there"),
    ):
        with duckdb.connect(str(path)) as connection:
            connection.execute(damage)
        with pytest.raises(ValueError, match=sentence):
            Index.open(path)
        put_map(path, good)
    Index.open(path).close()
    put_map(path, FeatureMap(good.places, {}))
    with pytest.raises(ValueError, match="its map is of no known method"):
        Index.open(path)
    put_map(path, FeatureMap(good.places[1:], good.settings))
    with pytest.raises(ValueError, match="an array has 126 elements in place of 128"):
        Index.open(path)
    put_map(path, good)
    Index.open(path).close()


UMAP = {
    "method": "umap",
    "version": "0.5",
    "neighbours": 15,
    "min_dist": 0.1,
    "metric": "cosine",
    "rounds": 500,
    "start": "pca",
    "seed": 0,
    "kept": None,
    "by_chance": None,
}
PCA = {"method": "pca", "version": "2", "variance": [0.1, 0.05], "kept": 0.3, "by_chance": 0.1}


@pytest.mark.parametrize(
    ("settings", "changes", "sentence"),
    [
        (PCA, {"kept": 2}, "its map's kept and by_chance are"),
        (PCA, {"by_chance": None}, "its map's kept and by_chance are"),
        (PCA, {"version": None}, "its map is of no version"),
        (PCA, {"variance": [0.1]}, "its map's variance is"),
        (PCA, {"variance": ["a", 0.1]}, "its map's variance is"),
        (PCA, {"variance": None}, "its map's variance is None"),
        (PCA, {"method": ["pca"]}, "its map is of no known method"),
        (UMAP, {"neighbours": None}, "its map's neighbours is None"),
        (UMAP, {"min_dist": "0.1"}, "its map's min_dist is"),
        (UMAP, {"rounds": [1]}, "its map's rounds is"),
        (UMAP, {"seed": {}}, "its map's seed is"),
    ],
)
def test_what_a_map_says_of_itself_can_be_shown_or_is_refused(
    settings: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    packed = {"map": pack(np.zeros((3, 2), np.uint16), PLACES)}
    good = read_map({"map": settings, "d_sae": 3}, packed)
    assert good is not None
    assert how(good.settings)
    assert (kept(good.settings) == "") == (settings["kept"] is None)
    for broken in (settings | changes, {k: v for k, v in settings.items() if k not in changes}):
        with pytest.raises(ValueError, match=re.escape(sentence).partition(" is ")[0]):
            read_map({"map": broken, "d_sae": 3}, packed)
