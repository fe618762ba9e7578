"""Output scores and side effects against forwards of the whole text, one feature at a time."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from torch import Tensor

from app.cli import main
from sae_core.bundle import Bundle
from sae_core.config import Site
from sae_core.index import Index, IndexConfig, gathered, run_index
from sae_core.index.index_checkpoint import only_build
from sae_core.index.output_scores import PROMPTS, are_due, arms_of, output_scores
from sae_core.index.schema import SCHEMA_VERSION, SCORES, TABLES
from sae_core.sites import activations
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text
from tests import tiny
from tests.tiny import make_sae

SITE = Site("resid_post", 0)
FEATURES = (0, 3, 17, 40, 63)


@pytest.fixture
def lm(tiny_model: Any, tiny_tokenizer: Any) -> SplicedLM:
    sae = make_sae(tiny_model, tiny_tokenizer, SITE)
    # Rows of different lengths: pushes by activation and by norm are then not the same.
    scale = torch.linspace(0.5, 2, sae.cfg.d_sae)[:, None]
    sae.get_parameter("W_dec").data *= scale
    return SplicedLM(tiny_model, tiny_tokenizer, {"tiny": sae})


def probabilities(model: Any, ids: list[int], change: Tensor) -> Tensor:
    """`[vocab]`, float64, of the next token, with `change` added to block 0's last output."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        new = (output[0] if isinstance(output, tuple) else output).clone()
        new[0, -1] += change
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = model.model.layers[0].register_forward_hook(hook)
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    finally:
        handle.remove()
    return logits.double().softmax(-1)


def lens_tokens(lm: SplicedLM, row: Tensor) -> list[int]:
    """The 20 ordinary tokens whose logits the row raises most, after the final norm's gain."""
    with torch.no_grad():
        logits = lm.model.lm_head(lm.model.model.norm(row)).tolist()
    special = set(lm.tokenizer.all_special_ids)
    ordinary = [token for token in range(len(logits)) if token not in special]
    return sorted(ordinary, key=lambda token: -logits[token])[:20]


def slow_scores(lm: SplicedLM, prompt: str, feature: int) -> tuple[float, float]:
    """Score and side effect on one prompt, by their definitions."""
    sae = lm.sae("tiny")
    ids = encode_text(lm.tokenizer, prompt)
    x = activations(lm.model, torch.tensor([ids]), [SITE])[SITE][0, -1]
    pre = x @ sae.W_enc + sae.b_enc
    largest = float(torch.where(pre > sae.get_parameter("threshold"), pre, 0.0).max())
    row = sae.W_dec.detach()[feature]
    pushed = probabilities(lm.model, ids, 10 * largest * row).tolist()
    ranked = sorted(range(len(pushed)), key=lambda token: -pushed[token])
    lens = lens_tokens(lm, row)
    rank = min(ranked.index(token) for token in lens)
    score = (1 - rank / len(pushed)) * max(pushed[token] for token in lens)
    before = probabilities(lm.model, ids, torch.zeros_like(row))
    after = probabilities(lm.model, ids, 0.5 * x.norm() * row / row.norm())
    return score, float((before * (before.log() - after.log())).sum())


def test_scores_are_what_their_definitions_say(lm: SplicedLM) -> None:
    result = output_scores(lm, "tiny", FEATURES, memory=2**20)
    slow = np.array([[slow_scores(lm, prompt, f) for prompt in PROMPTS] for f in FEATURES])
    np.testing.assert_allclose(result.score, slow.mean(1)[:, 0], rtol=1e-4)
    np.testing.assert_allclose(result.side_effect, slow.mean(1)[:, 1], rtol=1e-3)
    # On the paper's prompt alone it is the paper's score.
    paper = output_scores(lm, "tiny", FEATURES, prompts=PROMPTS[:1])
    np.testing.assert_allclose(paper.score, slow[:, 0, 0], rtol=1e-4)
    assert len(set(result.score.tolist())) == len(FEATURES)


def test_a_rank_behind_the_first_lowers_the_score(lm: SplicedLM) -> None:
    """Where no token of the lens is the likeliest, 1 - rank / |V| is below 1."""
    prompt = PROMPTS[0]
    ranks = []
    for feature in range(lm.sae("tiny").cfg.d_sae):
        score, _ = slow_scores(lm, prompt, feature)
        measured = output_scores(lm, "tiny", [feature], prompts=[prompt]).score[0]
        ranks.append(score)
        assert measured == pytest.approx(score, rel=1e-4)
        if len(ranks) == 12:
            break


def test_all_features_are_scored_and_progress_is_told(lm: SplicedLM) -> None:
    told: list[int] = []
    result = output_scores(lm, "tiny", progress=told.append)
    d_sae = lm.sae("tiny").cfg.d_sae
    assert result.score.shape == result.side_effect.shape == (d_sae,)
    assert ((result.score >= 0) & (result.score <= 1)).all()
    assert (result.side_effect > 0).all()
    assert sum(told) == arms_of(d_sae) == d_sae * 2 * len(PROMPTS)


