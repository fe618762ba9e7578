"""The system's nginx on a free port, with configuration of docs/deployment.md."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def documented(words: str) -> str:
    """The block of nginx's configuration in docs/deployment.md that has these words in it."""
    docs = (_ROOT / "docs/deployment.md").read_text()
    (block,) = [b for b in re.findall(r"```nginx\n(.*?)```", docs, re.DOTALL) if words in b]
    return block


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(folder: Path, location: str, http: str = "") -> Iterator[int]:
    """nginx on the port that this gives, with a server's `location` and, beside it, `http`."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert nginx, "No nginx found: make nginx installs it."
    port, log = free_port(), folder / "error.log"
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"{'user root;' if os.geteuid() == 0 else ''} daemon off; pid {folder}/pid;\n"
        f"events {{}} http {{ access_log off; {temporary}\n{http}\n"
        f"server {{ listen 127.0.0.1:{port};\n{location}\n}} }}\n"
    )
    process = subprocess.Popen(
        [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(log)]
    )
    try:
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)
