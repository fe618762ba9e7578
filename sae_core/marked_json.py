"""JSON files with a byte order mark, as programs of Windows write them: DuckDB refuses those."""

import codecs
import gzip
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def without_mark(path: str) -> Iterator[str]:
    """The path of the same JSON without a byte order mark: itself, or a copy while the block lasts.

    Files behind a URL and those that cannot be opened are left to whoever reads them.
    """
    if not _is_marked(path):
        yield path
        return
    suffix = ".json" + (".gz" if path.endswith(".gz") else "")
    with tempfile.TemporaryDirectory(prefix="jumpscope-") as folder:
        copy = Path(folder) / f"unmarked{suffix}"
        opened = gzip.open if path.endswith(".gz") else open
        with opened(path, "rb") as source, opened(copy, "wb") as target:
            source.seek(len(codecs.BOM_UTF8))
            shutil.copyfileobj(source, target)
        yield str(copy)


def _is_marked(path: str) -> bool:
    opened = gzip.open if path.endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    except (OSError, EOFError):
        return False
