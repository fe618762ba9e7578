"""The rows of a query as a file to download: CSV or Parquet."""

from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from app.engine.workbench import Workbench
from app.sentences import without_paths
from app.service.sql_answers import Format, sql_file
from app.web.sql_view import request_of

_TYPES: Final[dict[Format, str]] = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
_CHUNK: Final = 2**18


def add_sql_files(app: FastAPI, workbench: Workbench) -> None:
    """The routes of the two files."""
    for kind in _TYPES:
        app.add_api_route(f"/sql.{kind}", partial(_answer, workbench, kind), methods=["GET"])


def _answer(workbench: Workbench, kind: Format, request: Request) -> Response:
    query = dict(request.query_params)
    try:
        with sql_file(workbench, request_of(workbench, query), kind) as path:
            # It stays readable for whoever has it open.
            file = path.open("rb")
    except ValueError as error:
        return PlainTextResponse(without_paths(str(error)), 400)
    headers = {
        "cache-control": "no-store",
        "content-disposition": f'attachment; filename="result.{kind}"',
    }
    return StreamingResponse(_chunks(file), media_type=_TYPES[kind], headers=headers)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk
