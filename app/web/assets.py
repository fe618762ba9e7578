"""Static files: scripts, style sheets, the icon. Their address changes with their content, so that
browsers keep them for good. They are read once: an address never answers what a file became later.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote

from markupsafe import Markup
from starlette.responses import JSONResponse, Response

FOLDER: Final = Path(__file__).parent
_KINDS: Final = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
_JOINED: Final = {
    "css/frame.css": (
        *("colours", "base", "fields", "parts", "tokens"),
        *("overlays", "gather", "tour", "export"),
    ),
    "css/features.css": ("features", "threshold", "notes"),
    "css/prompt.css": ("prompt", "compare", "next"),
    "css/steer.css": ("steer", "ladder", "proof"),
}
"""Sheets that are served as one file, those that every page loads and a page's own: each is a
request less."""
_FOREVER: Final = "public, max-age=31536000, immutable"


@cache
def _contents() -> dict[str, bytes]:
    """What is served by name: the folder's files, and those joined from them."""
    contents = {
        path.relative_to(FOLDER).as_posix(): path.read_bytes()
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in _KINDS
    }
    joined = {
        name: b"\n".join(contents[f"css/{part}.css"] for part in parts)
        for name, parts in _JOINED.items()
    }
    return contents | joined


@cache
def version() -> str:
    """A hash of all files; modules import each other by relative addresses, so they share one."""
    digest = hashlib.sha256()
    for name, content in _contents().items():
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()[:12]


def address(name: str) -> str:
    """Address of a file relative to the app's root."""
    assert name in _contents(), f"no static file {name}"
    return f"static/{version()}/{name}"


@cache
def in_page(name: str) -> str:
    """A small picture as an address that holds it: a request less."""
    return f"data:image/svg+xml,{quote(_contents()[name].decode().strip())}"


def inline(name: str) -> Markup:
    """A file's text, to stand within a page."""
    return Markup(_contents()[name].decode())


def source_of(name: str) -> str:
    """An inline script as a source of a Content-Security-Policy: its hash."""
    digest = hashlib.sha256(_contents()[name]).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


async def answer(version: str, path: str) -> Response:
    """A file; one that is asked for by an older address is given, but not to be kept."""
    content = _contents().get(path)
    if content is None:
        return JSONResponse({"detail": "There is no such file."}, 404)
    headers = {"cache-control": _FOREVER if version == _version() else "no-store"}
    kind = f"{_KINDS[PurePosixPath(path).suffix]}; charset=utf-8"
    return Response(content, media_type=kind, headers=headers)


_version = version
