"""Writing files so that a reader never sees half of one, what a disk's refusal means, and where a
user's own files are.

The system's errors come through many libraries, each of which wraps them in a class of its own;
`disk_failure` knows them all, so that a full disk or a folder without rights is one sentence
wherever it shows.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from filelock import FileLock, Timeout

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the system's errors where a disk, or a user's share of it, is full."""
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Numbers of its errors where it gives no right to a file or folder."""

# What libraries written in C++ and Rust make of these errors: PyTorch, safetensors, DuckDB.
_NO_SPACE = re.compile(r"no space left|disk quota|os error (28|122)\b|disk is full", re.IGNORECASE)
_NO_RIGHT = re.compile(r"permission denied|read-only file system|os error (13|30)\b", re.IGNORECASE)
_TORCH_WRITER = re.compile(r"PytorchStreamWriter|unexpected pos \d+ vs|inline_container")
"""torch.save's words where the system took fewer bytes than it was given, whatever the reason."""
_QUOTED = re.compile(r"[\"'](/[^\"']+)[\"']")

ON_WINDOWS = os.name == "nt"
"""Where a file that a program has open cannot be replaced."""
LOOK_SECONDS = 0.2
"""Longer than `is_held` looks at a lock, which keeps nobody out."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The temporary file is on the same file system, so the rename is atomic; it is removed when the
    block raises. Raises ValueError with one sentence when the disk is full, the folder may not be
    written to, or another program holds the old file so that it cannot be replaced; the old file is
    whole then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _disk_failures_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            # For writing, since Windows flushes nothing else.
            with open(temporary, "r+b") as written:
                os.fsync(written.fileno())
            _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what an `atomic_write` of `path` that was killed has left beside it; for files that
    one at a time writes.
    """
    for leftover in path.parent.glob(f".{escape(path.name)}.*.tmp*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its place if the block succeeds.

    An existing folder at `path` is replaced; it stays as it was when the block raises. Errors are
    as in `atomic_write`.
    """
    temporary = None
    try:
        with _disk_failures_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            yield temporary
            temporary.chmod(0o755)
            if not path.exists():
                os.replace(temporary, path)
            else:
                old = path.with_name(f".{path.name}.{os.getpid()}.old")
                _replace(path, old)
                try:
                    os.replace(temporary, path)
                except OSError:
                    os.replace(old, path)
                    raise
                shutil.rmtree(old, ignore_errors=True)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _disk_failures_told(path: Path) -> Iterator[None]:
    """What the disk refuses in the block is a ValueError with one sentence; all else stays.

    Every kind of error is looked at: of torch.save a full disk is a RuntimeError.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) or (sentence := disk_failure(error, path)) is None:
            raise
        raise ValueError(sentence) from error


def _replace(source: Path, target: Path) -> None:
    """Rename; ValueError where Windows refuses it because a program has one of the two open."""
    there = target if target.exists() else source
    try:
        os.replace(source, target)
    except PermissionError as error:
        if not ON_WINDOWS:
            raise  # an open file can be replaced here: what is refused is a right
        raise ValueError(
            f"{there} is open in another program and was left as it is: close it there, then run "
            "again."
        ) from error


@contextmanager
def only_one(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path` inside the block, and remove it after; it ends with its process,
    however that ends. ValueError saying `busy` if another process, or another part of this one,
    holds it, and one with another sentence if it cannot be made.
    """
    lock = FileLock(path)
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=LOOK_SECONDS)
        except Timeout as error:
            raise ValueError(busy) from error
        except OSError as error:
            if sentence := disk_failure(error, path.parent):
                raise ValueError(sentence) from error
            raise
        if path.exists():
            break
        # Taken just when its last holder removed the file: that lock keeps nobody out.
        lock.release()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def is_held(path: Path) -> bool:
    """Whether somebody is inside `only_one(path, ...)` now. It makes no file and needs no right to
    write; where the lock cannot be looked at, it counts as held.
    """
    try:
        with open(path, "rb") as file:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


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


def disk_failure(error: BaseException, path: Path | None = None) -> str | None:
    """The sentence for an error that says that a disk is full or gives no right; None for others.

    `path` is what was to be written, where that is known; else the error's own file is named.
    """
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if sentence := _disk_sentence(cause, path):
            return sentence
        cause = cause.__cause__ or cause.__context__
    return None


def _disk_sentence(error: BaseException, path: Path | None) -> str | None:
    number = error.errno if isinstance(error, OSError) else None
    said = str(error)
    # A library's words count only in its own kinds of errors: not in sentences that quote them.
    foreign = number is None and not isinstance(error, ValueError | KeyError)
    named = getattr(error, "filename", None)
    if number in FULL or (foreign and _NO_SPACE.search(said)):
        where = f" of {path or named}" if path or named else ""
        return f"no space left on the disk{where}: free some and run again."
    if foreign and _TORCH_WRITER.search(said):
        where = path or "its file"
        return f"{where} could not be written whole: free some space on its disk and run again."
    if number in REFUSED or (foreign and _NO_RIGHT.search(said)):
        if path is not None:
            return f"{path} cannot be written: choose a folder you may write to."
        quoted = _QUOTED.search(said)
        where = named or (quoted[1] if quoted else "a file")
        return f"{where} may not be read or written by this user: give it the right."
    return None


def data_folder() -> Path:
    """Where the user's data is kept: `jumpscope` in XDG_DATA_HOME, by default ~/.local/share; the
    temporary folder where there is no home.
    """
    home = os.environ.get("XDG_DATA_HOME")
    try:
        return (Path(home) if home else Path.home() / ".local" / "share") / "jumpscope"
    except RuntimeError:  # nobody knows this user's home
        return temporary_folder()


def temporary_folder() -> Path:
    """A folder of this user's alone that is found again until the machine clears its own: what is
    used where the user's data folder cannot be written.
    """
    folder = temporary_path()
    folder.mkdir(mode=0o700, exist_ok=True)
    # Its name can be guessed: somebody else may have made it first.
    made = folder.lstat()
    if not stat.S_ISDIR(made.st_mode) or (hasattr(os, "getuid") and made.st_uid != os.getuid()):
        raise ValueError(
            f"{folder} belongs to somebody else: set XDG_DATA_HOME to a folder you may write to."
        )
    return folder


def temporary_path() -> Path:
    """Where `temporary_folder` is, whether it exists or not."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"jumpscope-{user}"


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """What tells a file from one that was written to its place since, without reading it; None if
    there is none.
    """
    try:
        now = path.stat()
    except OSError:
        return None
    # Programs that copy set the first to what it was elsewhere; nobody sets the second.
    return now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_ino, now.st_dev


def is_version(said: object, version: int) -> bool:
    """Whether what a JSON file says is this version: `true` is none, though Python takes it for
    1.
    """
    return said == version and not isinstance(said, bool)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
