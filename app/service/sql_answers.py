"""Queries in SQL over an index, answered or written as files, each in a process of its own."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from app.engine.workbench import Workbench
from app.requests import RequestError, SqlRequest
from app.sentences import without_paths
from sae_core.index.sql_process import QueryLimits, answer_query, write_query
from sae_core.index.sql_queries import QueryError

Format = Literal["csv", "parquet"]
MOST_WAITING: Final = 4
"""Pages and files of this process that wait for a place: each holds one of the threads in which all
pages are made, while requests to the endpoint wait without one."""
_BUSY: Final = "Other queries are being answered: try again in a few seconds."


class _Waiting:
    """How many pages and files wait."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    @contextmanager
    def counted(self, most: int) -> Iterator[None]:
        """One more during the block; RequestError if there are as many as may wait."""
        with self._lock:
            if self.count >= most:
                raise RequestError(_BUSY)
            self.count += 1
        try:
            yield
        finally:
            with self._lock:
                self.count -= 1


WAITING: Final = _Waiting()


def sql(workbench: Workbench, request: SqlRequest) -> dict[str, Any]:
    """What a query in SQL selects from an index: one SELECT over views of features, contexts,
    logits, histograms, neighbours and shares.
    """
    with _place(workbench):
        return _answer(workbench, request)


def sql_on_page(workbench: Workbench, request: SqlRequest) -> dict[str, Any]:
    """The same for a page, which is refused at once where others wait already (`MOST_WAITING`)."""
    with _place_for_page(workbench):
        return _answer(workbench, request)


def _answer(workbench: Workbench, request: SqlRequest) -> dict[str, Any]:
    name = workbench.sae_name(request.sae)
    limits = replace(query_limits(workbench), rows=request.limit)
    path, sae_hash = _file_of(workbench, name)
    with _sentences():
        answer = answer_query(path, request.query, limits, sae_hash=sae_hash)
    return {"sae": name, **answer}


def _file_of(workbench: Workbench, sae: str | None) -> tuple[Path, str]:
    """The file that a query's process opens, and the hash of the weights that it must be of.

    Another file may have taken the place of the one that is open here, and one that is not used.
    """
    index = workbench.index(sae)
    return index.path, index.meta["sae_hash"]


@contextmanager
def sql_file(workbench: Workbench, request: SqlRequest, kind: Format) -> Iterator[Path]:
    """The rows of a query, up to the setting `max_sql_export_rows`, as a file that is removed when
    the block ends.
    """
    path, sae_hash = _file_of(workbench, request.sae)
    limits = replace(query_limits(workbench), rows=workbench.settings.max_sql_export_rows)
    # Where a file that is open cannot be removed, the system's own clearing up has to do.
    with tempfile.TemporaryDirectory(prefix="jumpscope-sql-", ignore_cleanup_errors=True) as folder:
        file = Path(folder).resolve() / f"result.{kind}"
        with _place_for_page(workbench), _sentences():
            write_query(path, request.query, limits, file, kind, sae_hash=sae_hash)
        yield file


def query_limits(workbench: Workbench) -> QueryLimits:
    """What one query may take, by the settings."""
    settings = workbench.settings
    return QueryLimits(
        rows=settings.max_sql_rows,
        seconds=settings.max_sql_seconds,
        megabytes=settings.max_sql_megabytes,
    )


@contextmanager
def _place(workbench: Workbench) -> Iterator[None]:
    """One of the places that pages, files and endpoints share; RequestError if none gets free."""
    if not workbench.sql_places.acquire(timeout=workbench.settings.max_sql_seconds):
        raise RequestError(_BUSY)
    try:
        yield
    finally:
        workbench.sql_places.release()


@contextmanager
def _place_for_page(workbench: Workbench) -> Iterator[None]:
    """A place for a page or file; RequestError at once where `MOST_WAITING` wait for one."""
    settings, places = workbench.settings, workbench.sql_places
    if not places.acquire(blocking=False):
        with WAITING.counted(min(MOST_WAITING, settings.max_waiting_sql)):
            if not places.acquire(timeout=settings.max_sql_seconds):
                raise RequestError(_BUSY)
    try:
        yield
    finally:
        places.release()


@contextmanager
def _sentences() -> Iterator[None]:
    """What is wrong with a query is wrong with the request."""
    try:
        yield
    except QueryError as error:
        raise RequestError(without_paths(str(error)), "query") from error
