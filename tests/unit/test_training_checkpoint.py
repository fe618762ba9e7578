"""Checkpoints: whole, newest first, damaged ones passed over, a full disk said in a sentence."""

import errno
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from training import checkpoint_file, train_checkpoint


def _save(folder: Path, step: int) -> Path:
    return train_checkpoint.save(
        folder, step, {"a": torch.full((300,), float(step))}, {"step": step}
    )


def test_round_trip(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "t": torch.randn(4, 3).T}
    state = {"buffer": {"round": 3, "marks": [[1, 2]]}, "seconds": 1.5}
    train_checkpoint.save(tmp_path, 7, tensors, state)
    loaded = train_checkpoint.load_newest(tmp_path)
    assert loaded is not None
    step, result, found_state = loaded
    assert (step, found_state) == (7, state)
    assert result.keys() == tensors.keys()
    assert all(torch.equal(result[name], tensors[name]) for name in tensors)


def test_nothing_there(tmp_path: Path) -> None:
    assert train_checkpoint.load_newest(tmp_path / "none") is None
    (tmp_path / "notes.txt").write_text("step-3")
    assert train_checkpoint.load_newest(tmp_path) is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 900, 1_000_000_000, 1_000_000_001):
        _save(tmp_path, step)
    assert [step for step, _ in train_checkpoint.list_saved(tmp_path)] == [
        1_000_000_001,
        1_000_000_000,
    ]
    assert len(list(tmp_path.iterdir())) == 2


def test_halves_that_a_killed_process_left_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-000000001.safetensors.123.tmp").write_bytes(b"half")
    _save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000002.safetensors"]


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_truncated_newest_falls_back_with_a_message(
    tmp_path: Path, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    _save(tmp_path, 1)
    newest = _save(tmp_path, 2)
    newest.write_bytes(newest.read_bytes()[:length])
    with caplog.at_level(logging.WARNING):
        loaded = train_checkpoint.load_newest(tmp_path)
    assert loaded is not None
    assert loaded[0] == 1
    assert float(loaded[1]["a"][0]) == 1
    assert "is damaged" in caplog.text
    assert newest.name in caplog.text


def test_all_damaged(tmp_path: Path) -> None:
    for step in (1, 2):
        path = _save(tmp_path, step)
        path.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged: remove that folder"):
        train_checkpoint.load_newest(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_is_one_sentence_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    _save(tmp_path, 1)

    def full(_tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half of a file")
        raise error

    monkeypatch.setattr(checkpoint_file, "save_file", full)
    with pytest.raises(ValueError, match=r"(?i)no space left"):
        _save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.safetensors"]
