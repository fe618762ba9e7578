"""An index whose building was killed goes on from its checkpoint, to the same result."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch

from sae_core.config import Site
from sae_core.formats.saelens import save_sae
from sae_core.index import Index, IndexConfig, Target, build_indexes
from sae_core.index.index_checkpoint import STATE_FILE, folder_of
from sae_core.index.schema import TABLES
from sae_core.sae import SAE
from tests import tiny

SETTINGS: dict[str, Any] = {"rows_per_batch": 5, "checkpoint_tokens": 400, "seed": 2}

CHILD = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from sae_core.formats.saelens import load_sae
from sae_core.index import IndexConfig, Target, build_indexes
from tests import tiny

corpus, out, *folders = sys.argv[1:]
read = 0

def progress(tokens):
    global read
    read += tokens
    if read > 2000:
        print("here", flush=True)
        time.sleep(600)  # to be killed

targets = [
    Target(sae=load_sae(folder), out_path=Path(out) / f"{n}.duckdb")
    for n, folder in enumerate(folders)
]
cfg = IndexConfig(corpus=(corpus,), rows_per_batch=5, checkpoint_tokens=400, seed=2)
build_indexes(tiny.make_model(), tiny.make_tokenizer(), targets, cfg, progress=progress)
"""


@pytest.fixture(scope="module")
def saes(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> list[SAE]:
    return [tiny_sae, tiny.make_sae(tiny_model, tiny_tokenizer, Site("mlp_out", 2), seed=1)]


def targets(saes: list[SAE], folder: Path) -> list[Target]:
    return [Target(sae=sae, out_path=folder / f"{n}.duckdb") for n, sae in enumerate(saes)]


def kill_a_build(saes: list[SAE], corpus: Path, out: Path) -> None:
    """Leave in `out` what a build of these SAEs leaves when it is killed after 2,000 tokens."""
    folders = [str(out / f"sae{n}") for n in range(len(saes))]
    for sae, folder in zip(saes, folders, strict=True):
        save_sae(sae, folder)
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(corpus), str(out), *folders],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        if child.stdout:
            child.stdout.close()
    assert child.returncode == -signal.SIGKILL


