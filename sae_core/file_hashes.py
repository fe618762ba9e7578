"""SHA-256 of weights, read again only where a file may have changed since they were last read.

Gigabytes take seconds to read, and a server wants the hash of each SAE when it starts. So hashes
are kept in the user's data folder, by path, with what tells a file from one that was written to its
place (`files.stamp_of`); nothing that a file beside the weights says is believed.
"""

import contextlib
import json
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sae_core.files import atomic_write, data_folder, sha256, stamp_of

FILE: Final = "file-hashes.json"
MOST: Final = 1000
"""Files that are remembered, those that were read last."""
_SETTLED_NS: Final = 2_000_000_000
"""Nanoseconds: a file changed so short a time ago may change again within one tick of its clock."""
_MOST_BYTES: Final = 2**24
"""No file of so many hashes is larger."""
_HASH: Final = re.compile("[0-9a-f]{64}")
_LOCK: Final = threading.Lock()
"""Threads of one process would write to the same temporary file."""


def remembered_sha256(path: Path) -> str:
    """The hash of a file as it is now."""
    try:
        path, kept = path.resolve(), data_folder() / FILE
    except (ValueError, OSError):  # where nothing can be remembered, each start reads
        return sha256(path)
    stamp = stamp_of(path)
    known = _read(kept).get(str(path))
    if isinstance(known, dict) and stamp is not None and known.get("stamp") == list(stamp):
        digest = known.get("sha256")
        if isinstance(digest, str) and _HASH.fullmatch(digest):
            return digest
    digest = sha256(path)
    if stamp is None or stamp != stamp_of(path):
        return digest
    if time.time_ns() - max(stamp[:2]) > _SETTLED_NS:
        _keep(kept, {str(path): {"stamp": stamp, "sha256": digest}})
    return digest


def _read(kept: Path) -> dict[str, Any]:
    try:
        if kept.stat().st_size > _MOST_BYTES:
            return {}
        files = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return files if isinstance(files, dict) else {}


def _keep(kept: Path, new: Mapping[str, Any]) -> None:
    """Remember more. Of two processes that do so at once one's may be lost, and is read again some
    day.
    """
    with _LOCK:
        older = {path: each for path, each in _read(kept).items() if path not in new}
        files = dict([*older.items(), *new.items()][-MOST:])
        with contextlib.suppress(ValueError, OSError), atomic_write(kept) as temporary:
            temporary.write_text(json.dumps(files), encoding="utf-8")
