"""Static files: scripts, style sheets, the icon. Their address changes with their content, so that
browsers keep them for good.
"""

import hashlib
import mimetypes
from functools import cache
from pathlib import Path
from typing import Final

from starlette.responses import FileResponse, JSONResponse, Response

FOLDER: Final = Path(__file__).parent
_KINDS: Final = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
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
    assert name in _files(), f"no static file {name}"
    return f"static/{version()}/{name}"


def answer(version: str, path: str) -> Response:
    """A file; one that is asked for by an older address is given, but not to be kept."""
    file = _files().get(path)
    if file is None:
        return JSONResponse({"detail": "There is no such file."}, 404)
    kept = _FOREVER if version == _version() else "no-store"
    kind = _KINDS.get(file.suffix) or mimetypes.guess_type(path)[0]
    return FileResponse(file, media_type=f"{kind}; charset=utf-8", headers={"cache-control": kept})


_version = version
