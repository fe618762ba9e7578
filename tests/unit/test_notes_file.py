"""The file of notes: nothing that was acknowledged is lost, whoever writes and whatever ends."""

import shutil
import threading
from pathlib import Path

import duckdb
import pytest

from sae_core.notes import Notes, Topic
from sae_core.notes import notes_file as module
from tests.unit.notes_support import started

KILLS = 50

# One process imports and starts the others by a fork, since an import takes longer than 20 writes.
WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
from sae_core.notes import Notes

path, kills = Path(sys.argv[1]), int(sys.argv[2])
chance = random.Random(0)
Notes(path).set_label("sae", kills * 10_000, "written 0")
began = time.monotonic()
Notes(path).set_label("sae", kills * 10_000, "written 0")
once = time.monotonic() - began


def writer(number, out):
    notes, at = Notes(path), 0
    while True:
        notes.set_label("sae", number * 10_000 + at, f"written {at}")
        os.write(out, b"%d " % (number * 10_000 + at))
        at += 1


for number in range(kills):
    mine, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(mine)
        writer(number, theirs)
    os.close(theirs)
    said = os.read(mine, 1000)  # its first write was acknowledged: the clock starts
    deadline = time.monotonic() + chance.uniform(0, 1.5 * once)
    while time.monotonic() < deadline:
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(mine, 1000):
        said += more
    os.close(mine)
    print(said.decode(), flush=True)
"""
MANY = """
import sys
from pathlib import Path
from sae_core.notes import Notes

notes = Notes(Path(sys.argv[1]))
for at in range(8):
    notes.set_label("sae", int(sys.argv[2]) + at, f"written {at}")
    notes.set_star("sae", 0, at % 2 == 0)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.duckdb"


def test_every_acknowledged_write_survives_fifty_kills(path: Path) -> None:
    """`kill -9` at any moment of a write: at its log, at its commit, while the file is closed."""
    out, said = started(WRITERS, path, KILLS).communicate(timeout=300)
    rounds = out.splitlines()
    assert len(rounds) == KILLS, said
    acknowledged = {KILLS * 10_000, *(int(word) for line in rounds for word in line.split())}
    # Each one had written when it was killed.
    assert all(line.split() for line in rounds)
    kept = Notes(path).labels("sae")
    assert acknowledged <= set(kept)
    # What was being written when its process was killed is there or is not, and nothing else.
    assert len(kept) <= len(acknowledged) + KILLS
    assert all(label.text == f"written {feature % 10_000}" for feature, label in kept.items())


def test_two_processes_write_at_once(path: Path) -> None:
    mine, writers = Notes(path), [started(MANY, path, first) for first in (0, 1000)]
    for at in range(5):
        mine.set_label("sae", 2000 + at, "mine")
    said = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    expected = {*range(8), *range(1000, 1008), *range(2000, 2005)}
    assert set(mine.labels("sae")) == set(Notes(path).labels("sae")) == expected


