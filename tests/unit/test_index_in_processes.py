"""Work shared out over processes comes back whole and in order; an index is the same by either."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core.index import IndexConfig, assemble, build_index, in_processes, write
from sae_core.sae import SAE

KILLED = """
import os
from sae_core.index import in_processes as shared
shared._places, shared._LOOK_S = lambda: 3, 0.1
with shared.in_processes(lambda n: "made", 20) as made:
    print(next(made), flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if there were three CPUs."""
    monkeypatch.setattr(in_processes, "_places", lambda: 3)
    yield
    assert in_processes._work == []


def made_of(work: Callable[[int], Any], pieces: int) -> list[Any]:
    with in_processes.in_processes(work, pieces) as made:
        return list(made)


def test_work_comes_back_in_order_from_other_processes(several: None) -> None:
    own, offset = os.getpid(), 7
    made = made_of(lambda n: (n + offset, os.getpid()), 20)
    assert [value for value, _ in made] == list(range(7, 27))
    assert own not in {process for _, process in made}


def test_a_few_pieces_stay_in_this_process(several: None) -> None:
    assert made_of(lambda n: os.getpid(), 2) == [os.getpid()] * 2


def test_what_goes_wrong_there_is_raised_here(several: None) -> None:
    def work(number: int) -> int:
        if number == 5:
            raise ValueError("piece 5 is wrong")
        return number

    with pytest.raises(ValueError, match="piece 5 is wrong"):
        made_of(work, 20)


def test_a_killed_process_is_one_sentence(several: None) -> None:
    with pytest.raises(ValueError, match="was killed, probably because memory was short"):
        made_of(lambda n: n == 5 and os.kill(os.getpid(), 9), 20)


def test_processes_end_with_the_one_that_forked_them() -> None:
    """They have its output open, whose end is waited for."""
    command = [sys.executable, "-c", KILLED]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.communicate(timeout=60)[0] == b"made\n"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def test_an_index_is_the_same_by_one_process_and_by_several(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_sae: SAE,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = IndexConfig(corpus=(str(tiny_corpus),), tokens=1500, context_size=16, map="off")
    monkeypatch.setattr(assemble, "FEATURES", 5)
    monkeypatch.setattr(assemble, "_BLOCK", 5)
    monkeypatch.setattr(write, "_TOGETHER", 4)
    tables = []
    for places in (1, 3):
        monkeypatch.setattr(in_processes, "_places", lambda places=places: places)
        path = tmp_path / f"{places}.duckdb"
        meta = build_index(tiny_model, tiny_tokenizer, tiny_sae, cfg, path)
        with duckdb.connect(str(path), read_only=True) as connection:
            pages = connection.execute("SELECT data FROM pages ORDER BY page").fetchall()
            features = connection.execute("SELECT * FROM features ORDER BY feature").fetchall()
        tables.append((len(pages), pages, str(features), meta["worth_opening"]))
    assert tables[0][0] == 13
    assert tables[0] == tables[1]
