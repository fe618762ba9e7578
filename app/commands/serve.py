"""`jumpscope demo` and `jumpscope serve`: the app on a bundle."""

import logging
import socket
import threading
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from app.commands.shared import open_bundle
from app.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Open the app on a bundle: a folder with a language model, SAEs and their indexes.

    Every option can also be set in the environment, e.g. JUMPSCOPE_PORT=8080.
    """

    bundle: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")]
    """Folder of the bundle; `demo` is the bundled one."""
    settings: Settings = field(default_factory=Settings.from_environment)

    def execute(self) -> None:
        """Serve until interrupted."""
        _serve(self.bundle, self.settings)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Open the app on the bundled demo: a small Gemma 2 with two SAEs.

    Every option can also be set in the environment, e.g. JUMPSCOPE_PORT=8080.
    """

    settings: Settings = field(default_factory=Settings.from_environment)

    def execute(self) -> None:
        """Serve until interrupted."""
        _serve("demo", self.settings)


def _serve(name: str, settings: Settings) -> None:
    bundle = open_bundle(name)
    _check_port(settings)
    from app.main import launch

    app = launch(settings, bundle, block=False)
    log.info("Jumpscope is at %s (Ctrl-C ends it)", app.local_url)
    try:
        threading.Event().wait()
    finally:
        app.close(verbose=False)


def _check_port(settings: Settings) -> None:
    """ValueError if nothing can listen at the address, before a model is loaded for it."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((settings.host, settings.port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ValueError(
                f"cannot listen on {settings.host} port {settings.port} ({reason}): choose another "
                "--port or --host."
            ) from error