def test_threads_write_at_once(path: Path) -> None:
    notes = Notes(path)
    writers = [threading.Thread(target=notes.set_label, args=("sae", i, "x")) for i in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(notes.labels("sae")) == set(range(8))


def test_another_server_sees_what_one_wrote_without_a_second_look(path: Path) -> None:
    """Writes follow each other within one tick of the file's clock."""
    one, other = Notes(path), Notes(path)
    for at in range(5):
        one.set_label("sae", 1, f"label {at}")
        assert other.labels("sae")[1].text == f"label {at}"


def test_reading_makes_no_file(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "data" / "notes.duckdb")
    assert dict(notes.labels("sae")) == {}
    assert notes.problem == ""
    assert list(tmp_path.iterdir()) == []


def test_what_has_not_changed_is_not_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RACY_NS", -(10**9))
    notes = Notes(path)
    notes.set_star("sae", 1, True)
    assert notes.of("sae").features[1].starred
    monkeypatch.setattr(module.duckdb, "connect", lambda **_: pytest.fail("it was opened"))
    assert notes.of("sae").features[1].starred


def test_a_block_that_raises_keeps_nothing(path: Path) -> None:
    topic = Topic(name="ratings", version=1, tables=("CREATE TABLE IF NOT EXISTS r (x INTEGER)",))
    notes = Notes(path)
    with notes.transaction(topic) as connection:
        connection.execute("INSERT INTO r VALUES (1)")

    def fail() -> None:
        with notes.transaction(topic) as connection:
            connection.execute("INSERT INTO r VALUES (2)")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with notes.reading(topic) as connection:
        assert connection.execute("SELECT x FROM r").fetchall() == [(1,)]


def test_a_topic_that_the_file_has_not_got_reads_as_empty(path: Path) -> None:
    topic = Topic(name="ratings", version=1, tables=("CREATE TABLE IF NOT EXISTS r (x INTEGER)",))
    notes = Notes(path)
    for _ in range(2):
        with notes.reading(topic) as connection:
            assert connection.execute("SELECT x FROM r").fetchall() == []
        notes.set_star("sae", 1, True)


def test_a_newer_file_is_left_as_it_is(path: Path) -> None:
    topic = Topic(name="ratings", version=2, tables=("CREATE TABLE IF NOT EXISTS r (x INTEGER)",))
    older = Topic(name="ratings", version=1, tables=topic.tables)
    notes = Notes(path)
    with notes.transaction(topic):
        pass
    said = "was written by a newer Jumpscope .version 2 of its ratings.: use that one, or name"
    for block in (notes.transaction, notes.reading):
        with pytest.raises(ValueError, match=said), block(older):
            pytest.fail("it was opened")


@pytest.mark.parametrize("kind", ["text", "cut", "foreign"])
def test_a_damaged_file_is_one_sentence_and_left_as_it_is(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_bytes(b"not a database" * 1000)
    elif kind == "foreign":
        duckdb.connect(str(path)).close()
    else:
        Notes(path).set_star("sae", 1, True)
        path.write_bytes(path.read_bytes()[:10_000])
    before = path.read_bytes()
    notes = Notes(path)
    assert dict(notes.labels("sae")) == {}
    assert str(path) in notes.problem
    assert "\n" not in notes.problem
    with pytest.raises(ValueError, match="name another") as caught:
        notes.set_star("sae", 1, True)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_file_that_becomes_readable_is_read(path: Path) -> None:
    good = path.with_name("good.duckdb")
    Notes(good).set_star("sae", 1, True)
    path.write_text("damaged")
    notes = Notes(path)
    assert notes.problem
    shutil.move(good, path)
    assert notes.of("sae").features[1].starred
    assert notes.problem == ""


def killed_before_it_took_its_log_over(path: Path) -> bytes:
    """Write two labels; the second is in the log alone, as after a kill between the two."""
    Notes(path).set_label("sae", 1, "one")
    program = (
        "import os, signal, sys; from pathlib import Path; from sae_core.notes import Notes\n"
        "from sae_core.notes import notes_file as module\n"
        "class Killed:\n"
        "    def __init__(self, connection): self.connection = connection\n"
        "    def close(self): self.connection.close()\n"
        "    def execute(self, statement, *given):\n"
        "        if statement.startswith('USE memory'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return self.connection.execute(statement, *given)\n"
        "connect = module.duckdb.connect\n"
        "module.duckdb.connect = lambda **given: Killed(connect(**given))\n"
        "Notes(Path(sys.argv[1])).set_label('sae', 2, 'two')"
    )
    _, said = started(program, path).communicate(timeout=120)
    log_file = path.with_name(path.name + ".wal")
    assert log_file.exists(), said
    return log_file.read_bytes()


def test_the_log_of_a_file_that_was_moved_away_is_not_taken_for_a_new_one_s(path: Path) -> None:
    log_of_old = killed_before_it_took_its_log_over(path)
    path.rename(path.with_name("moved.duckdb"))
    notes = Notes(path)
    notes.set_label("sae", 3, "three")
    assert {i: label.text for i, label in notes.labels("sae").items()} == {3: "three"}
    aside = path.with_name(path.name + ".wal.1")
    assert aside.read_bytes() == log_of_old
    aside.rename(path.with_name("moved.duckdb.wal"))
    assert set(Notes(path.with_name("moved.duckdb")).labels("sae")) == {1, 2}


def test_a_log_that_does_not_fit_its_file_is_one_sentence(path: Path) -> None:
    """Put there by hand: DuckDB fails at a statement in it, with that statement's error."""
    killed_before_it_took_its_log_over(path)
    with duckdb.connect() as connection:
        other = path.with_name("other.duckdb")
        connection.execute(f"ATTACH '{other}' AS notes ({module._STORAGE})")
    shutil.copy(other, path)
    notes = Notes(path)
    assert dict(notes.labels("sae")) == {}
    assert "is damaged" in notes.problem
    with pytest.raises(ValueError, match=r"move it and notes\.duckdb\.wal away") as caught:
        notes.set_label("sae", 1, "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (duckdb.IOException("No space left on device"), "no space left on the disk"),
        (duckdb.IOException("Permission denied"), "cannot be written"),
    ],
)
def test_what_the_disk_refuses_is_one_sentence_and_nothing_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    notes = Notes(path)
    notes.set_label("sae", 1, "before")

    def refuse(*arguments: object, **named: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(module, "_declare", refuse)
        with pytest.raises(ValueError, match=said):
            notes.set_label("sae", 1, "after")
    assert notes.labels("sae")[1].text == "before"
    notes.set_label("sae", 1, "after")
    assert Notes(path).labels("sae")[1].text == "after"


def test_a_full_disk_under_duckdb_loses_nothing(path: Path) -> None:
    """The system's own limit of a file's size stands for a disk that is full."""
    notes = Notes(path)
    notes.set_label("sae", 1, "before")
    program = (
        "import resource, signal, sys; from pathlib import Path; from sae_core.notes import Notes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "notes = Notes(Path(sys.argv[1])); size = Path(sys.argv[1]).stat().st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "try: notes.set_labels('sae', {i: f'{i} ' * 40 for i in range(20_000)})\n"
        "except ValueError as error: print(error)"
    )
    out, said = started(program, path).communicate(timeout=120)
    assert said == ""
    assert out.count("\n") == 1
    assert {i: label.text for i, label in Notes(path).labels("sae").items()} == {1: "before"}


def test_off_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notes = Notes.named("off")
    assert not notes.kept
    assert dict(notes.labels("sae")) == {}
    with pytest.raises(ValueError, match="nothing is kept, since notes are off"):
        notes.set_star("sae", 1, True)
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_in_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Notes.named().file.path == tmp_path / "jumpscope" / "notes.duckdb"
    assert Notes.named("mine.duckdb").file.path == Path("mine.duckdb")


def test_a_lock_that_lasts_is_one_sentence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    topic = Topic(name="ratings", version=1, tables=())
    with (
        Notes(path).transaction(topic),
        pytest.raises(ValueError, match="is being written by another program"),
    ):
        Notes(path).set_star("sae", 1, True)
