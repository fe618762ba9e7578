"""Ports for servers that a test starts in processes of their own, seconds before they listen."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_port() -> Iterator[int]:
    """A port of 127.0.0.1 that nobody who asks for any port is given until the block ends.

    It is bound here and listens to nobody; a server that names it and sets SO_REUSEADDR, as
    Python's and nginx do, may listen on it. Elsewhere than on Linux it could not, and the port is
    only one that was free.
    """
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        if sys.platform != "linux":
            kept.close()
        yield port


def listens(port: int) -> bool:
    """Whether somebody takes connections on a port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
