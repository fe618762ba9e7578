"""The SQL page and its files, as the server makes them; without a script too."""

from pathlib import Path
from urllib.parse import urlencode

import duckdb
import pytest

from app.engine.workbench import Workbench
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.index import Index
from sae_core.index.sql_recipes import RECIPES
from sae_core.index.views import VIEWS
from tests.unit.render_support import Document
from tests.unit.test_pages import ask


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
