"""Static files: scripts, style sheets, the icon. Their address changes with their content, so that
browsers keep them for good.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import quote

from starlette.responses import FileResponse, JSONResponse, Response

FOLDER: Final = Path(__file__).parent
_KINDS: Final = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
_JOINED: Final = {
    "css/frame.css": ("colours", "base", "fields", "parts", "tokens", "overlays"),
}
"""Sheets that every page loads, as one file: each is a request less."""
_FOREVER: Final = "public, max-age=31536000, immutable"


@cache
def _files() -> dict[str, Path]:
    return {
        path.relative_to(FOLDER).as_posix(): path
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in _KINDS
    }


@cache
def version() -> str:
    """A hash of all files; modules import each other by relative addresses, so they share one."""
    digest = hashlib.sha256()
    for name, path in _files().items():
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def address(name: str) -> str:
    """Address of a file relative to the app's root."""
    assert name in _JOINED or name in _files(), f"no static file {name}"
    return f"static/{version()}/{name}"


@cache
def in_page(name: str) -> str:
    """A small picture as an address that holds it: a request less."""
    return f"data:image/svg+xml,{quote(_files()[name].read_text(encoding='utf-8').strip())}"


def answer(version: str, path: str) -> Response:
    """A file; one that is asked for by an older address is given, but not to be kept."""
    headers = {"cache-control": _FOREVER if version == _version() else "no-store"}
    if path in _JOINED:
        return Response(_joined(path), media_type="text/css", headers=headers)
    file = _files().get(path)
    if file is None:
        return JSONResponse({"detail": "There is no such file."}, 404)
    kind = f"{_KINDS[file.suffix]}; charset=utf-8"
    return FileResponse(file, media_type=kind, headers=headers)


@cache
def _joined(path: str) -> str:
    names = (f"css/{name}.css" for name in _JOINED[path])
    return "\n".join(_files()[name].read_text(encoding="utf-8") for name in names)


_version = version
