"""Reading an index: search, threads, hardening, damaged files."""

import gc
import json
import shutil
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from sae_core.index import SORTS, Index, IndexConfig, build_index
from sae_core.index.schema import SCORES, create
from sae_core.sae import SAE
from tests import tiny

DEMO = Path(__file__).parents[2] / "app" / "demo"


@pytest.fixture(scope="module")
def index(tiny_index: Path) -> Index:
    return Index.open(tiny_index)


def test_everything_is_json_with_finite_numbers(index: Index) -> None:
    for feature in range(tiny.D_SAE):
        json.dumps(index.feature(feature), allow_nan=False)
    json.dumps(index.search(limit=100), allow_nan=False)
    json.dumps(index.highlights(), allow_nan=False)
    meta = index.meta
    assert meta.pop("mean_activation").shape == (tiny.D_MODEL,)
    json.dumps(meta, allow_nan=False)
    assert meta["schema_version"] == 3
    assert meta["site"] == "resid_post/1"


def first_schema(l0: float, fvu: float, dead: int) -> Callable[[Path], None]:
    """A change of an index into one of schema 1, with these totals."""

    def change(path: Path) -> None:
        totals = json.dumps({"l0": l0, "fvu": fvu, "dead": dead})
        with duckdb.connect(str(path)) as connection:
            connection.execute("UPDATE meta SET value = '1' WHERE key = 'schema_version'")
            connection.execute("UPDATE meta SET value = ? WHERE key = 'totals'", [totals])

    return change


def test_schema_1_counted_dead_features(tiny_index: Path, tmp_path: Path) -> None:
    index = Index.open(damage(first_schema(3.5, 0.25, 16), tiny_index, tmp_path))
    assert index.meta["totals"] == {"l0": 3.5, "fvu": 0.25, "dead": 16 / tiny.D_SAE}
    assert index.feature(3)["feature"] == 3


def test_schema_1_had_0_for_an_undefined_fvu(tiny_index: Path, tmp_path: Path) -> None:
    index = Index.open(damage(first_schema(1.0, 0.0, 0), tiny_index, tmp_path))
    assert np.isnan(index.meta["totals"]["fvu"])
    assert index.meta["totals"]["dead"] == 0


@pytest.mark.parametrize("path", sorted(DEMO.glob("saes/*/index.duckdb")), ids=str)
def test_the_demos_indexes_have_a_share_of_dead_features(path: Path, tmp_path: Path) -> None:
    index = Index.open(shutil.copy(path, tmp_path / "copy.duckdb"))
    totals = index.meta["totals"]
    assert 0 < totals["dead"] < 0.1
    assert totals["dead"] == pytest.approx((index.frequencies() == 0).mean())
    assert 0 < totals["fvu"] < 0.3


def test_one_token_has_no_fvu(
    tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE, tmp_path: Path
) -> None:
    corpus = tmp_path / "one.jsonl"
    corpus.write_text(json.dumps({"text": "a"}) + "\n")
    path = tmp_path / "index.duckdb"
    build_index(tiny_model, tiny_tokenizer, tiny_sae, IndexConfig(corpus=(str(corpus),)), path)
    meta = Index.open(path).meta
    assert meta["tokens"] == 1
    assert np.isnan(meta["totals"]["fvu"])
    assert 0 < meta["totals"]["dead"] < 1
    with duckdb.connect(str(shutil.copy(path, tmp_path / "copy.duckdb"))) as connection:
        [(totals,)] = connection.execute("SELECT value FROM meta WHERE key = 'totals'").fetchall()
    assert json.loads(totals)["fvu"] is None


def test_the_meta_that_is_handed_out_is_a_copy(index: Index) -> None:
    index.meta["tokens"] = -1
    assert index.meta["tokens"] > 0


@pytest.mark.parametrize("feature", [-1, tiny.D_SAE, 10**9])
def test_unknown_features_are_named(index: Index, feature: int) -> None:
    for call in (index.feature, lambda i: index.summaries([i])):
        with pytest.raises(ValueError, match=f"no feature {feature}: ids run from 0 to 63"):
            call(feature)


