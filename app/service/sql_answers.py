"""Queries in SQL over an index, answered or written as files, each in a process of its own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from app.engine.workbench import Workbench
from app.requests import RequestError, SqlRequest
from app.sentences import without_paths
from sae_core.index.sql_process import QueryLimits, answer_query, write_query
from sae_core.index.sql_queries import QueryError

Format = Literal["csv", "parquet"]


def sql(workbench: Workbench, request: SqlRequest) -> dict[str, Any]:
    """What a query in SQL selects from an index: one SELECT over views of features, contexts,
    logits, histograms, neighbours and shares.
    """
    name = workbench.sae_name(request.sae)
    path = workbench.index(name).path
    limits = replace(query_limits(workbench), rows=request.limit)
    with _place(workbench), _sentences():
        return {"sae": name, **answer_query(path, request.query, limits)}


@contextmanager
def sql_file(workbench: Workbench, request: SqlRequest, kind: Format) -> Iterator[Path]:
    """The rows of a query, up to the setting `max_sql_export_rows`, as a file that is removed when
    the block ends.
    """
    path = workbench.index(request.sae).path
    limits = replace(query_limits(workbench), rows=workbench.settings.max_sql_export_rows)
    # Where a file that is open cannot be removed, the system's own clearing up has to do.
    with tempfile.TemporaryDirectory(prefix="jumpscope-sql-", ignore_cleanup_errors=True) as folder:
        file = Path(folder).resolve() / f"result.{kind}"
        with _place(workbench), _sentences():
            write_query(path, request.query, limits, file, kind)
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
        raise RequestError("Other queries are being answered: try again in a few seconds.")
    try:
        yield
    finally:
        workbench.sql_places.release()


@contextmanager
def _sentences() -> Iterator[None]:
    """What is wrong with a query is wrong with the request."""
    try:
        yield
    except QueryError as error:
        raise RequestError(without_paths(str(error)), "query") from error
