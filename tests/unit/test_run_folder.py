"""What a run's folder tells of it: at work, ended in any way, not begun, half written."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from app.web.run_view import run_page
from app.web.run_words import duration, spoken, state_sentence
from sae_core.files import is_held, only_one
from tests.unit.test_run_report import CFG, NAME, make_run
from training.run_folder import read_begun, read_run
from training.run_status import (
    CHECKPOINTS,
    CONFIG_FILE,
    LOCK_FILE,
    METRICS_FILE,
    STATUS_FILE,
    announced,
    is_run,
    model_of,
    status_of,
)

HOLDER = """
import sys
from pathlib import Path
from sae_core.files import only_one
from training.run_status import announced
out = Path(sys.argv[1])
with only_one(out / "run.lock", "busy"), announced(out, "some/model"):
    print("held", flush=True)
    sys.stdin.read()
"""


def begun(folder: Path) -> Path:
    """A run that has written no more than its settings."""
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(CFG)))
    return folder


def checkpoint(folder: Path, step: int) -> None:
    """A file that stands for a checkpoint."""
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    (folder / CHECKPOINTS / f"step-{step:09d}.safetensors").touch()


def test_a_run_of_another_process_is_seen_at_work_and_killed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    checkpoint(folder, 50)
    program = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        run = read_begun(folder)
        assert (run.state, run.step, run.finished) == ("at work", 60, False)
        assert state_sentence(run) == "At work: step 60 of 100."
        assert model_of(folder) == "some/model"
        process.kill()
    run = read_begun(folder)
    assert run.state == "killed"
    assert state_sentence(run) == (
        "It ended without a word (killed, or a power cut), at step 60 of 100: the same jumpscope "
        "train command goes on from step 50."
    )
    assert run.seconds_left is None


def test_a_run_says_how_it_ends(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with announced(folder, "m"), only_one(folder / LOCK_FILE, "busy"):
        assert status_of(folder) == ("at work", "")
    assert status_of(folder) == ("finished", "")
    with pytest.raises(KeyboardInterrupt), announced(folder, "m"):
        raise KeyboardInterrupt("interrupted at step 60 of 100, saved.")
    assert state_sentence(read_run(folder)) == "Stopped: interrupted at step 60 of 100, saved."
    with pytest.raises(ValueError, match="no longer finite"), announced(folder, "m"):
        raise ValueError("the loss is no longer finite.")
    failed = "Failed at step 60 of 100: the loss is no longer finite."
    assert state_sentence(read_run(folder)) == failed
    with pytest.raises(ZeroDivisionError), announced(folder, "m"):
        raise ZeroDivisionError("secret")
    assert state_sentence(read_run(folder)).endswith("an error: ZeroDivisionError.")


def test_a_run_without_a_log_yet(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    assert is_run(folder)
    run = read_begun(folder)
    assert (run.saes, run.step, run.speed, run.seconds_left) == ([], 0, None, None)
    assert "goes on from the beginning" in state_sentence(run)
    with pytest.raises(ValueError, match="has no metrics yet"):
        read_run(folder)
    with only_one(folder / LOCK_FILE, "busy"):
        run = read_begun(folder)
        assert "the first numbers come with step 1." in state_sentence(run)
        assert not run_page(run)["begun"]


def test_half_a_last_line_is_left_out(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    whole = (make_run(tmp_path / "other") / METRICS_FILE).read_text().splitlines()
    (folder / METRICS_FILE).write_text(whole[0][:40])
    assert read_begun(folder).saes == []
    # The first of two SAEs alone: their curves begin together.
    (folder / METRICS_FILE).write_text(whole[0] + "\n")
    assert read_begun(folder).saes == []
    (folder / METRICS_FILE).write_text("\n".join(whole[:2]) + "\n" + whole[2][:-1])
    run = read_begun(folder)
    assert [sae.last["step"] for sae in run.saes] == [10, 10]
    assert run.saes[0].plan.name == NAME


def test_a_finished_run_of_an_earlier_version(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", steps=100))
    assert (run.state, run.finished) == ("unknown", True)
    assert state_sentence(run) == spoken(run)[: len("Finished.")] == "Finished."


def test_speed_and_time_left_are_of_the_last_lines(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with only_one(folder / LOCK_FILE, "busy"):
        run = read_begun(folder)
        # Lines of steps 20 to 60: 40 steps of 128 tokens in 4 seconds.
        assert run.speed == pytest.approx(1280)
        assert run.seconds_left == pytest.approx(4)
        names = [row["name"] for row in run_page(run)["strip"]]
        assert "left (estimate)" in names
        assert spoken(run).startswith("Training, 60 % done. The doctor finds: l0-far.")


def test_what_is_no_run(tmp_path: Path) -> None:
    assert not is_run(tmp_path)
    for text in ("{", "[]", '{"model_type": "gemma2"}'):
        (tmp_path / CONFIG_FILE).write_text(text)
        assert not is_run(tmp_path)
    (tmp_path / STATUS_FILE).write_text("{")
    assert status_of(tmp_path) == ("unknown", "")


def test_looking_at_a_lock_makes_none_and_keeps_nobody_out(tmp_path: Path) -> None:
    lock = tmp_path / LOCK_FILE
    assert not is_held(lock)
    assert not lock.exists()
    lock.touch()
    assert not is_held(lock)
    with only_one(lock, "busy"):
        assert is_held(lock)
        with pytest.raises(ValueError, match="busy"), only_one(lock, "busy"):
            pass
    assert not lock.exists()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min"), (90, "2 min"), (3600, "1 h 0 min"), (200_000, "2 d 8 h")],
)
def test_times_are_written_in_two_units_at_most(seconds: float, words: str) -> None:
    assert duration(seconds) == words
