"""`jumpscope demo` and `jumpscope serve`: the app on a bundle, or on a model and SAEs by id."""

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from app.commands.shared import open_bundle, served_bundle
from app.settings import Settings
from app.waiting import wait_for_interrupt

if TYPE_CHECKING:
    from sae_core.bundle import Bundle

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Open the app on a bundle, or on a language model with SAEs named by id.

    A bundle is a folder with a language model, SAEs and their indexes. What is named by id is
    downloaded once, and indexes that `jumpscope index` builds with the same names are found. Every
    option of the app can also be set in the environment, e.g. JUMPSCOPE_PORT=8080.
    """

    bundle: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[BUNDLE]")] = ""
    """Folder of the bundle; `demo` is the bundled one."""
    model: str = ""
    """Without a bundle: hub id of the language model, maybe with @revision, or its folder."""
    sae: tuple[str, ...] = ()
    """With model: SAEs in the order in which they are offered, each a hub id or a folder."""
    settings: Settings = field(default_factory=Settings.from_environment)

    def execute(self) -> None:
        """Serve until interrupted."""
        if self.sae and not self.model:
            raise ValueError("--sae goes with --model: a bundle names its own SAEs.")
        _serve(served_bundle(self.bundle, self.model, self.sae), self.settings)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Open the app on the bundled demo: a small Gemma 2 with two SAEs.

    Every option can also be set in the environment, e.g. JUMPSCOPE_PORT=8080.
    """

    settings: Settings = field(default_factory=Settings.from_environment)

    def execute(self) -> None:
        """Serve until interrupted."""
        _serve(open_bundle("demo"), self.settings)


def _serve(bundle: "Bundle", settings: Settings) -> None:
    from app.server import serve

    app = serve(settings, bundle)
    log.info("Jumpscope is at %s (Ctrl-C ends it)", app.url)
    try:
        wait_for_interrupt()
    finally:
        app.close()
