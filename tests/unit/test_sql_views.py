"""Views in SQL: they hold what the index's own reader says, of every feature and every schema."""

import gc
import json
import re
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from sae_core.index import Index
from sae_core.index.sql_recipes import RECIPES
from sae_core.index.views import VIEWS
from tests import tiny

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def index(tiny_index: Path) -> Iterator[Index]:
    index = Index.open(tiny_index)
    yield index
    index.close()


def rows(index: Index, query: str) -> list[tuple[Any, ...]]:
    return index.sql(query).fetchall()


def by_feature(index: Index, query: str) -> dict[int, list[tuple[Any, ...]]]:
    """The rows of a query whose first column is the feature, by feature, in order."""
    result: dict[int, list[tuple[Any, ...]]] = {feature: [] for feature in range(tiny.D_SAE)}
    for feature, *rest in rows(index, query):
        result[feature].append(tuple(rest))
    return result


def test_views_have_the_columns_that_are_described(index: Index) -> None:
    for name, view in VIEWS.items():
        relation = index.sql(f"FROM {name} LIMIT 0")
        types = [str(kind) for kind in relation.types]
        expected = [(column, kind) for column, (kind, _) in view.columns.items()]
        assert list(zip(relation.columns, types, strict=True)) == expected, name


def test_contexts_are_those_of_the_reader(index: Index) -> None:
    selected = by_feature(
        index,
        "SELECT feature, kind, rank, activation, gap, token, text, title, source, first_token,"
        " peak, tokens, activations FROM feature_contexts ORDER BY feature",
    )
    fired = 0
    for feature in range(tiny.D_SAE):
        threshold = index.feature(feature)["threshold"]
        expected = []
        for context in index.contexts(feature):
            missed = context["kind"] == "near_miss"
            value, tokens = context["value"], context["tokens"]
            expected.append(
                (
                    context["kind"],
                    context["rank"],
                    0 if missed else value,
                    threshold - value if missed else None,
                    tokens[context["peak"]],
                    "".join(tokens),
                    context["title"],
                    context["source"],
                    context["offset"],
                    context["peak"],
                    tokens,
                    context["activations"],
                )
            )
        assert selected[feature] == expected, feature
        fired += bool(index.feature(feature)["active_tokens"])
    assert 0 < fired < tiny.D_SAE, "the index has features that fire, and dead ones"


def test_ids_are_whole_numbers_of_any_kind(index: Index) -> None:
    for same in (np.int64(5), np.uint8(5), 5.0, np.float32(5)):
        assert index.contexts(same) == index.contexts(5)  # pyright: ignore[reportArgumentType]
    for wrong in (-1, 64, 5.5, "5", b"5"):
        with pytest.raises(ValueError, match=f"no feature {wrong}: ids run from 0 to 63"):
            index.contexts(wrong)  # pyright: ignore[reportArgumentType]


def test_a_context_leads_to_its_document(index: Index) -> None:
    [(wrong,)] = rows(
        index,
        "SELECT count(*) FROM feature_contexts c LEFT JOIN documents d USING (document)"
        " WHERE (c.title = d.title AND c.source = d.source) IS NOT TRUE",
    )
    assert wrong == 0


def test_logits_neighbours_and_shares_are_those_of_the_reader(index: Index) -> None:
    logits = by_feature(index, "SELECT feature, direction, rank, token, token_id, logit FROM"
                        " feature_logits ORDER BY feature, direction DESC, rank")  # fmt: skip
    near = by_feature(index, "FROM neighbours ORDER BY feature, rank")
    tokens = by_feature(index, "FROM token_shares ORDER BY feature, rank")
    sources = by_feature(index, "FROM source_shares ORDER BY feature, rank")
    for feature in range(tiny.D_SAE):
        data = index.feature(feature)
        assert logits[feature] == [
            (direction, rank, row["token"], row["id"], row["logit"])
            for direction in ("raises", "lowers")
            for rank, row in enumerate(data["logits"][direction], 1)
        ]
        assert near[feature] == [
            (rank, row["feature"], row["cosine"]) for rank, row in enumerate(data["neighbours"], 1)
        ]
        fires_on = data["fires_on"]
        assert tokens[feature] == [
            (rank, row["token"], row["id"], row["share"], row["lift"])
            for rank, row in enumerate(fires_on["tokens"], 1)
        ]
        assert sources[feature] == [
            (rank, row["source"], row["share"], row["lift"])
            for rank, row in enumerate(fires_on["sources"], 1)
        ]


def test_histograms_are_those_of_the_reader(index: Index) -> None:
    bins = by_feature(index, "SELECT feature, kind, low, high, count FROM histograms ORDER BY"
                      " feature, kind, bin")  # fmt: skip
    for feature in range(tiny.D_SAE):
        data = index.feature(feature)
        active, every = data["activation_histogram"], data["pre_activation_histogram"]
        edges = [None, *every["edges"], None]
        counts = [every["below"], *every["counts"], every["above"]]
        assert bins[feature] == [
            *(
                ("activation", *active["edges"][n : n + 2], count)
                for n, count in enumerate(active["counts"])
            ),
            *(("pre_activation", *edges[n : n + 2], count) for n, count in enumerate(counts)),
        ]
        assert sum(row[-1] for row in bins[feature] if row[0] == "pre_activation") == data["tokens"]


