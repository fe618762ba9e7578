"""What disks refuse, whatever library says it: one sentence, and nothing lost."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
from safetensors import SafetensorError

from sae_core import files
from sae_core.files import atomic_folder, atomic_write, disk_failure, only_one
from sae_core.index import IndexConfig, build_index
from sae_core.index.index_checkpoint import folder_of, only_build
from sae_core.sae import SAE

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    duckdb.IOException('IO Error: Could not write file "/x/y": No space left on device'),
]
REFUSED = [
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.EROFS, "Read-only file system"),
    SafetensorError("I/O error: Permission denied (os error 13)"),
    duckdb.IOException('IO Error: Cannot open file "/x/y": Permission denied'),
]


@pytest.mark.parametrize("error", FULL, ids=lambda e: f"{type(e).__name__}-{e}"[:40])
def test_a_full_disk_is_one_sentence_whoever_says_it(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    said = rf"no space left on the disk of {path}: free some and run again\."
    with pytest.raises(ValueError, match=said), atomic_write(path):
        raise error
    assert path.read_text() == "old"
    with pytest.raises(ValueError, match="no space left"), atomic_folder(tmp_path / "folder"):
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    wrapped = RuntimeError("a library's own words")
    wrapped.__cause__ = error
    assert "no space left" in (disk_failure(wrapped) or "")


@pytest.mark.parametrize("error", REFUSED, ids=lambda e: f"{type(e).__name__}-{e}"[:40])
def test_a_right_that_lacks_is_one_sentence_whoever_says_it(
    error: Exception, tmp_path: Path
) -> None:
    said = rf"{tmp_path}/file cannot be written: choose a folder you may write to\."
    with pytest.raises(ValueError, match=said), atomic_write(tmp_path / "file"):
        raise error
    assert "may not be read or written by this user" in (disk_failure(error) or "")


def test_what_torch_says_of_a_full_disk(tmp_path: Path) -> None:
    """A device that is always full: torch.save wraps it in words of its own."""
    try:
        torch.save({"a": torch.zeros(100_000)}, "/dev/full")
    except RuntimeError as error:
        said = disk_failure(error, tmp_path / "state.pt")
    assert said == (
        f"{tmp_path}/state.pt could not be written whole: free some space on its disk and run "
        "again."
    )


def test_other_errors_are_not_the_disks() -> None:
    for error in (RuntimeError("mat1 and mat2"), OSError(errno.ENOENT, "No such file"), KeyError()):
        assert disk_failure(error) is None


def test_a_file_that_windows_keeps_open_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a file that a program has open can be neither replaced nor renamed."""

    def replace(source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "The process cannot access the file", str(source))

    path, folder = tmp_path / "file", tmp_path / "folder"
    path.write_text("old")
    folder.mkdir()
    (folder / "inside").write_text("old")
    monkeypatch.setattr(files, "ON_WINDOWS", True)
    monkeypatch.setattr(files.os, "replace", replace)
    said = "is open in another program and was left as it is: close it there, then run again"
    with pytest.raises(ValueError, match=rf"{path} {said}"), atomic_write(path) as temporary:
        temporary.write_text("new")
    with pytest.raises(ValueError, match=rf"{folder} {said}"), atomic_folder(folder) as temporary:
        (temporary / "inside").write_text("new")
    assert path.read_text() == (folder / "inside").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_whose_place_cannot_be_taken_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename, calls = tmp_path / "folder", os.replace, []
    folder.mkdir()
    (folder / "inside").write_text("old")

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(ValueError, match="no space left"), atomic_folder(folder):
        pass
    assert (folder / "inside").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_lock_ends_with_its_holder_and_leaves_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = (
        "import sys; from pathlib import Path; from sae_core.files import only_one\n"
        "with only_one(Path(sys.argv[1]), 'busy'):\n    print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="busy"), only_one(lock, "busy"):
            pass
        process.kill()
    with only_one(lock, "busy"):
        assert lock.exists()
    assert list(tmp_path.iterdir()) == []


def test_two_builds_of_one_index_are_refused(
    tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE, tiny_corpus: Path, tmp_path: Path
) -> None:
    path = tmp_path / "index.duckdb"
    cfg = IndexConfig(corpus=(str(tiny_corpus),), tokens=300)
    with (
        only_build([tmp_path / "another.duckdb", path]),
        pytest.raises(ValueError, match=r"another jumpscope index is at work on .*: wait until"),
    ):
        build_index(tiny_model, tiny_tokenizer, tiny_sae, cfg, path)
    assert list(tmp_path.iterdir()) == []
    build_index(tiny_model, tiny_tokenizer, tiny_sae, cfg, path)
    assert [p.name for p in tmp_path.iterdir()] == ["index.duckdb"]


def test_an_index_goes_on_after_a_full_disk(
    tiny_model: Any,
    tiny_tokenizer: Any,
    tiny_sae: SAE,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What torch.save says of the second checkpoint; the first one is gone on from."""
    save, saved = torch.save, 0

    def full(what: Any, path: Path) -> None:
        nonlocal saved
        saved += 1
        save(what, path if saved == 1 else "/dev/full")

    path = tmp_path / "index.duckdb"
    cfg = IndexConfig(corpus=(str(tiny_corpus),), checkpoint_tokens=400, rows_per_batch=5)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match=r"state\.pt could not be written whole: free some"):
        build_index(tiny_model, tiny_tokenizer, tiny_sae, cfg, path)
    monkeypatch.setattr(torch, "save", save)
    assert [p.name for p in folder_of(path).iterdir() if p.suffix == ".pt"] == ["state.pt"]
    read: list[int] = []
    build_index(tiny_model, tiny_tokenizer, tiny_sae, cfg, path, progress=read.append)
    assert read[0] >= 400
    assert [p.name for p in tmp_path.iterdir()] == ["index.duckdb"]
