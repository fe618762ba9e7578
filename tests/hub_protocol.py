"""The part of the hub's protocol that `tests.hub` speaks: requests in, answers and errors out."""

import hashlib
import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from tests.hub import Hub

MEMBER_TOKEN = "hf_member"
"""A valid token whose owner has accepted the terms of every gated repository."""

OTHER_TOKEN = "hf_other"
"""A valid token whose owner has accepted nothing."""

LARGE = (".npz", ".safetensors", ".pt", ".bin", ".parquet")
"""Files that the hub stores apart (LFS) and sends from another host."""

METHODS = ("GET", "HEAD", "POST")

TroubleKind = Literal["status", "cut", "short", "stall", "page"]


@dataclass(frozen=True)
class Asked:
    """One request that the hub got."""

    method: str
    path: str
    """Without the query, percent-decoded."""
    range: str | None
    token: str | None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Commit:
    """One state of a repository."""

    id: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """Commits by their ids, and what branches and tags point to."""

    commits: dict[str, Commit] = field(default_factory=dict)
    revisions: dict[str, Commit] = field(default_factory=dict)
    gated: bool = False

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag or a commit's id names."""
        return self.revisions.get(revision) or self.commits.get(revision)


@dataclass
class Trouble:
    """What to do instead of answering requests whose path contains `match`."""

    match: str
    kind: TroubleKind
    value: int = 0
    times: int | None = None
    methods: Sequence[str] = METHODS
    over: threading.Event = field(default_factory=threading.Event)