def test_features_are_those_of_the_list(index: Index) -> None:
    for feature, summary in index.summaries(range(tiny.D_SAE)).items():
        columns = ("signature", "frequency", "max_act", "mean_act", "threshold")
        [row] = rows(index, f"SELECT {', '.join(columns)} FROM features WHERE feature = {feature}")
        assert row == tuple(summary[name] for name in columns)


def test_a_query_about_one_feature_reads_one_page(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    page_of = index._page
    monkeypatch.setattr(index, "_page", lambda feature: (read.append(feature), page_of(feature))[1])
    for view in ("feature_contexts", "feature_logits", "histograms", "neighbours", "token_shares"):
        read.clear()
        assert rows(index, f"FROM {view} WHERE feature = 5")
        assert read == [5], view
    read.clear()
    strongest = "SELECT feature FROM features ORDER BY max_act DESC LIMIT 1"
    assert rows(index, f"SELECT text FROM feature_contexts WHERE feature IN ({strongest})")
    assert len(read) == 1


def older(path: Path, target: Path, version: int) -> Path:
    """The index as an earlier schema has it: without output scores."""
    shutil.copyfile(path, target)
    with duckdb.connect(str(target)) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", [str(version)])
        connection.execute("DELETE FROM meta WHERE key = 'output_scores'")
        for column in ("output_score", "side_effect"):
            connection.execute(f"ALTER TABLE features DROP COLUMN {column}")
        if version == 1:
            totals = json.dumps({"l0": 1.0, "fvu": 0.5, "dead": 3})
            connection.execute("UPDATE meta SET value = ? WHERE key = 'totals'", [totals])
    return target


@pytest.mark.parametrize("version", [1, 2])
def test_earlier_schemas_have_the_same_views(
    index: Index, tiny_index: Path, tmp_path: Path, version: int
) -> None:
    old = Index.open(older(tiny_index, tmp_path / "old.duckdb", version))
    query = "SELECT feature, kind, text FROM feature_contexts WHERE feature < 9"
    assert rows(old, query) == rows(index, query)
    scores = "SELECT DISTINCT output_score, side_effect FROM features"
    assert rows(old, scores) == [(None, None)]
    old.close()


def test_frames(index: Index) -> None:
    relation = index.sql("SELECT feature, rank, text FROM feature_contexts WHERE feature = 5")
    frame = relation.df()
    contexts = index.contexts(5)
    assert list(frame["text"]) == ["".join(context["tokens"]) for context in contexts]
    assert relation.to_arrow_table().num_rows == len(contexts)


def test_what_is_no_query_is_told_with_its_place(index: Index) -> None:
    with pytest.raises(ValueError, match=r"Line 2, column 3: .*\"nope\" not found"):
        index.sql("SELECT feature,\n  nope FROM features")
    with pytest.raises(ValueError, match="that is no query"):
        index.sql("")
    with pytest.raises(ValueError, match="no feature 64: ids run from 0 to 63"):
        index.contexts(tiny.D_SAE)


def test_a_relation_outlives_its_index_and_holds_nothing_after(tiny_index: Path) -> None:
    relation = Index.open(tiny_index).sql("SELECT count(*) FROM feature_contexts")
    [(count,)] = relation.fetchall()
    assert count > 0
    index = Index.open(tiny_index)
    held = weakref.ref(index)
    del relation
    index.sql("SELECT 1").fetchall()
    del index
    gc.collect()
    assert held() is None


def test_another_index_in_its_place_is_not_mixed_in(tiny_index: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(tiny_index, tmp_path / "index.duckdb"))
    index = Index.open(path)
    other = Path(shutil.copyfile(tiny_index, tmp_path / "other.duckdb"))
    with duckdb.connect(str(other)) as connection:
        connection.execute("UPDATE meta SET value = '\"later\"' WHERE key = 'built'")
    other.replace(path)
    with pytest.raises(ValueError, match="another index has taken the place"):
        index.sql("FROM features")
    index.close()


# Recipes


def test_there_are_ten_recipes_and_all_run(index: Index) -> None:
    assert len(RECIPES) == 10
    assert len({recipe.title for recipe in RECIPES}) == 10
    for recipe in RECIPES:
        assert index.sql(recipe.query).columns, recipe.title
        index.sql(recipe.query).fetchall()


def test_the_docs_have_the_recipes_and_the_columns() -> None:
    text = (DOCS / "sql.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sql\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    assert blocks == [recipe.query for recipe in RECIPES]
    for recipe in RECIPES:
        assert f"**{recipe.title}**" in text
    for name, view in VIEWS.items():
        listed = text.partition(f"**`{name}`**")[2].partition("\n\n")[0]
        assert re.findall(
            r"^\| `(\w+)` \| `([^`]+)` \|",
            text.partition(f"**`{name}`**")[2].partition("**`")[0],
            re.MULTILINE,
        ) == [(column, kind) for column, (kind, _) in view.columns.items()], (name, listed)


def test_the_examples_of_the_docs_run(tiny_index: Path) -> None:
    text = (DOCS / "sql.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block.replace("index.duckdb", str(tiny_index)), {})
