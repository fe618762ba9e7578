"""A list of features as a file to download: JSON, which others merge, or one HTML page that needs
nothing else to be read.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from app.engine.workbench import Workbench
from app.sentences import without_paths
from app.service import lists as service
from app.web import assets
from app.web.charts import STANDALONE_STYLE
from app.web.lists_view import shown_list
from app.web.templating import render

_LONGEST_FILE_NAME: Final = 60


def add_list_files(app: FastAPI, workbench: Workbench) -> None:
    """The routes of the two files."""
    for kind in _FILES:
        app.add_api_route(f"/lists.{kind}", partial(_answer, workbench, kind), methods=["GET"])


def list_json(workbench: Workbench, list_id: str) -> str:
    """The list as others merge it; ValueError if there is none."""
    return json.dumps(service.list_document(workbench, list_id), indent=1, ensure_ascii=False)


def list_html(workbench: Workbench, list_id: str) -> str:
    """The list as a page without scripts, with its style and contexts; ValueError if there is
    none.
    """
    chosen = service.list_with_features(workbench, list_id)
    sheets = [
        (assets.FOLDER / "css" / f"{name}.css").read_text(encoding="utf-8")
        for name in ("report", "list-file")
    ]
    return render(
        "list_file.html",
        style=Markup(STANDALONE_STYLE + "".join(sheets)),
        list=shown_list(workbench, chosen),
        bundle=workbench.bundle.name,
        version=version("jumpscope"),
    )


_FILES: Final[Mapping[str, tuple[Callable[[Workbench, str], str], str]]] = {
    "json": (list_json, "application/json"),
    "html": (list_html, "text/html; charset=utf-8"),
}
"""By the end of the name: what makes the file, and its type."""


def _answer(workbench: Workbench, kind: str, request: Request) -> Response:
    list_id = request.query_params.get("list", "")
    made, media_type = _FILES[kind]
    try:
        text = made(workbench, list_id)
        name = service.lists_there(workbench)["lists"]
    except ValueError as error:
        return PlainTextResponse(without_paths(str(error)), 404)
    title = next((each["name"] for each in name if each["id"] == list_id), "")
    headers = {
        "cache-control": "no-store",
        # Never drawn as a page of the app.
        "content-disposition": f'attachment; filename="{_file_name(title)}.{kind}"',
    }
    return Response(text, media_type=media_type, headers=headers)


def _file_name(title: str) -> str:
    """A list's name as a file's, in letters that every system takes."""
    plain = re.sub(r"[^a-z0-9]+", "-", title.casefold()).strip("-")
    return plain[:_LONGEST_FILE_NAME] or "list"