def test_what_is_not_defined_is_nan(lm: SplicedLM) -> None:
    sae = lm.sae("tiny")
    with torch.no_grad():
        sae.get_parameter("W_dec")[3] = 0
    result = output_scores(lm, "tiny", [2, 3])
    assert np.isnan([result.score[1], result.side_effect[1]]).all()
    assert np.isfinite([result.score[0], result.side_effect[0]]).all()
    assert result.columns()[0] == [result.score[0], None]
    with torch.no_grad():
        sae.get_parameter("threshold")[:] = 1e9
    # Nothing fires: there is no activation to take ten times of, but a push by norm there is.
    result = output_scores(lm, "tiny", [2])
    assert np.isnan(result.score[0])
    assert result.side_effect[0] > 0


def test_mistakes_are_named(lm: SplicedLM) -> None:
    with pytest.raises(ValueError, match="features must be from 0 to 63"):
        output_scores(lm, "tiny", [64])
    with pytest.raises(ValueError, match="unknown SAE"):
        output_scores(lm, "other")
    with pytest.raises(ValueError, match="need prompts with a text"):
        output_scores(lm, "tiny", prompts=("The sea", ""))


@pytest.mark.parametrize(
    ("wanted", "arms", "tokens", "due"),
    [
        ("auto", 100, 1000, True),
        ("auto", 101, 1000, False),
        ("on", 101, 1, True),
        ("off", 1, 1000, False),
    ],
)
def test_scores_are_due_where_they_take_at_most_a_tenth(
    wanted: Any, arms: int, tokens: int, due: bool
) -> None:
    assert are_due(wanted, arms, tokens) is due


# In an index