def contents(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, but for the time at which the index was built."""
    with duckdb.connect(str(path), read_only=True) as connection:
        result = {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()
            for table in TABLES
        }
    result["meta"] = [row for row in result["meta"] if row[0] not in ("built", "sae_hash")]
    return result


@pytest.fixture(scope="module")
def whole(
    tiny_model: Any,
    tiny_tokenizer: Any,
    saes: list[SAE],
    tiny_corpus: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, list[tuple[Any, ...]]]]:
    """The contents of both indexes, built without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    cfg = IndexConfig(corpus=(str(tiny_corpus),), **SETTINGS)
    build_indexes(tiny_model, tiny_tokenizer, targets(saes, folder), cfg)
    return [contents(folder / f"{n}.duckdb") for n in range(2)]


def test_a_killed_build_goes_on_to_the_same_index(
    tiny_model: Any,
    tiny_tokenizer: Any,
    saes: list[SAE],
    tiny_corpus: Path,
    tmp_path: Path,
    whole: list[dict[str, list[tuple[Any, ...]]]],
) -> None:
    kill_a_build(saes, tiny_corpus, tmp_path)
    partial = folder_of(tmp_path / "0.duckdb")
    assert (partial / STATE_FILE).is_file()
    if (tmp_path / "0.duckdb").exists():  # a slow machine has time to write one on the way
        assert "planned_tokens" in Index.open(tmp_path / "0.duckdb").meta
    seen: list[int] = []
    cfg = IndexConfig(corpus=(str(tiny_corpus),), **SETTINGS)
    build_indexes(tiny_model, tiny_tokenizer, targets(saes, tmp_path), cfg, progress=seen.append)
    # It went on, and did not start again.
    assert seen[0] > 1000
    assert not partial.exists()
    for n, expected in enumerate(whole):
        result = contents(tmp_path / f"{n}.duckdb")
        for table in TABLES:
            assert result[table] == expected[table], table


def test_a_checkpoint_of_another_run_is_refused(
    tiny_model: Any,
    tiny_tokenizer: Any,
    saes: list[SAE],
    tiny_corpus: Path,
    tmp_path: Path,
    whole: list[dict[str, list[tuple[Any, ...]]]],
) -> None:
    kill_a_build(saes, tiny_corpus, tmp_path)
    other_corpus = tiny.make_corpus(tmp_path / "tiny.parquet", seed=5)
    other_sae = SAE.build(saes[0].cfg)
    other_model = tiny.make_model(seed=3)

    def build(**changes: Any) -> None:
        settings = {"corpus": (str(tiny_corpus),), **SETTINGS} | changes
        model = settings.pop("model_", tiny_model)
        chosen = settings.pop("saes_", saes)
        cfg = IndexConfig(**settings)
        build_indexes(model, tiny_tokenizer, targets(chosen, tmp_path), cfg)

    for changes, sentence in (
        ({"seed": 3}, "with other settings: start again with --fresh"),
        ({"context_size": 16}, "with other settings"),
        ({"corpus": (str(other_corpus),)}, "with other corpus"),
        ({"saes_": [other_sae, saes[1]]}, "with other SAEs"),
        ({"saes_": saes[:1]}, "with other SAEs"),
        ({"model_": other_model}, "with other model"),
        ({"seed": 3, "model_": other_model}, "with other settings and model"),
    ):
        with pytest.raises(ValueError, match=sentence):
            build(**changes)
    # Refusing has changed nothing: the right run still goes on, here in other batches.
    build(rows_per_batch=8)
    result = contents(tmp_path / "0.duckdb")
    assert [row[0:3] for row in result["features"]] == [row[0:3] for row in whole[0]["features"]]


def test_a_damaged_checkpoint_is_named_and_fresh_starts_again(
    tiny_model: Any, tiny_tokenizer: Any, saes: list[SAE], tiny_corpus: Path, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "0.duckdb")
    folder.mkdir()
    (folder / STATE_FILE).write_bytes(b"not a checkpoint")
    cfg = IndexConfig(corpus=(str(tiny_corpus),), tokens=300)
    with pytest.raises(ValueError, match=r"state\.pt is damaged: delete the folder"):
        build_indexes(tiny_model, tiny_tokenizer, targets(saes, tmp_path), cfg)
    cfg = IndexConfig(corpus=(str(tiny_corpus),), tokens=300, fresh=True)
    build_indexes(tiny_model, tiny_tokenizer, targets(saes, tmp_path), cfg)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.duckdb", "1.duckdb"]


def test_a_checkpoint_holds_tensors_and_plain_values_alone(
    saes: list[SAE], tiny_corpus: Path, tmp_path: Path
) -> None:
    kill_a_build(saes, tiny_corpus, tmp_path)
    path = folder_of(tmp_path / "0.duckdb") / STATE_FILE
    assert set(torch.load(path, weights_only=True)) == {"marks", "state"}


def test_ctrl_c_says_how_to_go_on(
    tiny_model: Any, tiny_tokenizer: Any, saes: list[SAE], tiny_corpus: Path, tmp_path: Path
) -> None:
    read = 0

    def stop(tokens: int) -> None:
        nonlocal read
        read += tokens
        if read > 1500:
            raise KeyboardInterrupt

    cfg = IndexConfig(corpus=(str(tiny_corpus),), **SETTINGS)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        build_indexes(tiny_model, tiny_tokenizer, targets(saes, tmp_path), cfg, progress=stop)
    seen: list[int] = []
    build_indexes(tiny_model, tiny_tokenizer, targets(saes, tmp_path), cfg, progress=seen.append)
    assert seen[0] > 1000
