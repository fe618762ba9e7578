"""The SQL page and its files, as the server makes them; without a script too."""

import html
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import duckdb
import pytest

from app.engine.workbench import SQL_AT_ONCE, Workbench
from app.requests import SqlRequest, parsed
from app.service import sql_answers
from app.settings import Settings
from app.web import sql_view
from sae_core.bundle import Bundle
from sae_core.index import Index
from sae_core.index.sql_recipes import RECIPES
from sae_core.index.views import VIEWS
from tests.unit.render_support import Document
from tests.unit.test_pages import ask
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def workbench(tiny_bundle: Bundle) -> Workbench:
    return Workbench(Settings(device="cpu", check_tokens=0), tiny_bundle)


def address(query: str, page: str = "/sql") -> str:
    return f"{page}?{urlencode({'q': query})}"


def test_a_first_visit_shows_a_query_recipes_and_columns(workbench: Workbench) -> None:
    answer = ask(workbench, "/sql")
    assert answer.status_code == 200
    for recipe in RECIPES:
        assert urlencode({"q": recipe.query}) in answer.text
    for view in VIEWS:
        assert f"<code>{view}</code>" in answer.text
    assert 'class="rows"' not in answer.text


def test_rows_lead_to_features_and_tokens_are_drawn(workbench: Workbench, tiny_index: Path) -> None:
    query = "SELECT feature, token, text FROM feature_contexts WHERE feature = 5 AND kind = 'top'"
    page = ask(workbench, address(query)).text
    assert '<a href="features?feature=5">#5</a>' in page
    context = Index.open(tiny_index).contexts(5)[0]
    assert f"“{context['tokens'][context['peak']]}”" in page
    assert "sql.csv?q=" in page
    assert "sql.parquet?q=" in page


def test_tokens_with_activations_are_a_heat_map(workbench: Workbench) -> None:
    query = "SELECT tokens, activations FROM feature_contexts WHERE feature = 5 AND rank = 1"
    page = Document(ask(workbench, address(query)).text)
    assert page.all("div", **{"class": "tokens"})


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("['a', 'b'] AS tokens, [1.0, NULL]::DOUBLE[] AS activations", ["“a”", "“b”"]),
        ("['a', NULL] AS tokens, [1.0, 2.0]::DOUBLE[] AS activations", ["“a”", "NULL"]),
        ("['a', 'b'] AS tokens, ['nan'::DOUBLE, 1] AS activations", ["“a”", "“b”"]),
        ("['a', 'b'] AS tokens, NULL::DOUBLE[] AS activations", ["“a”", "“b”"]),
        ("NULL::VARCHAR[] AS tokens, [1.0]::DOUBLE[] AS activations", ["NULL"]),
        ("[]::VARCHAR[] AS tokens, []::DOUBLE[] AS activations", []),
        ("['a', NULL] AS tokens", ["“a”", "NULL"]),
        ("[NULL]::VARCHAR[] AS tokens", ["NULL"]),
        ("[1, NULL] AS x", ["[1, null]"]),
        ("{'a': NULL, 'b': [NULL, 'é']} AS x", ['{"a": null, "b": [null, "é"]}']),
        ("[[NULL, true]] AS tokens", ["[[null, true]]"]),
        ("NULL AS text, NULL AS token, NULL AS feature", ["NULL"] * 3),
    ],
)
def test_null_is_drawn_wherever_it_stands(
    workbench: Workbench, query: str, shown: list[str]
) -> None:
    answer = ask(workbench, address(f"SELECT {query}"))
    assert answer.status_code == 200
    page = Document(answer.text)
    assert not page.all("div", **{"class": "tokens"})
    cells = html.unescape(re.sub(r"<[^>]*>", "", answer.text.partition("<tbody>")[2]))
    cells = cells.partition("Recipes")[0]
    for each in shown:
        assert each in cells
        cells = cells.replace(each, "", 1)
    assert "NULL" not in cells
    assert "None" not in cells


def test_markup_in_a_result_is_text(workbench: Workbench) -> None:
    page = ask(workbench, address("SELECT '<img src=x>' AS text, '<b>' AS \"<i>\"")).text
    assert "<img" not in page
    assert "&lt;img" in page
    assert "<i>" not in page.partition('id="answer"')[2]


def test_a_mistake_keeps_the_query_and_names_its_place(workbench: Workbench) -> None:
    page = ask(workbench, address("SELECT nope FROM features")).text
    assert "Line 1, column 8: " in page
    assert "SELECT nope FROM features</textarea>" in page


def test_files(workbench: Workbench, tmp_path: Path) -> None:
    query = "SELECT feature, signature FROM features ORDER BY feature"
    answer = ask(workbench, address(query, "/sql.csv"))
    assert answer.headers["content-disposition"] == 'attachment; filename="result.csv"'
    assert answer.text.startswith("feature,signature\n0,")
    parquet = tmp_path / "result.parquet"
    parquet.write_bytes(ask(workbench, address(query, "/sql.parquet")).content)
    assert duckdb.execute(f"SELECT count(*) FROM '{parquet}'").fetchall() == [(64,)]
    refused = ask(workbench, address("DROP TABLE features", "/sql.csv"))
    assert refused.status_code == 400
    assert "only read" in refused.text


def test_who_finds_no_place_is_told(tiny_bundle: Bundle) -> None:
    busy = Workbench(Settings(device="cpu", check_tokens=0, max_sql_seconds=0.2), tiny_bundle)
    for _ in range(2):
        busy.sql_places.acquire()
    assert "Other queries are being answered" in ask(busy, address("SELECT 1")).text


@pytest.mark.parametrize("most", [1, 20])
def test_few_pages_wait_and_further_ones_are_told_at_once(tiny_bundle: Bundle, most: int) -> None:
    """Each waiting page holds one of the threads that all pages need."""
    settings = Settings(device="cpu", check_tokens=0, max_sql_seconds=300.0, max_waiting_sql=most)
    busy = Workbench(settings, tiny_bundle)
    for _ in range(SQL_AT_ONCE):
        busy.sql_places.acquire()
    waiting = min(most, sql_answers.MOST_WAITING)
    with ThreadPoolExecutor(waiting + 1) as threads:
        pages = [
            threads.submit(sql_view.sql, busy, {"q": f"SELECT {n} AS n"}) for n in range(waiting)
        ]
        try:
            wait_until(lambda: sql_answers.WAITING.count == waiting)
            for page in ("/sql", "/sql.csv", "/sql.parquet"):
                refused = ask(busy, address("SELECT 1", page)).text
                assert "Other queries are being answered" in refused, page
            # Requests to the endpoint have a queue of their own, and wait for a place all the same.
            request = parsed(SqlRequest, {"query": "SELECT 7"}, settings)
            asked = threads.submit(sql_answers.sql, busy, request)
            assert not any(page.done() for page in pages)
        finally:
            for _ in range(SQL_AT_ONCE):
                busy.sql_places.release()
        rows = [page.result(120)["answer"]["rows"] for page in pages]
        assert [row[0]["text"] for [row] in rows] == [str(n) for n in range(waiting)]
        assert asked.result(120)["rows"] == [[7]]
    assert sql_answers.WAITING.count == 0
    assert ask(busy, address("SELECT 1 AS one")).text.count("1 row") == 1
