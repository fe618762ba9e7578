"""Writing files so that a reader never sees half of one."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The temporary file is on the same file system, so the rename is atomic; it is removed when the
    block raises. Raises ValueError naming the disk when it is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its place if the block succeeds.

    An existing folder at `path` is replaced; it stays as it was when the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def keep_others(old: Path, new: Path) -> None:
    """Give `new` everything of `old` that it has no file of its own for, without copying bytes
    where the file system has links.
    """

    def linked(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    for child in old.iterdir():
        target = new / child.name
        if target.exists():
            continue
        if child.is_dir():
            shutil.copytree(child, target, copy_function=linked)
        else:
            linked(str(child), str(target))


def _explained(error: OSError, path: Path) -> Exception:
    if error.errno == 28:  # ENOSPC
        return ValueError(f"no space left on the disk of {path}: free some and run again.")
    if error.errno in (13, 30):  # EACCES, EROFS
        return ValueError(f"{path} cannot be written: choose a folder you may write to.")
    return error


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