class Refusal(Exception):  # noqa: N818 - an answer, not an error of the server
    """An error as the hub states it: a status, a code and a message."""

    def __init__(self, status: int, code: str | None, message: str, commit: str | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.commit = status, code, message, commit


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests out of `hub`."""

    hub: "Hub"
    trouble: Trouble | None
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Nothing: what was asked is in `Hub.requests`."""

    def do_GET(self) -> None:
        """Answer, or fall to the trouble that waits for this request."""
        url = urlsplit(self.path)
        # Split first: a revision such as refs/pr/7 comes as one quoted part.
        parts = [unquote(part) for part in url.path.split("/")[1:]]
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ") or None
        asked = Asked(self.command, "/" + "/".join(parts), self.headers.get("Range"), token)
        self.trouble = trouble = self.hub.note(asked)
        if trouble and trouble.kind == "stall":
            trouble.over.wait(60)
            self.close_connection = True
            return
        with suppress(BrokenPipeError, ConnectionResetError):
            try:
                if trouble and trouble.kind == "page":
                    self._send(200, b"<html>Log in to the network</html>", type_="text/html")
                    return
                if trouble and trouble.kind == "status":
                    raise Refusal(trouble.value, None, "the hub is in trouble")
                self._answer(parts, parse_qs(url.query), token)
            except Refusal as refusal:
                headers = {"X-Error-Message": refusal.message}
                if refusal.code:
                    headers["X-Error-Code"] = refusal.code
                if refusal.commit:
                    headers["X-Repo-Commit"] = refusal.commit
                self._send(refusal.status, _json({"error": refusal.message}), headers)

    do_HEAD = do_GET  # noqa: N815 - the base's name

    def do_POST(self) -> None:
        """Nothing is to be posted; what was is read, so that the connection can go on."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def _answer(self, parts: list[str], query: dict[str, list[str]], token: str | None) -> None:
        if parts[0] == "cdn":
            self._send_file(self._stored(parts[1]))
            return
        if token not in (None, MEMBER_TOKEN, OTHER_TOKEN):
            raise Refusal(401, None, "Invalid credentials in Authorization header")
        match parts:
            case ["api", "models", owner, name]:
                repo, revision, rest = f"{owner}/{name}", "main", ["revision"]
            case ["api", "models", owner, name, what, revision, *path]:
                repo, rest = f"{owner}/{name}", [what, *path]
            case ["api", "datasets", owner, name]:
                repo, revision, rest = f"datasets/{owner}/{name}", "main", ["revision"]
            case ["api", "datasets", owner, name, what, revision, *path]:
                repo, rest = f"datasets/{owner}/{name}", [what, *path]
            case ["datasets", owner, name, "resolve", revision, *path]:
                repo, rest = f"datasets/{owner}/{name}", ["resolve", *path]
            case [owner, name, "resolve", revision, *path]:
                repo, rest = f"{owner}/{name}", ["resolve", *path]
            case _:
                raise Refusal(404, None, "Sorry, we can't find the page you are looking for.")
        repository = self.hub.repositories.get(repo)
        if repository is None:
            if token is None:  # the hub does not tell strangers what exists
                raise Refusal(401, "RepoNotFound", "Invalid username or password.")
            raise Refusal(404, "RepoNotFound", "Repository not found")
        commit = repository.at(revision)
        if commit is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        what, path = rest[0], "/".join(rest[1:])
        if what == "revision":
            self._send(200, _json(_model_info(repo, repository, commit, "blobs" in query)))
        elif what == "tree":
            self._send(200, _json(_tree(commit, path, query.get("recursive") == ["true"])))
        elif what == "resolve":
            _check_gate(repo, repository, token)
            self._resolve(commit, path)
        else:
            raise Refusal(404, None, f"this hub does not know {what}")

    def _resolve(self, commit: Commit, path: str) -> None:
        if path not in commit.files:
            raise Refusal(404, "EntryNotFound", "Entry not found", commit.id)
        content = commit.files[path]
        if not path.endswith(LARGE):
            headers = {"ETag": f'"{_blob_id(content)}"', "X-Repo-Commit": commit.id}
            self._send_file(content, headers)
            return
        digest = hashlib.sha256(content).hexdigest()
        headers = {
            "X-Repo-Commit": commit.id,
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{self.hub.store}/cdn/{digest}/{path}",
        }
        self._send(302, b"", headers)

    def _stored(self, digest: str) -> bytes:
        for repository in self.hub.repositories.values():
            for commit in repository.commits.values():
                for path, content in commit.files.items():
                    if path.endswith(LARGE) and hashlib.sha256(content).hexdigest() == digest:
                        return content
        raise Refusal(404, None, "no such object")

    def _send_file(self, content: bytes, headers: dict[str, str] | None = None) -> None:
        headers = {**(headers or {}), "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body, cut = content[start:], None
        if self.trouble and self.trouble.kind == "short":
            body = body[: self.trouble.value]
        elif self.trouble and self.trouble.kind == "cut":
            cut = self.trouble.value
        self._send(206 if start else 200, body, headers, "application/octet-stream", cut)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        type_: str = "application/json; charset=utf-8",
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", type_)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
            self.close_connection = self.close_connection or cut is not None


def _check_gate(repo: str, repository: Repository, token: str | None) -> None:
    if not repository.gated or token == MEMBER_TOKEN:
        return
    if token is None:
        message = f"Access to model {repo} is restricted. You must have access to it and be "
        raise Refusal(401, "GatedRepo", message + "authenticated to access it. Please log in.")
    message = f"Access to model {repo} is restricted and you are not in the authorized list."
    raise Refusal(403, "GatedRepo", message)


def _model_info(repo: str, repository: Repository, commit: Commit, sizes: bool) -> dict[str, Any]:
    siblings = []
    for path, content in commit.files.items():
        entry: dict[str, Any] = {"rfilename": path}
        if sizes:
            entry |= {"size": len(content), "blobId": _blob_id(content)}
            if path.endswith(LARGE):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
        siblings.append(entry)
    return {
        "_id": commit.id[:24],
        "id": repo.removeprefix("datasets/"),
        "modelId": repo.removeprefix("datasets/"),
        "sha": commit.id,
        "private": False,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": siblings,
    }


def _tree(commit: Commit, under: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{under}/" if under else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in commit.files.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)):
            folder = prefix + "/".join(parts[:depth])
            entries[folder] = {"type": "directory", "oid": commit.id, "size": 0, "path": folder}
        entry = {"type": "file", "oid": _blob_id(content), "size": len(content), "path": path}
        if path.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        entries[path] = entry
    if under and not entries:
        raise Refusal(404, "EntryNotFound", f"{under} does not exist", commit.id)
    depth = prefix.count("/")
    return [e for e in entries.values() if recursive or e["path"].count("/") == depth]


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
