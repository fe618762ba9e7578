"""A query that somebody sent, answered in a process of its own, with limits that hold.

Within the app's process a query could take the interpreter, the memory and a thread from everybody
else: some functions of DuckDB look neither at the memory's limit nor at an interruption. So each
query has a process that opens the index, answers, and ends; what it may take is the process's.

    python -m sae_core.index.sql_worker  < request  > answer

Both are one JSON object. The request: `index`, `query`, `rows`, `seconds`, `megabytes`, `sae_hash`
(of the weights that the index must be of, or null), and where the result is to be a file, `file`
and `format`. The answer: `columns`, `rows` and `more`, or
`written` (rows), or `problem` and `limit`, the name of the limit that was met, "" for none.
"""

import contextlib
import datetime
import errno
import json
import math
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb

from sae_core.index.sql_queries import TOO_DEEP, QueryError, check_query, relation, told
from sae_core.index.store import Index

LARGEST_ANSWER: Final = 8_000_000
"""Characters of an answer."""
OTHER_WEIGHTS: Final = (
    "is now the index of other weights, which queries do not read: build it again with jumpscope "
    "index."
)
_GRACE: Final = 2.0
"""Seconds that a query has to stop in before its process ends."""
_OVERHEAD_MB: Final = 200
"""Megabytes that DuckDB takes beside its own count, and Python for the answer."""
_DEEPEST: Final = 100
"""Levels of a value: whoever reads the answer has a stack too."""
_NICE: Final = 10
"""By how much a query's priority is lower than the server's."""
_FORMULA: Final = r"^([=+\-@\t\r])"
"""What a spreadsheet takes for a formula; DuckDB reads it as Python does."""
_TEXTS: Final = r"VARCHAR$|BLOB$|VARIANT$|ENUM\(|UNION\("
"""Types whose values may begin so, but for numbers and times; lists begin with a bracket."""
TIMED_OUT: Final = 3
"""Exit status of a process whose query did not stop."""


def main() -> None:
    """Answer the request on stdin."""
    # The server's own threads go first.
    if hasattr(os, "nice"):
        os.nice(_NICE)
    request = json.load(sys.stdin)
    try:
        answer = _answer(request)
    except QueryError as error:
        answer = {"problem": str(error), "limit": ""}
    except MemoryError:
        answer = {"problem": "", "limit": "memory"}
    except RecursionError:
        answer = {"problem": TOO_DEEP, "limit": ""}
    sys.stdout.write(json.dumps(answer, allow_nan=False))
    sys.stdout.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    query = request["query"]
    written = Path(request["file"]) if "file" in request else None
    try:
        index = Index.open(request["index"])
        if request["sae_hash"] not in (None, index.meta["sae_hash"]):
            raise ValueError(f"{request['index']} {OTHER_WEIGHTS}")
        connection = index.query_connection(memory_mb=request["megabytes"], writes=written)
    except ValueError as error:
        # Whoever asks has it open: it was replaced or removed meanwhile.
        raise QueryError(str(error)) from error
    with contextlib.closing(connection):
        check_query(connection, query)
        _limit_memory(request["megabytes"] + _OVERHEAD_MB)
        _limit_file(request["file_megabytes"])
        with _limited_time(connection, request["seconds"]):
            try:
                return _selected(connection, query, request["rows"], written, request)
            except duckdb.InterruptException:
                return {"problem": "", "limit": "seconds"}
            except duckdb.OutOfMemoryException:
                return {"problem": "", "limit": "memory"}
            except duckdb.Error as error:
                if written is not None and os.strerror(errno.EFBIG) in str(error):
                    return {"problem": "", "limit": "file"}
                raise QueryError(told(error, query)) from error


def _selected(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    rows: int,
    written: Path | None,
    request: dict[str, Any],
) -> dict[str, Any]:
    selected = relation(connection, query)
    if written is None:
        columns = [
            {"name": name, "type": str(kind)}
            for name, kind in zip(selected.columns, selected.types, strict=True)
        ]
        result = selected.limit(rows + 1).fetchall()
        shown: list[list[Any]] = []
        size = 0
        for row in result[:rows]:
            shown.append([_plain(value) for value in row])
            size += len(json.dumps(shown[-1]))
            if size > LARGEST_ANSWER:
                return {"problem": "", "limit": "size"}
        return {"columns": columns, "rows": shown, "more": len(result) > rows}
    if request["format"] == "parquet":
        selected.limit(rows).write_parquet(str(written), compression="zstd")
    else:
        _without_formulas(selected.limit(rows)).write_csv(str(written), header=True)
    return {"written": written.stat().st_size}


def _without_formulas(selected: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The rows for a CSV: a text that a spreadsheet would compute, as tokens may be, has an
    apostrophe before it, as in all CSVs of ours (docs/export.md).
    """
    columns = []
    for n, (name, kind) in enumerate(zip(selected.columns, selected.types, strict=True), 1):
        # By its place: names may stand twice.
        column = f"#{n}"
        if re.match(_TEXTS, str(kind)):
            text = f"CAST({column} AS VARCHAR)"
            column = f"regexp_replace({text}, '{_FORMULA}', '''\\1')"
        head = re.sub(_FORMULA, r"'\1", name).replace('"', '""')
        columns.append(f'{column} AS "{head}"')
    return selected.project(", ".join(columns))


@contextlib.contextmanager
def _limited_time(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Interrupt the query after so many seconds, and end the process where that does not help."""
    interrupt = threading.Timer(seconds, connection.interrupt)
    end = threading.Timer(seconds + _GRACE, os._exit, [TIMED_OUT])
    for timer in (interrupt, end):
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        interrupt.cancel()
        end.cancel()


def _limit_memory(megabytes: int) -> None:
    """Let this process take so much more address space than it has now, where the system can."""
    try:
        import resource

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return  # Windows and macOS: DuckDB's own limit is what there is
    most = taken + megabytes * 10**6
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_file(megabytes: int) -> None:
    """Let no file grow beyond so much, where the system can; Python ignores the signal of it."""
    try:
        import resource
    except ImportError:
        return  # Windows
    most = megabytes * 10**6
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it: what is not finite becomes null, bytes hexadecimal digits.

    RecursionError for one that holds more than `_DEEPEST` values in each other.
    """
    if depth > _DEEPEST:
        raise RecursionError
    match value:
        case None | bool() | str():
            return value
        case int():
            # JavaScript's numbers are exact up to here.
            return value if abs(value) < 2**53 else str(value)
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return value.hex(" ").upper()
        case dict():
            return {str(key): _plain(item, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, depth + 1) for item in value]
        case datetime.date() | datetime.time():
            return value.isoformat()
    return str(value)


if __name__ == "__main__":
    main()
