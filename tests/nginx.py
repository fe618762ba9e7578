"""The system's nginx on a free port, with configuration of docs/deployment.md."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import kept_port, listens
from tests.waiting import wait_until

_ROOT = Path(__file__).parents[1]


def documented(words: str) -> str:
    """The block of nginx's configuration in docs/deployment.md that has these words in it."""
    docs = (_ROOT / "docs/deployment.md").read_text()
    (block,) = [b for b in re.findall(r"```nginx\n(.*?)```", docs, re.DOTALL) if words in b]
    return block


@contextmanager
def serving(folder: Path, location: str, http: str = "") -> Iterator[int]:
    """nginx on the port that this gives, with a server's `location` and, beside it, `http`."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert nginx, "No nginx found: make nginx installs it."
    log = folder / "error.log"
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    with kept_port() as port:
        (folder / "nginx.conf").write_text(
            f"{'user root;' if os.geteuid() == 0 else ''} daemon off; pid {folder}/pid;\n"
            f"events {{}} http {{ access_log off; {temporary}\n{http}\n"
            f"server {{ listen 127.0.0.1:{port};\n{location}\n}} }}\n"
        )
        process = subprocess.Popen(
            [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(log)]
        )
        try:
            wait_until(lambda: process.poll() is not None or listens(port))
            assert process.poll() is None, log.read_text()
            yield port
        finally:
            process.terminate()
            process.wait(timeout=30)