def test_summaries(index: Index) -> None:
    actual = index.summaries([5, 2, 5])
    assert list(actual) == [5, 2]
    page = index.feature(5)
    assert all(page[key] == value for key, value in actual[5].items())
    assert set(actual[5]) == {
        "feature", "signature", "frequency", "max_act", "mean_act", "threshold",
        "output_score", "side_effect",
    }  # fmt: skip


@pytest.mark.parametrize("sort", [sort for sort in SORTS if sort not in SCORES])
@pytest.mark.parametrize("descending", [True, False])
def test_sorting_is_complete_and_ties_keep_the_order_of_ids(
    index: Index, sort: str, descending: bool
) -> None:
    actual = index.search(sort=sort, descending=descending, limit=100)
    assert actual["total"] == tiny.D_SAE
    ids = [row["feature"] for row in actual["features"]]
    assert sorted(ids) == list(range(tiny.D_SAE))
    key = {"id": "feature"}.get(sort, sort)
    if sort != "concentration":
        keys = [
            (-row[key] if descending else row[key], row["feature"]) for row in actual["features"]
        ]
        assert keys == sorted(keys)
    pages = [
        index.search(sort=sort, descending=descending, limit=7, offset=first)["features"]
        for first in range(0, 70, 7)
    ]
    assert [row["feature"] for page in pages for row in page] == ids


def test_an_unknown_sort_order_is_refused(index: Index) -> None:
    with pytest.raises(ValueError, match="unknown sort order 'max_act; DROP"):
        index.search(sort="max_act; DROP TABLE features")


@pytest.mark.parametrize("query", ["12", "#12", " #12 "])
def test_a_number_finds_the_feature_first(index: Index, query: str) -> None:
    actual = index.search(query)
    assert actual["features"][0]["feature"] == 12
    if "#" in query:
        assert actual["total"] == 1


def test_tokens_and_signatures_are_searched_whatever_the_case(index: Index) -> None:
    expected = set()
    for i in range(tiny.D_SAE):
        page = index.feature(i)
        texts = [row["token"] for row in page["fires_on"]["tokens"]] + [page["signature"]]
        if any("TRAIN".lower() in text.lower() for text in texts):
            expected.add(i)
    actual = index.search("TRAIN", limit=100)
    assert {row["feature"] for row in actual["features"]} == expected
    assert actual["total"] == len(expected) > 0


@pytest.mark.parametrize(
    "query",
    [
        "%",
        "_",
        "' OR 1=1 --",
        '"; DROP TABLE features; --',
        "\\",
        "\x00",
        "$query",
        "train%' UNION SELECT 1",
        "zzzz",
        "9" * 5000,
    ],
)
def test_a_query_is_text_and_nothing_else(index: Index, query: str) -> None:
    actual = index.search(query, limit=100)
    texts = {
        i: [index.feature(i)["signature"]]
        + [row["token"] for row in index.feature(i)["fires_on"]["tokens"]]
        for i in range(tiny.D_SAE)
    }
    expected = {i for i, row in texts.items() if any(query.strip() in text for text in row)}
    assert {row["feature"] for row in actual["features"]} == expected
    assert index.search()["total"] == tiny.D_SAE


def test_filter_by_frequency_includes_its_bounds(index: Index) -> None:
    frequencies = index.frequencies()
    low, high = np.sort(frequencies)[[10, 40]]
    actual = index.search(min_frequency=low, max_frequency=high, limit=100)
    expected = np.flatnonzero((frequencies >= low) & (frequencies <= high))
    assert {row["feature"] for row in actual["features"]} == set(expected.tolist())
    never = index.search(max_frequency=0.0, limit=100)["features"]
    assert [row["feature"] for row in never] == [tiny.DEAD]


def test_highlights(index: Index) -> None:
    actual = index.highlights(5)
    assert len(actual) == 5
    assert actual == index.highlights(12)[:5]
    for item in actual:
        context = item["context"]
        assert context["value"] >= 0.6 * item["max_act"]
        assert context["activations"][context["peak"]] == context["value"]
        assert item["rule"]
        assert item["frequency"] > 0


