"""Indexes that are written while a run reads on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from sae_core.index import Index, IndexConfig, build_index, so_far
from sae_core.index.schema import TABLES
from sae_core.index.so_far import Spacing, gives_way
from sae_core.sae import SAE

HASH = "0123"


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def spent(cost: Callable[[int], float], features: int = 1000) -> tuple[float, float, int]:
    """Seconds of a run that reads 1 s between checkpoints, of writing in it, and how often."""
    clock = Clock()
    spacing, writing, times = Spacing(features, clock), 0.0, 0
    for second in range(2000):
        clock.now += 1
        if spacing.due():
            with spacing.writing():
                clock.now += cost(second)
            writing += cost(second)
            times += 1
    return clock.now - 100, writing, times


@pytest.mark.parametrize("cost", [0.01, 0.5, 7.0, 60.0])
def test_writing_takes_at_most_a_tenth_of_the_time(cost: float) -> None:
    whole, writing, times = spent(lambda _: cost)
    # What the first one takes is not known before.
    assert writing - cost <= 0.1 * whole
    assert times >= min(1900, 0.08 * 2000 / cost)


def test_writing_that_takes_longer_and_longer_becomes_rarer() -> None:
    whole, writing, _ = spent(lambda second: second / 50)
    assert writing <= 0.13 * whole


def test_the_first_one_waits_for_as_long_as_many_features_may_take() -> None:
    clock = Clock()
    spacing = Spacing(131_072, clock)
    clock.now += 60
    assert not spacing.due()
    clock.now += 10_000
    assert spacing.due()


def contents(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()
            for table in TABLES
        }
    rows["meta"] = [row for row in rows["meta"] if row[0] not in ("built", "planned_tokens")]
    return rows


def test_each_is_what_a_run_of_so_many_tokens_writes_and_the_last_is_as_ever(
    tiny_model: Any,
    tiny_tokenizer: Any,
    tiny_sae: SAE,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = IndexConfig(
        corpus=(str(tiny_corpus),), tokens=2000, rows_per_batch=5, checkpoint_tokens=500
    )
    path, kept = tmp_path / "index.duckdb", []
    monkeypatch.setattr(so_far, "SHARE", 1e9)

    def look(_read: int) -> None:
        if path.exists() and (not kept or kept[-1].read_bytes() != path.read_bytes()):
            kept.append(Path(shutil.copy(path, tmp_path / f"kept{len(kept)}.duckdb")))

    build_index(tiny_model, tiny_tokenizer, tiny_sae, cfg, path, progress=look)
    metas = [Index.open(each).meta for each in kept]
    assert len(metas) == 3
    assert all(meta["planned_tokens"] == 2000 for meta in metas)
    read = [meta["tokens"] for meta in metas]
    assert read == sorted(set(read))
    assert read[-1] < Index.open(path).meta["tokens"]
    assert "planned_tokens" not in Index.open(path).meta
    monkeypatch.setattr(so_far, "SHARE", 0.0)
    for tokens, result in ((read[1], kept[1]), (2000, path)):
        alone = tmp_path / f"alone{tokens}.duckdb"
        few = IndexConfig(
            corpus=cfg.corpus,
            tokens=tokens,
            rows_per_batch=5,
            map="auto" if result == path else "off",  # the last one alone has a map
        )
        build_index(tiny_model, tiny_tokenizer, tiny_sae, few, alone)
        assert contents(alone) == contents(result)


def changed(path: Path, **entries: str) -> Path:
    with duckdb.connect(str(path)) as connection:
        for key, value in {"sae_hash": f'"{HASH}"', **entries}.items():
            connection.execute("DELETE FROM meta WHERE key = ?", [key])
            connection.execute("INSERT INTO meta VALUES (?, ?)", [key, value])
    return path


def test_a_finished_index_of_more_text_stays(tiny_index: Path, tmp_path: Path) -> None:
    tokens = Index.open(tiny_index).meta["tokens"]
    path = changed(Path(shutil.copy(tiny_index, tmp_path / "index.duckdb")))
    assert not gives_way(path, tokens, HASH)
    assert gives_way(path, tokens + 1, HASH)
    assert gives_way(path, 10, "other weights")
    assert gives_way(changed(path, planned_tokens=str(2 * tokens)), 10, HASH)
    path.write_bytes(b"no index" * 1000)
    assert gives_way(path, 10, HASH)
    path.unlink()
    assert gives_way(path, 10, HASH)


def test_a_plan_that_cannot_be_is_refused(tiny_index: Path, tmp_path: Path) -> None:
    path = changed(Path(shutil.copy(tiny_index, tmp_path / "index.duckdb")), planned_tokens="3")
    with pytest.raises(ValueError, match="its planned_tokens are 3"):
        Index.open(path)
