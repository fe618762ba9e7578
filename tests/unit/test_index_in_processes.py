"""Work shared out over processes comes back whole and in order; an index is the same by either."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core.index import (
    IndexConfig,
    assemble,
    build_index,
    contexts,
    decoder_arrays,
    describing,
    in_processes,
    write,
)
from sae_core.sae import SAE

KILLED = """
import os
from sae_core.index import in_processes as shared
shared._places = lambda: 3
with shared.in_processes(lambda n: "made", 20) as made:
    print(next(made), flush=True)
    os.kill(os.getpid(), 9)
"""

# The second crew is forked, if that is possible, while the first one is.
KILLED_WITH_TWO_CREWS = """
import os, threading
from sae_core.index import in_processes as shared
shared._places = lambda: 3
own, fork, forked, begun = os.getpid(), os.fork, [], threading.Event()

def other():
    with shared.in_processes(lambda n: n, 4096) as made:
        next(made)
        begun.set()
        threading.Event().wait()

def fork_between():
    if os.getpid() == own:
        forked.append(None)
        if len(forked) == 2:
            threading.Thread(target=other, daemon=True).start()
            begun.wait(0.5)
    return fork()

os.fork = fork_between
with shared.in_processes(lambda n: n, 4096) as made:
    next(made)
    assert begun.wait(30)
    print("made", flush=True)
    os.kill(own, 9)
"""


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were three CPUs."""
    monkeypatch.setattr(in_processes, "_places", lambda: 3)


def pipes_and_memory() -> set[tuple[str, str]]:
    """The pipes and files in memory that are open here. Others may be closed meanwhile, by what
    earlier tests have begun.
    """
    links = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append((each.name, os.readlink(each)))
    return {link for link in links if link[1].startswith(("pipe:", "/memfd:"))}


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


class UnsendableError(Exception):
    """Pickles, but cannot be made again from what it says."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"{why}: {code}")


def test_an_error_that_cannot_be_sent_is_told(several: None) -> None:
    def work(piece: int) -> int:
        raise UnsendableError(piece, "no room")

    with (
        in_processes.in_processes(work, 20) as made,
        pytest.raises(RuntimeError, match=r"^UnsendableError: no room: 0") as raised,
    ):
        next(made)
    assert "in work" in raised.value.__notes__[0]


@pytest.mark.parametrize("places", [2, 3, 7, 16])
def test_each_process_is_another(places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They fork one another, and all take part: each waits until as many have begun."""
    monkeypatch.setattr(in_processes, "_places", lambda: places)
    begun, note = os.pipe()

    def work(number: int) -> int:
        os.write(note, b".")
        until = time.monotonic() + 30
        while fcntl.ioctl(begun, termios.FIONREAD, b"0000")[0] < places:
            assert time.monotonic() < until
            time.sleep(0.01)
        return os.getpid()

    try:
        assert len(set(made_of(work, 2 * places))) == places
    finally:
        os.close(begun)
        os.close(note)


def test_more_pieces_than_a_pipe_has_room_for(
    several: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_processes, "_TICKETS", 4)
    assert made_of(lambda n: n * n, 23) == [n * n for n in range(23)]


def test_fewer_processes_do_where_no_more_can_be_forked(
    several: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork, forked = os.fork, list[int]()

    def once() -> int:
        if forked:
            raise BlockingIOError("Resource temporarily unavailable")
        forked.append(fork())
        return forked[0]

    monkeypatch.setattr(os, "fork", once)
    assert len(set(made_of(lambda n: os.getpid(), 20))) == 1
    assert forked


@pytest.mark.parametrize("refused", ["fork", "memfd_create"])
def test_threads_do_where_no_process_can_be_had(
    refused: str, several: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read for hours is not lost for that; nor is anything left open."""

    def no(*_: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, refused, no)
    before = pipes_and_memory()
    assert made_of(lambda n: (n, os.getpid()), 20) == [(n, os.getpid()) for n in range(20)]
    assert pipes_and_memory() <= before


def test_what_has_not_begun_is_left_out(several: None) -> None:
    """Nor is anything left of the processes, or open."""
    before = pipes_and_memory()
    begun, note = os.pipe()

    def work(number: int) -> int:
        os.write(note, b".")
        time.sleep(0.05)
        return os.getpid()

    with in_processes.in_processes(work, 1000) as made:
        process = next(made)
    os.close(note)
    # Its end comes when all have ended.
    assert len(b"".join(iter(lambda: os.read(begun, 1000), b""))) < 500
    os.close(begun)
    assert pipes_and_memory() <= before
    until = time.monotonic() + 30
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_killed_process_is_one_sentence(several: None) -> None:
    with pytest.raises(ValueError, match="was killed, probably because memory was short"):
        made_of(lambda n: n == 5 and os.kill(os.getpid(), 9), 20)


@pytest.mark.parametrize("program", [KILLED, KILLED_WITH_TWO_CREWS])
def test_processes_end_with_the_one_that_forked_them(program: str) -> None:
    """They have its output open, whose end is waited for."""
    command = [sys.executable, "-c", program]
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
    for module in (assemble, decoder_arrays):
        monkeypatch.setattr(module, "FEATURES", 5)
        monkeypatch.setattr(module, "_PAGES", 1)
    monkeypatch.setattr(describing, "_BLOCK", 5)
    monkeypatch.setattr(write, "_TOGETHER", 4)
    tables = []
    for places, together in ((1, 10**6), (3, 7)):
        monkeypatch.setattr(in_processes, "_places", lambda places=places: places)
        monkeypatch.setattr(contexts, "_TOGETHER", together)
        path = tmp_path / f"{places}.duckdb"
        meta = build_index(tiny_model, tiny_tokenizer, tiny_sae, cfg, path)
        with duckdb.connect(str(path), read_only=True) as connection:
            pages = connection.execute("SELECT data FROM pages ORDER BY page").fetchall()
            features = connection.execute("SELECT * FROM features ORDER BY feature").fetchall()
        tables.append((len(pages), pages, str(features), meta["worth_opening"]))
    assert tables[0][0] == 13
    assert tables[0] == tables[1]


@pytest.mark.parametrize("made_by", [describing.Describer, assemble.Assembler])
def test_of_an_index_that_cannot_be_made_nothing_is_left(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_sae: SAE,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    several: None,
    made_by: type,
) -> None:
    def work(self: Any, number: int) -> None:
        raise ValueError(f"piece {number} is wrong")

    cfg = IndexConfig(corpus=(str(tiny_corpus),), tokens=1500, context_size=16, map="off")
    for module in (assemble, decoder_arrays):
        monkeypatch.setattr(module, "FEATURES", 5)
        monkeypatch.setattr(module, "_PAGES", 1)
    monkeypatch.setattr(describing, "_BLOCK", 5)
    monkeypatch.setattr(made_by, "_block", work)
    with pytest.raises(ValueError, match="piece 0 is wrong"):
        build_index(tiny_model, tiny_tokenizer, tiny_sae, cfg, tmp_path / "index.duckdb")
    assert not list(tmp_path.glob("*.duckdb*")) + list(tmp_path.glob(".*duckdb*tmp*"))