def rows_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All tables of a file but the columns and entries of scores."""
    with duckdb.connect(str(path), read_only=True) as connection:
        return {
            table: connection.execute(
                f"SELECT {', '.join(c for c in _columns(table) if c not in SCORES)} FROM {table}"
                + (
                    " WHERE key NOT IN ('schema_version', 'output_scores', 'built')"
                    if table == "meta"
                    else ""
                )
                + " ORDER BY ALL"
            ).fetchall()
            for table in TABLES
        }


def _columns(table: str) -> list[str]:
    return [column.split()[0] for column in TABLES[table].split(", ")]


def storage_version(path: Path) -> bytes:
    """Which DuckDB reads the file, as its header says."""
    return path.read_bytes()[12:20]


def second_schema(path: Path) -> None:
    """The index as schema 2 had it."""
    with duckdb.connect(str(path)) as connection:
        for column in SCORES:
            connection.execute(f"ALTER TABLE features DROP COLUMN {column}")
        connection.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
        connection.execute("DELETE FROM meta WHERE key = 'output_scores'")


def scores_in(index: Index) -> tuple[list[Any], list[Any]]:
    """Both columns, by feature."""
    rows = index.summaries(range(tiny.D_SAE))
    return (
        [rows[i]["output_score"] for i in range(tiny.D_SAE)],
        [rows[i]["side_effect"] for i in range(tiny.D_SAE)],
    )


def test_an_index_is_built_with_scores_and_without(bundle: Bundle, tiny_corpus: Path) -> None:
    cfg = IndexConfig(
        bundle=str(bundle.path), corpus=(str(tiny_corpus),), tokens=900, device="cpu",
        output_scores="on",
    )  # fmt: skip
    run_index(cfg)
    path = bundle.index_path(tiny.SAE_NAME)
    index = Index.open(path)
    assert index.has_output_scores
    assert index.meta["output_scores"]["prompts"] == list(PROMPTS)
    model, tokenizer = bundle.load_model()
    lm = SplicedLM(model, tokenizer, {"tiny": bundle.load_sae(tiny.SAE_NAME)})
    expected = output_scores(lm, "tiny")
    score, effect = scores_in(index)
    np.testing.assert_allclose(score, expected.score, rtol=1e-6)
    np.testing.assert_allclose(effect, expected.side_effect, rtol=1e-6)
    index.close()
    with_scores = rows_of(path)
    run_index(replace(cfg, output_scores="off"))
    without = Index.open(path)
    assert not without.has_output_scores
    assert scores_in(without) == ([None] * tiny.D_SAE, [None] * tiny.D_SAE)
    without.close()
    assert rows_of(path) == with_scores


def test_a_model_that_cannot_be_scored_is_indexed_all_the_same(
    bundle: Bundle,
    tiny_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise ValueError("its cache is not one of keys and values.")

    monkeypatch.setattr(gathered, "output_scores", refuse)
    cfg = IndexConfig(
        bundle=str(bundle.path),
        corpus=(str(tiny_corpus),),
        tokens=900,
        device="cpu",
        output_scores="on",
    )
    run_index(cfg)
    assert not Index.open(bundle.index_path(tiny.SAE_NAME)).has_output_scores
    assert "no output scores: its cache is not one of keys and values." in caplog.text


def test_scores_are_added_to_an_index_of_an_older_schema(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle.index_path(tiny.SAE_NAME)
    second_schema(path)
    old = Index.open(path)
    assert not old.has_output_scores
    assert scores_in(old)[0] == [None] * tiny.D_SAE
    with pytest.raises(ValueError, match=r"no output scores: .* --add-output-scores adds them"):
        old.search(sort="output_score")
    with pytest.raises(ValueError, match="no output scores"):
        old.search(max_side_effect=1.0)
    old.close()
    before, storage = rows_of(path), storage_version(path)
    main(
        ["index", "--bundle", str(bundle.path), "--add-output-scores", "--device", "cpu", "--json"]
    )
    [entry] = json.loads(capsys.readouterr().out)["indexes"]
    assert entry["path"] == str(path)
    assert entry["features"] == tiny.D_SAE
    assert entry["bytes"] == path.stat().st_size
    assert rows_of(path) == before
    index = Index.open(path)
    assert index.meta["schema_version"] == SCHEMA_VERSION
    assert index.has_output_scores
    score, effect = scores_in(index)
    model, tokenizer = bundle.load_model()
    lm = SplicedLM(model, tokenizer, {"tiny": bundle.load_sae(tiny.SAE_NAME)})
    expected = output_scores(lm, "tiny")
    np.testing.assert_allclose(score, expected.score, rtol=1e-6)
    np.testing.assert_allclose(effect, expected.side_effect, rtol=1e-6)
    assert storage_version(path) == storage


def test_what_scores_cannot_be_added_to_is_said_before_the_model_is_read(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(bundle.path / "model")
    given = ["index", "--bundle", str(bundle.path), "--add-output-scores", "--device", "cpu"]
    for change, sentence in (
        (_with_hash, "was built from other weights"),
        (Path.unlink, "there is no index at"),
    ):
        change(bundle.index_path(tiny.SAE_NAME))
        assert main(given) == 2
        assert sentence in capsys.readouterr().err
    assert main([*given, "--sae", "other"]) == 2
    assert "has no SAE 'other': it has tiny." in capsys.readouterr().err


def test_scores_are_not_added_while_an_index_is_built(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(bundle.path / "model")
    path = bundle.index_path(tiny.SAE_NAME)
    before = path.read_bytes()
    with only_build([path]):
        given = ["index", "--bundle", str(bundle.path), "--add-output-scores", "--device", "cpu"]
        assert main(given) == 2
    assert "another jumpscope index is at work on" in capsys.readouterr().err
    assert path.read_bytes() == before


def _with_hash(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE meta SET value = '\"0000\"' WHERE key = 'sae_hash'")


def scored(path: Path, tmp_path: Path, column: str = "", value: str = "") -> Index:
    """A copy of an index with scores 0, 1/64, ... and falling side effects, feature 5 without."""
    copy = Path(shutil.copy(path, tmp_path / "scored.duckdb"))
    settings = json.dumps({"prompts": ["a"], "lens_tokens": 20, "factor": 10.0, "size": 0.5})
    with duckdb.connect(str(copy)) as connection:
        connection.execute(
            "UPDATE features SET output_score = feature / 64.0, side_effect = 64 - feature"
        )
        connection.execute(
            "UPDATE features SET output_score = NULL, side_effect = NULL WHERE feature = 5"
        )
        if column:
            connection.execute(f"UPDATE features SET {column} = {value} WHERE feature = 7")
        connection.execute("DELETE FROM meta WHERE key = 'output_scores'")
        connection.execute("INSERT INTO meta VALUES ('output_scores', ?)", [settings])
    return Index.open(copy)


def ids_of(result: dict[str, Any]) -> list[int]:
    return [row["feature"] for row in result["features"]]


def test_features_are_sorted_and_filtered_by_both(tiny_index: Path, tmp_path: Path) -> None:
    index = scored(tiny_index, tmp_path)
    last = tiny.D_SAE - 1
    assert ids_of(index.search(sort="output_score", limit=2)) == [last, last - 1]
    rising = ids_of(index.search(sort="output_score", descending=False, limit=100))
    assert rising == [*(i for i in range(tiny.D_SAE) if i != 5), 5]  # what has none comes last
    assert ids_of(index.search(sort="side_effect", limit=100))[::63] == [0, 5]
    high = index.search(sort="id", descending=False, min_output_score=60 / 64, limit=100)
    assert ids_of(high) == [60, 61, 62, 63]
    both = index.search(
        sort="id", descending=False, min_output_score=3 / 64, max_side_effect=64 - 62
    )
    assert ids_of(both) == [62, 63]
    assert 5 not in ids_of(index.search(max_side_effect=1e9, limit=100))
    assert index.feature(7)["output_score"] == 7 / 64
    assert index.feature(7)["writes"] == {
        "output_score": {"rank": 57, "of": 63},
        "side_effect": {"rank": 7, "of": 63},
    }
    assert index.feature(5)["writes"] is None
    json.dumps(index.feature(5), allow_nan=False)


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("output_score", "1.5", "output_score is not between 0 and 1"),
        ("output_score", "'nan'", "output_score is not between 0 and 1"),
        ("side_effect", "-0.1", "side_effect is not 0 or more"),
        ("side_effect", "'inf'", "side_effect is not 0 or more"),
    ],
)
def test_scores_that_cannot_be_are_refused(
    column: str, value: str, sentence: str, tiny_index: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        scored(tiny_index, tmp_path, column, value)
