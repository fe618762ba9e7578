"""A Hugging Face hub of the tests' own on 127.0.0.1, for the real client to talk to.

It speaks the part of the hub's protocol that huggingface_hub and transformers use to look at
repositories and to download files: commits and revisions, file lists, large files redirected to
another host with their size and hash, ranges, tokens and gates, error codes. It remembers what was
asked and can be told to misbehave. What it serves is published from folders (`tests.hub_repos`).
"""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.hub_protocol import METHODS, Asked, Commit, Handler, Repository, Trouble, TroubleKind


class Hub:
    """The server, in a thread of its own, from `start` to `stop`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Asked] = []
        self._troubles: list[Trouble] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self})
        )
        self._server.daemon_threads = True
        port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        # The client takes another name for another host, as the real hub's store for large files.
        self.store = f"http://localhost:{port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def start(self) -> None:
        """Serve until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """End the server and its thread."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def publish(
        self, repo: str, folder: Path, *, revision: str = "main", gated: bool = False
    ) -> str:
        """Make the files of `folder` the newest commit of a repository; its id is returned.

        A data set's repository is called `datasets/owner/name`. `revision`, a branch or a tag,
        points to it from now on; older commits stay available.
        """
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        repository = self.repositories.setdefault(repo, Repository())
        repository.gated = gated
        digest = hashlib.sha1(f"{repo} {len(repository.commits)}".encode())
        for name, content in files.items():
            digest.update(name.encode() + content)
        commit = Commit(digest.hexdigest(), files)
        repository.commits[commit.id] = repository.revisions[revision] = commit
        return commit.id

    def environment(
        self, cache: Path, *, token: str | None = None, offline: bool = False
    ) -> dict[str, str]:
        """Variables for a process that is to use this hub, with `cache` for all that it keeps."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith("_proxy") and not name.startswith(("HF_", "HUGGING"))
        }
        kept |= {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache / "huggingface"),
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "XDG_CACHE_HOME": str(cache),
            "XDG_DATA_HOME": str(cache / "data"),
            "JUMPSCOPE_OPEN_BROWSER": "0",
        }
        return kept if token is None else kept | {"HF_TOKEN": token}

    def python(
        self, *args: str, cache: Path, token: str | None = None, offline: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run Python with `args` (`"-m", "app.cli", ...` or `"-c", ...`) against this hub."""
        return subprocess.run(
            [sys.executable, *args],
            env=self.environment(cache, token=token, offline=offline),
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    @contextmanager
    def watch(self) -> Iterator[list[Asked]]:
        """Yield a list of what is asked of any repository inside the block."""
        seen: list[Asked] = []
        with self._lock:
            self.requests, outer = seen, self.requests
        try:
            yield seen
        finally:
            with self._lock:
                self.requests = outer
                outer += seen

    @contextmanager
    def trouble(
        self,
        kind: TroubleKind,
        match: str = "",
        value: int = 0,
        *,
        times: int | None = None,
        methods: Sequence[str] = METHODS,
    ) -> Iterator[None]:
        """Misbehave inside the block, for the first `times` requests whose path contains `match`.

        `status`: answer with the status `value`; `cut`: close the connection after `value` bytes
        of a file; `short`: send these only, as if they were all; `stall`: say nothing; `page`:
        answer with a web page, as a network's login does.
        """
        trouble = Trouble(match, kind, value, times, methods)
        with self._lock:
            self._troubles.append(trouble)
        try:
            yield
        finally:
            trouble.over.set()
            with self._lock:
                self._troubles.remove(trouble)

    def note(self, asked: Asked) -> Trouble | None:
        """Remember a request; the trouble that is to befall it, if any."""
        with self._lock:
            # The client also asks for a registry of its own callers, once a day.
            if not asked.path.startswith("/api/agent"):
                self.requests.append(asked)
            for trouble in self._troubles:
                left = trouble.times is None or trouble.times > 0
                if left and trouble.match in asked.path and asked.method in trouble.methods:
                    if trouble.times is not None:
                        trouble.times -= 1
                    return trouble
        return None