def test_many_threads_get_what_one_gets(tiny_index: Path) -> None:
    """A connection shared by threads mixes up their rows; each call must have its own cursor."""
    alone = Index.open(tiny_index)
    expected = [alone.feature(i) for i in range(tiny.D_SAE)]
    searches = [alone.search(word, limit=5) for word in ("a", "the", "r", "12")]
    fresh = Index.open(tiny_index)  # its cache of blocks is empty, so that threads fill it together
    ready = threading.Barrier(8)

    def work(seed: int) -> None:
        ready.wait()
        for i in np.random.default_rng(seed).permutation(tiny.D_SAE).tolist():
            assert fresh.feature(i) == expected[i]
            n = i % 4
            assert fresh.search(("a", "the", "r", "12")[n], limit=5) == searches[n]

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, seed) for seed in range(8)]:
            done.result()


def test_nothing_but_the_file_can_be_reached(index: Index) -> None:
    for statement in (
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY features TO '/tmp/stolen.csv'",
        "ATTACH '/tmp/other.duckdb'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "CREATE TABLE mine (a INTEGER)",
        "DELETE FROM features",
    ):
        with pytest.raises(ValueError, match="damaged"):
            index._rows(statement)


def test_two_readers_at_once(tiny_index: Path, index: Index) -> None:
    assert Index.open(tiny_index).feature(1) == index.feature(1)


def damage(change: Callable[[Path], None], path: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy.duckdb"
    shutil.copy(path, copy)
    change(copy)
    return copy


def truncate(share: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return change


def no_index(path: Path) -> None:
    path.unlink()
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE other (a INTEGER)")


def other_version(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")


def no_arrays(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("DELETE FROM arrays")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p.unlink(), "there is no index at .*: build one with jumpscope index"),
        (lambda p: p.write_bytes(b""), "damaged or no index: build it again"),
        (lambda p: p.write_bytes(b"hello" * 5000), "damaged or no index: build it again"),
        (truncate(0.001), "damaged or no index: build it again"),
        (truncate(0.3), "(cut off|damaged).*build it again with jumpscope index"),
        (truncate(0.9), "cut off: copy it again, or build it again"),
        (no_index, "is no index: build it again"),
        (
            other_version,
            "has index schema 99 but this version reads 1 and 2 and 3: install a newer",
        ),
        (no_arrays, "is damaged: build it again"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    change: Callable[[Path], None], sentence: str, tiny_index: Path, tmp_path: Path
) -> None:
    copy = damage(change, tiny_index, tmp_path)
    with pytest.raises(ValueError, match=sentence) as caught:
        Index.open(copy)
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


def test_a_page_that_is_damaged_is_named(tiny_index: Path, tmp_path: Path) -> None:
    def change(copy: Path) -> None:
        with duckdb.connect(str(copy)) as connection:
            connection.execute("UPDATE pages SET data = 'abc'::BLOB WHERE page = 0")

    index = Index.open(damage(change, tiny_index, tmp_path))
    with pytest.raises(ValueError, match="is damaged: build it again with jumpscope index"):
        index.feature(0)
    assert index.summaries([40])[40]["feature"] == 40


def test_a_writer_that_fails_leaves_the_old_index(tiny_index: Path, tmp_path: Path) -> None:
    copy = damage(lambda _: None, tiny_index, tmp_path)

    def fail() -> None:
        with create(copy) as writer:
            writer.insert("meta", ["schema_version"], ["1"])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert Index.open(copy).feature(3)["feature"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["copy.duckdb"]


def test_an_open_index_survives_its_replacement(
    tiny_index: Path,
    tmp_path: Path,
    tiny_model: Any,
    tiny_tokenizer: Any,
    tiny_sae: SAE,
    tiny_corpus: Path,
) -> None:
    copy = damage(lambda _: None, tiny_index, tmp_path)
    reader = Index.open(copy)
    before = reader.feature(7)
    cfg = IndexConfig(corpus=(str(tiny_corpus),), tokens=300)
    build_index(tiny_model, tiny_tokenizer, tiny_sae, cfg, copy)
    # Both are open in one process, each with the file that stood there when it was opened.
    again = Index.open(copy)
    assert again.meta["tokens"] < 400
    assert again.feature(7) != before
    assert reader.feature(7) == before
    reader.close()
    assert again.feature(7) != before


def test_an_index_that_nobody_holds_is_closed_at_once(tiny_index: Path) -> None:
    index = Index.open(tiny_index)
    index.feature(3)
    held, connection = weakref.ref(index), weakref.ref(index._connection)
    gc.disable()
    try:
        del index
        assert held() is None
        assert connection() is None
    finally:
        gc.enable()
