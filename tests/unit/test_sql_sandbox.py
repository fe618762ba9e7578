"""Queries that anybody may send: they read the views and reach nothing else, whatever they try."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from sae_core.index import Index
from sae_core.index.sql_queries import QueryError, check_query, relation, told
from sae_core.index.views import VIEWS

ESCAPES = {
    "a file by its name": "FROM '{file}'",
    "a file by its name in quotes": 'FROM "{file}"',
    "a Parquet file": "FROM 'other.parquet'",
    "read_csv": "SELECT * FROM read_csv('{file}')",
    "read_csv in upper case": "SELECT * FROM READ_CSV('{file}')",
    "read_text": "SELECT * FROM read_text('{file}')",
    "read_blob": "SELECT * FROM read_blob('{file}')",
    "read_parquet": "SELECT * FROM read_parquet('{file}')",
    "read_json": "SELECT * FROM read_json_auto('{file}')",
    "sniff_csv": "SELECT * FROM sniff_csv('{file}')",
    "glob": "SELECT * FROM glob('/*')",
    "a file behind a comment": "SELECT * FROM /* features */ read_text/**/('{file}')",
    "a file in a subquery": "SELECT (SELECT content FROM read_text('{file}'))",
    "a file in a WITH": "WITH features AS (FROM read_text('{file}')) FROM features",
    "a file in a union": "SELECT signature FROM features UNION ALL FROM '{file}'",
    "a file in a DESCRIBE": "DESCRIBE SELECT * FROM '{file}'",
    "a file in a SUMMARIZE": "SUMMARIZE '{file}'",
    "the network": "FROM 'https://example.com/data.parquet'",
    "COPY TO": "COPY features TO '{new}'",
    "COPY of a query": "COPY (SELECT 1) TO '{new}' (FORMAT parquet)",
    "COPY FROM": "COPY features FROM '{file}'",
    "EXPORT": "EXPORT DATABASE '{new}'",
    "IMPORT": "IMPORT DATABASE '{new}'",
    "ATTACH": "ATTACH '{new}' AS other",
    "DETACH": "DETACH index_file",
    "INSTALL": "INSTALL httpfs",
    "LOAD": "LOAD httpfs",
    "SET": "SET memory_limit = '100GB'",
    "SET external access": "SET enable_external_access = true",
    "RESET": "RESET memory_limit",
    "PRAGMA": "PRAGMA enable_profiling = 'json'",
    "PRAGMA that reads": "PRAGMA database_list",
    "CALL": "CALL duckdb_settings()",
    "EXPLAIN ANALYZE": "EXPLAIN ANALYZE SELECT 1",
    "CREATE TABLE": "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE MACRO": "CREATE TEMP MACRO mine(x) AS x",
    "CREATE SECRET": "CREATE SECRET mine (TYPE s3)",
    "DROP": "DROP VIEW features",
    "DELETE": "DELETE FROM features",
    "UPDATE": "UPDATE features SET signature = ''",
    "INSERT": "INSERT INTO meta VALUES ('a', 'b')",
    "VACUUM": "VACUUM",
    "CHECKPOINT": "CHECKPOINT",
    "BEGIN": "BEGIN TRANSACTION",
    "PREPARE": "PREPARE mine AS SELECT 1",
    "EXECUTE": "EXECUTE mine",
    "two statements": "SELECT 1; COPY features TO '{new}'",
    "two statements behind a comment": "SELECT 1 -- ;\n; COPY features TO '{new}'",
    "a bracket that closes ours": "SELECT 1) TO '{new}'; SELECT (1",
    "duckdb_secrets": "FROM duckdb_secrets()",
    "duckdb_settings": "FROM duckdb_settings()",
    "duckdb_databases": "SELECT path FROM duckdb_databases()",
    "pragma_database_list": "FROM pragma_database_list",
    "information_schema": "FROM information_schema.tables",
    "sqlite_master": "FROM sqlite_master",
    "pg_catalog": "FROM pg_catalog.pg_class",
    "SHOW": "SHOW ALL TABLES",
    "packed tables": "FROM index_file.main.pages",
    "packed tables by their short name": "FROM pages",
    "query": "FROM query('SELECT 1')",
    "query_table": "FROM query_table('pages')",
    "current_setting": "SELECT current_setting('home_directory')",
    "getenv": "SELECT getenv('HOME')",
    "getvariable": "SELECT getvariable('mine')",
    "a plan": "SELECT json_serialize_plan('SELECT 1')",
    "a serialized query": "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "a variable of the program": "FROM connection",
    "a parameter": "FROM features WHERE feature = ?",
    "a named parameter": "FROM features WHERE feature = $number",
    "a function of the views": "SELECT text_at(3)",
    "deep brackets": "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    "no end": "SELECT " + "1 + " * 20_000 + "1",
    "nothing": "",
    "a comment alone": "-- SELECT 1",
    "a zero byte": "SELECT '\0' FROM features",
}


@pytest.fixture(scope="module")
def index(tiny_index: Path) -> Iterator[Index]:
    index = Index.open(tiny_index)
    yield index
    index.close()


@pytest.fixture
def connection(index: Index) -> Iterator[duckdb.DuckDBPyConnection]:
    with contextlib.closing(index.query_connection(memory_mb=200)) as connection:
        yield connection


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    file = tmp_path / "secret.txt"
    file.write_text("a,b\n1,2\n")
    return {"file": file, "new": tmp_path / "new"}


@pytest.mark.parametrize("name", ESCAPES)
def test_it_is_refused_in_one_sentence(
    name: str, connection: duckdb.DuckDBPyConnection, paths: dict[str, Path]
) -> None:
    query = ESCAPES[name].replace("{file}", str(paths["file"])).replace("{new}", str(paths["new"]))
    if name == "a zero byte":
        with contextlib.suppress(QueryError):
            check_query(connection, query)
        return
    with pytest.raises(QueryError) as refused:
        check_query(connection, query)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert not paths["new"].exists()


WITHS = {
    "a part that reads its own name": "WITH {name} AS (SELECT * FROM {name}) FROM {name}",
    "a part beside": "SELECT b.* FROM (WITH {name} AS (SELECT 1) FROM {name}) a, {name} b",
    "a part that nothing reads": "SELECT b.* FROM (WITH {name} AS (SELECT 1) SELECT 1) a, {name} b",
    "a part of a part": "WITH a AS (WITH {name} AS (SELECT 1) FROM {name}) FROM a, {name}",
    "an earlier part": "WITH a AS (FROM {name}), {name} AS (SELECT 1) FROM a",
    "a subquery": "SELECT (WITH {name} AS (SELECT 1) SELECT 1), (SELECT count(*) FROM {name})",
    "a condition": "FROM {name} WHERE EXISTS (WITH {name} AS (SELECT 1) FROM {name})",
    "a union": "(WITH {name} AS (SELECT 1) SELECT 1) UNION ALL (SELECT 2 FROM {name})",
    "a recursive part": "WITH RECURSIVE {name} AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM {name}"
    " WHERE n < 3) FROM {name}",
    "a materialized part": "WITH {name} AS MATERIALIZED (FROM {name}) FROM {name}",
    "a DESCRIBE": "DESCRIBE WITH {name} AS (FROM {name}) FROM {name}",
}
"""Queries that give a name to a part of theirs, and read what has that name elsewhere."""


def spellings(name: str) -> tuple[str, ...]:
    mixed = "".join(c.upper() if n % 2 else c for n, c in enumerate(name))
    return name, f'"{mixed}"'


@pytest.mark.parametrize("kind", WITHS)
def test_with_opens_no_table_of_the_system(
    kind: str, connection: duckdb.DuckDBPyConnection
) -> None:
    rows = connection.execute(
        "SELECT view_name FROM duckdb_views() UNION SELECT table_name FROM duckdb_tables()"
    ).fetchall()
    names = {name for (name,) in rows} - {*VIEWS}
    assert {"pragma_database_list", "duckdb_databases", "sqlite_master", "pages"} <= names
    for name in sorted(names):
        for spelling in spellings(name):
            with pytest.raises(QueryError, match="give what WITH names another one"):
                check_query(connection, WITHS[kind].replace("{name}", spelling))


@pytest.mark.parametrize("kind", WITHS)
def test_with_may_take_the_name_of_a_view_or_a_new_one(
    kind: str, connection: duckdb.DuckDBPyConnection
) -> None:
    for name in ("mine", "features", "Meta"):
        check_query(connection, WITHS[kind].replace("{name}", name))


REACHING = [
    name
    for name in ESCAPES
    if name.startswith(("a file", "read_", "COPY", "EXPORT", "ATTACH", "INSTALL", "SET", "glob"))
]


@pytest.mark.parametrize("name", REACHING)
def test_the_connection_refuses_it_too(
    name: str, connection: duckdb.DuckDBPyConnection, paths: dict[str, Path]
) -> None:
    """What came past the check would find nothing."""
    query = ESCAPES[name].replace("{file}", str(paths["file"])).replace("{new}", str(paths["new"]))
    with pytest.raises(duckdb.Error):
        connection.execute(query).fetchall()
    assert not paths["new"].exists()


def test_a_file_may_be_written_only_where_it_was_said(index: Index, tmp_path: Path) -> None:
    written, other = tmp_path.resolve() / "result.parquet", tmp_path / "other.parquet"
    query = "SELECT feature FROM features"
    with contextlib.closing(index.query_connection(writes=written)) as connection:
        rows = connection.sql(query)
        rows.write_parquet(str(written))
        with pytest.raises(duckdb.PermissionException):
            rows.write_parquet(str(other))
        with pytest.raises(duckdb.Error):
            connection.execute("FROM read_text('/etc/passwd')")
    assert written.is_file()
    assert not other.exists()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1;",
        "-- a comment\nSELECT feature FROM features -- ; DROP TABLE features",
        "WITH f AS (FROM features), g AS (FROM f) SELECT count(*) FROM g",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) FROM r",
        "FROM features f JOIN feature_contexts c USING (feature) WHERE f.feature = 3",
        "SELECT * FROM Features, range(3) WHERE feature < 2",
        "SELECT unnest([x + 1 FOR x IN [1, 2]])",
        "DESCRIBE feature_contexts",
        "SUMMARIZE features",
        "VALUES (1), (2)",
        "SELECT text FROM feature_contexts WHERE contains(lower(text), 'sea') LIMIT 3",
        "SELECT feature, rank() OVER (ORDER BY max_act DESC) FROM features QUALIFY feature = 3",
    ],
)
def test_what_reads_is_let_through(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    check_query(connection, query)
    relation(connection, query).fetchall()


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("SELEC feature", "Line 1, column 1: "),
        ("SELECT feature\nFROM features\nWHERE feature = = 3", "Line 3, column 17: "),
        ("SELECT feature, nope FROM features", "Line 1, column 17: "),
        ("SELECT feature\nFROM features\nWHERE nope(feature)", "Line 3, column 7: "),
        ("SELECT " + "1, " * 200 + "feature frm features", "Line 1, column "),
    ],
)
def test_a_mistake_names_its_place(
    connection: duckdb.DuckDBPyConnection, query: str, place: str
) -> None:
    def asked() -> None:
        check_query(connection, query)
        relation(connection, query)

    with pytest.raises(QueryError) as refused:
        asked()
    assert str(refused.value).startswith(place)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT signature::INTEGER FROM features",
        "SELECT title::INTEGER\nFROM feature_contexts",
        "SELECT\n  feature,\n\ttokens['x']\nFROM feature_contexts",
        "FROM neighbours WHERE feature = 'abc'",
        "SELECT DATE 'abc'",
        "SELECT 1,\n  'é日本',\n 'a'::INTEGER\nFROM features",
        "SELECT xnope, nope FROM (SELECT 1 AS xnope)",
    ],
)
def test_a_place_is_one_in_the_query_or_is_left_out(
    connection: duckdb.DuckDBPyConnection, query: str
) -> None:
    """DuckDB counts lines of the query that it has made of this one."""
    with pytest.raises((QueryError, duckdb.Error)) as refused:
        relation(connection, query).limit(11).fetchall()
    sentence = str(refused.value)
    if isinstance(refused.value, duckdb.Error):
        sentence = told(refused.value, query)
    place = re.match(r"Line (\d+), column (\d+): ", sentence)
    if place is None:
        assert "Line " not in sentence
        return
    line = query.split("\n")[int(place[1]) - 1]
    assert line[int(place[2]) - 1 :].startswith(("nope", "'abc'", "tokens['x']"))


def test_too_many_terms_are_refused_in_one_sentence(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    for query in (
        "SELECT " + " + ".join(["1"] * 900),
        "SELECT " + " || ".join(["signature"] * 900) + " FROM features",
        "SELECT " + "NOT " * 900 + "true",
    ):
        with pytest.raises(QueryError, match="nested too deeply"):
            check_query(connection, query)
