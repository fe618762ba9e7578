"""`jumpscope export`: Parquet files that are the views, and Neuronpedia's layout."""

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from app.commands.export import Export
from sae_core.bundle import Bundle
from sae_core.index import Index
from sae_core.index import neuronpedia as layout
from sae_core.index.views import VIEWS
from tests import tiny


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_parquet_files_are_the_views(bundle: Bundle, tiny_index: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert Export(bundle=str(bundle.path), out=str(out)).execute() == str(out)
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{v}.parquet" for v in VIEWS)
    index = Index.open(tiny_index)
    for view in VIEWS:
        expected = index.sql(f"FROM {view} ORDER BY ALL").fetchall()
        assert (
            duckdb.execute(f"FROM '{out / f'{view}.parquet'}' ORDER BY ALL").fetchall() == expected
        )
        assert expected
    compression = duckdb.execute(
        f"SELECT DISTINCT compression FROM parquet_metadata('{out / 'features.parquet'}')"
    )
    assert compression.fetchall() == [("ZSTD",)]
    index.close()


def test_neuronpedia_s_layout(
    bundle: Bundle, tiny_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "BATCH", 50)
    out = tmp_path / "out"
    written = Path(
        Export(bundle=str(bundle.path), out=str(out), format="neuronpedia").execute() or ""
    )
    index = Index.open(tiny_index)
    assert written.relative_to(out).parts[0] == "v1"
    assert written.name == f"1-jumpscope-res-{tiny.D_SAE}"
    features, activations, explanations = (
        [lines(written / kind / f"batch-{n}.jsonl.gz") for n in range(2)]
        for kind in ("features", "activations", "explanations")
    )
    assert [len(batch) for batch in features] == [50, tiny.D_SAE - 50]
    contexts = [record for batch in activations for record in batch]
    for feature in range(tiny.D_SAE):
        data = index.feature(feature)
        record = features[feature // 50][feature % 50]
        names = (record["modelId"], record["layer"], record["index"])
        assert names == (written.parent.name, written.name, str(feature))
        assert record["frac_nonzero"] == data["frequency"]
        assert record["pos_str"] == [row["token"] for row in data["logits"]["raises"]]
        assert record["neg_values"] == [row["logit"] for row in data["logits"]["lowers"]]
        mine = [each for each in contexts if each["index"] == str(feature)]
        fired = [each for each in index.contexts(feature) if each["kind"] != "near_miss"]
        assert [each["tokens"] for each in mine] == [each["tokens"] for each in fired]
        for each in mine:
            assert each["values"][each["maxValueTokenIndex"]] == each["maxValue"]
        explained = explanations[feature // 50][feature % 50]
        assert explained["description"] == data["signature"]
    index.close()


def test_what_is_there_stays(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for kind in ("parquet", "neuronpedia"):
        with pytest.raises(ValueError, match="exists already: name another folder"):
            Export(bundle=str(bundle.path), out=str(out), format=kind).execute()
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"sae": "nowhere"}, "there is no SAE 'nowhere': use one of tiny"),
        ({"source": "5-mine"}, "add --format neuronpedia"),
        ({"source": "../5", "format": "neuronpedia"}, "is no source: name it as"),
    ],
)
def test_mistakes_are_one_sentence(
    bundle: Bundle, tmp_path: Path, chosen: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Export(bundle=str(bundle.path), out=str(tmp_path / "out"), **chosen).execute()
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, records: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(layout, "_write", full)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="full"):
        Export(bundle=str(bundle.path), out=str(out), format="neuronpedia").execute()
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))
