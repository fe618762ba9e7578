"""Indexes that several processes build together are those that one process builds."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from sae_core.bundle import Bundle
from sae_core.index import Index, logits, prepared, token_sample
from sae_core.index.index_checkpoint import STATE_FILE, folder_of
from sae_core.index.kept_state import path_of
from tests import tiny
from tests.index_parts import assert_same, make_parts
from tests.processes import PATIENCE, started

# The second run ends without a word at its second checkpoint, as a process that is killed does.
PROGRAM = """
import json, os, sys
import torch
from app.cli import main
from sae_core.index import index_checkpoint, logits, prepared, so_far, token_sample
from training.processes import together

torch.set_num_threads(1)
token_sample.MOST = 256
logits.ROWS = prepared.ROWS = 24  # lots of which the processes have shares of unlike sizes
so_far.SHARE = 0.0
first, second = json.loads(sys.argv[1])
saved = 0
save = index_checkpoint.save

def save_twice(*given):
    global saved
    save(*given)
    saved += 1
    if saved == 2:
        os._exit(9)

with together("cpu"):
    if main(first):
        sys.exit(1)
    print("first", flush=True)
    index_checkpoint.save, so_far.SHARE = save_twice, 1e9
    sys.exit(main(second))
"""


def start(world: int, runs: list[list[str]]) -> list[subprocess.Popen[str]]:
    """`world` processes that index."""
    return started(PROGRAM, [json.dumps(runs)], world)


def test_two_processes_write_what_one_writes_and_one_goes_on_where_two_were_killed(
    tiny_model: Any,
    tiny_tokenizer: Any,
    tiny_sae: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = make_parts(tmp_path)
    names = ("one", "two", "killed")
    tiny.make_bundle(tmp_path / "one", tiny_model, tiny_tokenizer, tiny_sae, texts[1])
    # An index of more text would stay until the new one is finished.
    Bundle.open(tmp_path / "one").index_path(tiny.SAE_NAME).unlink()
    for name in names[1:]:
        shutil.copytree(tmp_path / "one", tmp_path / name)
    paths = {name: Bundle.open(tmp_path / name).index_path(tiny.SAE_NAME) for name in names}
    commands = {
        name: [
            *("index", "--bundle", str(tmp_path / name), "--device", "cpu", "--keep-state"),
            *("--rows-per-batch", "3", "--checkpoint-tokens", "700", "--output-scores", "off"),
            *("--corpus", *map(str, texts)),
        ]
        for name in names
    }
    monkeypatch.setattr(token_sample, "MOST", 256)
    for module in (logits, prepared):
        monkeypatch.setattr(module, "ROWS", 24)
    processes = start(2, [commands["two"], commands["killed"]])
    try:
        assert main(commands["one"]) == 0
        said = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert processes[0].returncode == 9, said
    # The first process alone says what was written, on stdout.
    assert "index.duckdb" in said[0][0]
    assert said[1][0].splitlines() == ["first"]

    assert Index.open(paths["one"]).meta["tokens"] > 2 * token_sample.MOST
    assert_same(paths["two"], paths["one"])
    assert path_of(paths["two"]).is_file()

    assert (folder_of(paths["killed"]) / STATE_FILE).is_file()
    so_far = Index.open(paths["killed"]).meta
    assert so_far["planned_tokens"] == 3_000_000
    assert so_far["tokens"] >= 700
    assert main(commands["killed"]) == 0
    assert_same(paths["killed"], paths["one"])
    assert not folder_of(paths["killed"]).exists()
