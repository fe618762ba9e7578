"""A query has a process of its own and limits that hold; answers and files are what it selects."""

import csv
import io
import json
import os
import threading
from pathlib import Path
from typing import Literal

import duckdb
import psutil
import pytest

from sae_core.index import Index, sql_worker
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


def test_no_spreadsheet_computes_a_text_of_a_csv(tiny_index: Path, tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "a=1", "", "'=1", "a\n=1"]
    listed = ", ".join("'" + text.replace("'", "''") + "'" for text in texts)
    query = (
        f"SELECT unnest([{listed}]) AS text, -5 AS n, NULL AS none, '=1'::BLOB AS b,"
        " union_value(x := '=1') AS u, -1.5::DOUBLE AS text, ['=1'] AS l, '-5'::JSON AS j,"
        ' \'=1\' AS "=head ""x"'
    )
    file = tmp_path.resolve() / "rows.csv"
    write_query(tiny_index, query, LIMITS, file, "csv")
    with file.open(encoding="utf-8", newline="") as opened:
        head, *rows = csv.reader(opened)
    assert head == ["text", "n", "none", "b", "u", "text_1", "l", "j", "'=head \"x"]
    guarded = ["'" + text for text in texts[:6]] + texts[6:]
    rest = ["-5", "", "'=1", "'=1", "-1.5", "['=1']", "-5", "'=1"]
    assert rows == [[text, *rest] for text in guarded]
    parquet = file.with_suffix(".parquet")
    write_query(tiny_index, query, LIMITS, parquet, "parquet")
    assert [text for text, *_ in duckdb.execute(f"FROM '{parquet}'").fetchall()] == texts


@pytest.mark.parametrize(
    "query", ["SELECT error(repeat('x', 100000))", "SELECT repeat('a', 100000)::INTEGER"]
)
def test_a_complaint_does_not_repeat_long_values(tiny_index: Path, query: str) -> None:
    with pytest.raises(QueryError) as refused:
        answer_query(tiny_index, query, LIMITS)
    assert len(str(refused.value)) < 500
    assert str(refused.value).endswith("….")


def test_modules_of_the_folder_that_the_server_was_started_in_are_not_run(
    tiny_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("random", "json", "duckdb", "sae_core"):
        (tmp_path / f"{name}.py").write_text("open('was-run', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    assert answer_query(tiny_index, "SELECT 1", LIMITS)["rows"] == [[1]]
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("query", "levels"), [("SELECT {}1{}", 450), ("SELECT {}1{} FROM features", 150)]
)
def test_values_in_values_are_refused_in_one_sentence(
    tiny_index: Path, query: str, levels: int
) -> None:
    with pytest.raises(QueryError, match="nested too deeply"):
        answer_query(tiny_index, query.format("[" * levels, "]" * levels), LIMITS)


def test_an_index_that_is_gone_or_damaged_meanwhile_is_said(
    tiny_index: Path, tmp_path: Path
) -> None:
    with pytest.raises(QueryError, match="there is no index"):
        answer_query(tmp_path / "gone.duckdb", "SELECT 1", LIMITS)
    damaged = tmp_path / "damaged.duckdb"
    damaged.write_bytes(tiny_index.read_bytes()[:5000])
    with pytest.raises(QueryError, match="is damaged or no index"):
        answer_query(damaged, "SELECT 1", LIMITS)


def test_a_query_goes_after_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lowered: list[int] = []
    monkeypatch.setattr(os, "nice", lowered.append, raising=False)
    request = {"index": str(tmp_path / "gone"), "query": "", "megabytes": 1, "sae_hash": None}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
    sql_worker.main()
    assert "there is no index" in json.loads(capsys.readouterr().out)["problem"]
    assert len(lowered) == 1
    assert lowered[0] > 0


@pytest.mark.skipif(os.name != "posix", reason="the system has no limit of a file's size")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_has_a_largest_size(
    tiny_index: Path, tmp_path: Path, kind: Literal["csv", "parquet"]
) -> None:
    limits = QueryLimits(rows=10**6, seconds=60.0, megabytes=256, file_megabytes=1)
    query = "SELECT md5(range::VARCHAR) AS a FROM range({})"
    file = tmp_path.resolve() / f"rows.{kind}"
    write_query(tiny_index, query.format(20_000), limits, file, kind)
    assert 0 < file.stat().st_size < 10**6
    with pytest.raises(QueryError, match="larger than 1 MB: select fewer rows"):
        write_query(tiny_index, query.format(100_000), limits, file.with_stem("large"), kind)
    assert all(each.stat().st_size <= 10**6 for each in file.parent.iterdir())
