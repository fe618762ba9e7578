"""The file of notes while somebody else has it: nobody waits long, and what was read stays."""

import subprocess
import threading
import time
from pathlib import Path

import duckdb
import pytest
from filelock import FileLock

from sae_core.notes import Notes, SAENotes
from sae_core.notes import feature_lists as lists_module
from sae_core.notes import kept_notes as kept_module
from sae_core.notes import notes_file as module
from sae_core.notes.notes_file import NotesFile
from sae_core.notes.notes_reading import NotesReader
from tests.unit.notes_support import started


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.duckdb"


HOLDER = """
import sys
import duckdb

held = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
held.close()
"""


def held_by_another(path: Path) -> "subprocess.Popen[str]":
    """A program without our lock that has the file open until it is sent a line."""
    holder = started(HOLDER, path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n", holder.communicate()
    return holder


def test_a_file_that_was_held_is_read_though_it_is_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who only looked into it has not changed it."""
    monkeypatch.setattr(module, "_RACY_NS", 0)  # it rests for long
    Notes(path).set_label("sae", 1, "kept")
    stamps = Notes(path).file.stamps()
    holder, notes = held_by_another(path), Notes(path)
    assert dict(notes.labels("sae")) == {}
    assert "is open in another program" in notes.problem
    holder.communicate("\n", timeout=60)
    assert notes.file.stamps() == stamps
    deadline = time.monotonic() + 60
    while notes.problem and time.monotonic() < deadline:
        time.sleep(0.05)
    assert notes.labels("sae")[1].text == "kept"
    assert notes.problem == ""


def test_while_a_file_is_held_it_is_tried_once_and_all_go_on_with_what_was_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "RETRY_SECONDS", 1000.0)
    notes = Notes(path)
    notes.set_label("sae", 1, "kept")
    assert notes.labels("sae")[1].text == "kept"
    waits: list[float] = []
    attach = module._attach
    monkeypatch.setattr(
        module, "_attach", lambda *given: (waits.append(given[-1]), attach(*given))[1]
    )
    Notes(path).set_label("sae", 2, "of another")
    holder = held_by_another(path)
    waits.clear()
    for _ in range(3):
        assert notes.labels("sae")[1].text == "kept"
        assert "is open in another program" in notes.problem
    assert waits == [module.GLANCE_SECONDS]
    assert module.GLANCE_SECONDS <= 0.2
    holder.communicate("\n", timeout=60)


class Together:
    """A lock that nobody is given before so many have asked for it."""

    def __init__(self, count: int) -> None:
        self._barrier, self._lock = threading.Barrier(count), threading.Lock()

    def __enter__(self) -> None:
        self._barrier.wait(60)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_who_only_shows_lists_waits_for_nobody_who_writes(path: Path) -> None:
    """Another program that writes for long has our lock for as long."""
    notes = Notes(path)
    notes.lists.make("here")
    assert [each.name for each in notes.lists.at_hand()] == ["here"]
    Notes(path).lists.make("new")
    reads: list[float | None] = []
    locked = NotesFile._locked

    def counted(self: NotesFile, path: Path, wait: float, *, reads_: bool = True) -> object:
        reads.append(wait)
        return locked(self, path, wait, reads=reads_)

    with pytest.MonkeyPatch.context() as patched, FileLock(path.with_name(path.name + ".lock")):
        patched.setattr(lists_module, "RETRY_SECONDS", 1000.0)
        patched.setattr(NotesFile, "_locked", lambda s, p, wait, reads=False: counted(s, p, wait))
        for _ in range(3):
            assert [each.name for each in notes.lists.at_hand()] == ["here"]
        assert reads == [module.GLANCE_SECONDS]
        # Of many who ask at once and must have it, one waits and all are told.
        patched.setattr(module, "READ_WAIT_SECONDS", 1.0)
        reads.clear()
        patched.setattr(notes.lists, "_reading", Together(4))
        refused: list[str] = []

        def ask() -> None:
            try:
                notes.lists.all()
            except ValueError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(refused) == 4
        assert len(reads) == 1
    assert [each.name for each in notes.lists.all()] == ["here", "new"]


def test_who_reads_does_not_wait_for_another_who_reads(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes(path)
    notes.set_label("sae", 1, "before")
    assert notes.labels("sae")[1].text == "before"
    began, go_on = threading.Event(), threading.Event()

    read = NotesReader.read

    def slow(self: NotesReader, connection: duckdb.DuckDBPyConnection) -> dict[str, SAENotes]:
        began.set()
        assert go_on.wait(60)
        return read(self, connection)

    monkeypatch.setattr(NotesReader, "read", slow)
    Notes(path).set_label("sae", 1, "after")
    reader = threading.Thread(target=notes.labels, args=("sae",))
    reader.start()
    try:
        assert began.wait(60)
        assert notes.labels("sae")[1].text == "before"
    finally:
        go_on.set()
        reader.join()
    assert notes.labels("sae")[1].text == "after"
