"""Asks `sql_worker`: starts it, waits, and says which limit a query has met."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sae_core.index.sql_queries import QueryError
from sae_core.index.sql_worker import TIMED_OUT

ROOT: Final = Path(__file__).parents[2]
_TO_OPEN: Final = 120.0
"""Seconds that a process may take to start and to open its index, before it is given up."""


@dataclass(frozen=True, kw_only=True)
class QueryLimits:
    """What one query may take."""

    rows: int
    """Rows that are answered; what is beyond them is left out, and that is said."""
    seconds: float
    megabytes: int
    file_megabytes: int = 2000
    """The largest file that is written, in 10^6 bytes."""


def answer_query(
    path: Path, query: str, limits: QueryLimits, *, sae_hash: str | None = None
) -> dict[str, Any]:
    """`columns` (name, type), `rows` and `more`, whether there are more rows than these.

    QueryError with one sentence for a query that is wrong, or that has met a limit, and where the
    file is an index of other weights than those with `sae_hash` (its meta entry).
    """
    return _ask({"index": str(path), "query": query, "sae_hash": sae_hash}, limits)


def write_query(
    path: Path,
    query: str,
    limits: QueryLimits,
    file: Path,
    kind: Literal["csv", "parquet"],
    *,
    sae_hash: str | None = None,
) -> None:
    """The rows as a file, which must not exist yet; errors as those of `answer_query`."""
    request = {"index": str(path), "query": query, "sae_hash": sae_hash}
    _ask(request | {"file": str(file), "format": kind}, limits)


def _ask(request: dict[str, Any], limits: QueryLimits) -> dict[str, Any]:
    request |= {
        "rows": limits.rows,
        "seconds": limits.seconds,
        "megabytes": limits.megabytes,
        "file_megabytes": limits.file_megabytes,
    }
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    try:
        done = subprocess.run(
            # -P: without it the folder that the server was started in comes first among the places
            # of modules.
            [sys.executable, "-P", "-m", "sae_core.index.sql_worker"],
            input=json.dumps(request).encode(),
            capture_output=True,
            env=environment,
            timeout=limits.seconds + _TO_OPEN,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise QueryError(_met("seconds", limits)) from error
    if done.returncode == TIMED_OUT:
        raise QueryError(_met("seconds", limits))
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        complaint = done.stderr.decode(errors="replace").strip()
        if "Traceback" in complaint and "MemoryError" not in complaint:
            raise RuntimeError(complaint) from error
        # Ended in the middle of something: what had no more memory.
        raise QueryError(_met("memory", limits)) from error
    if "problem" in answer:
        raise QueryError(answer["problem"] or _met(answer["limit"], limits))
    return answer


def _met(limit: str, limits: QueryLimits) -> str:
    """The sentence for a limit that a query has met."""
    if limit == "seconds":
        return (
            f"This query takes longer than {limits.seconds:g} seconds: ask about fewer features, "
            "or leave out text, tokens and activations."
        )
    if limit == "memory":
        return (
            f"This query needs more than {limits.megabytes:,} MB of memory: select fewer rows or "
            "columns."
        )
    if limit == "file":
        return (
            f"This file would be larger than {limits.file_megabytes:,} MB: select fewer rows or "
            "columns."
        )
    return "This answer is too large to show: select fewer columns, or a lower LIMIT."
