"""A query has a process of its own and limits that hold; answers and files are what it selects."""

import csv
import threading
from pathlib import Path

import duckdb
import psutil
import pytest

from sae_core.index import Index
from sae_core.index.sql_process import QueryLimits, answer_query, write_query
from sae_core.index.sql_queries import QueryError

LIMITS = QueryLimits(rows=10, seconds=60.0, megabytes=256)
SHORT = QueryLimits(rows=10, seconds=0.5, megabytes=256)


def test_rows_columns_and_whether_there_are_more(tiny_index: Path) -> None:
    query = "SELECT feature, signature FROM features ORDER BY feature"
    answer = answer_query(tiny_index, query, LIMITS)
    assert answer["columns"] == [
        {"name": "feature", "type": "INTEGER"},
        {"name": "signature", "type": "VARCHAR"},
    ]
    index = Index.open(tiny_index)
    assert answer["rows"] == [
        [i, row["signature"]] for i, row in index.summaries(range(10)).items()
    ]
    assert answer["more"]
    exactly = answer_query(tiny_index, f"{query} LIMIT 10", LIMITS)
    assert exactly["rows"] == answer["rows"]
    assert not exactly["more"]


def test_values_of_every_kind_are_json(tiny_index: Path) -> None:
    query = (
        "SELECT NULL, true, 2::HUGEINT ** 70, 9007199254740993, 'nan'::DOUBLE,"
        " '\\xAB\\x01'::BLOB,"
        " DATE '2026-01-02', INTERVAL 1 DAY, [1, NULL],"
        " {'a': [1.5::DOUBLE]}, 1.25::DECIMAL(5, 2), 'é\n'"
    )
    [row] = answer_query(tiny_index, query, LIMITS)["rows"]
    assert row[:2] == [None, True]
    assert row[3:7] == ["9007199254740993", None, "AB 01", "2026-01-02"]
    assert row[8:] == [[1, None], {"a": [1.5]}, "1.25", "é\n"]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM range(1000000000000)",
        # Looks at no interruption: its process is ended.
        "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))",
    ],
)
def test_a_long_query_is_ended_with_its_process(tiny_index: Path, query: str) -> None:
    threads, children = threading.active_count(), psutil.Process().children()
    with pytest.raises(QueryError, match=r"takes longer than 0\.5 seconds"):
        answer_query(tiny_index, query, SHORT)
    assert threading.active_count() <= threads
    assert set(psutil.Process().children()) <= set(children)
    # Nothing holds the file.
    assert answer_query(tiny_index, "SELECT 1", LIMITS)["rows"] == [[1]]
    Index.open(tiny_index).close()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT list(range) FROM range(100000000)",
        # Counts for nothing in DuckDB's own limit.
        "SELECT length(repeat('x', 4000000000))",
    ],
)
def test_memory_is_limited(tiny_index: Path, query: str) -> None:
    with pytest.raises(QueryError, match="needs more than 256 MB of memory"):
        answer_query(tiny_index, query, LIMITS)


def test_an_answer_too_large_to_show_is_refused(tiny_index: Path) -> None:
    with pytest.raises(QueryError, match="too large to show"):
        answer_query(tiny_index, "SELECT repeat('x', 9000000)", LIMITS)


def test_mistakes_are_sentences(tiny_index: Path) -> None:
    for query, said in {
        "SELECT 1 / 'a'": "Could not convert string",
        "SELECT nope FROM features": "Line 1, column 8",
        "FROM '/etc/passwd'": "There is no table",
    }.items():
        with pytest.raises(QueryError, match=said) as refused:
            answer_query(tiny_index, query, LIMITS)
        assert "\n" not in str(refused.value)


def test_files_hold_what_is_selected(tiny_index: Path, tmp_path: Path) -> None:
    query = "SELECT feature, rank, text FROM feature_contexts WHERE feature = 5 ORDER BY ALL"
    expected = [
        (5, context["rank"], "".join(context["tokens"]))
        for context in Index.open(tiny_index).contexts(5)
    ]
    limits = QueryLimits(rows=1000, seconds=60.0, megabytes=256)
    folder = tmp_path.resolve()
    write_query(tiny_index, query, limits, folder / "rows.parquet", "parquet")
    parquet = duckdb.execute(f"FROM '{folder / 'rows.parquet'}'").fetchall()
    assert sorted(parquet) == sorted(expected)
    write_query(tiny_index, query, limits, folder / "rows.csv", "csv")
    with (folder / "rows.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["feature", "rank", "text"]
    assert sorted((int(a), int(b), text) for a, b, text in rows) == sorted(expected)
    write_query(tiny_index, query, LIMITS, folder / "few.csv", "csv")
    assert len((folder / "few.csv").read_text(encoding="utf-8").splitlines()) >= 10
