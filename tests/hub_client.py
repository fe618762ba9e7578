"""The hub's client in this process, set to the tests' hub and a cache of its own for one test."""

import time
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
from huggingface_hub.utils import close_session

from tests.hub import Hub


class Client:
    """Changes the client's settings until the test ends."""

    def __init__(self, hub: Hub, cache: Path, patch: pytest.MonkeyPatch) -> None:
        self.cache = cache
        self.patch = patch
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN"):
            patch.delenv(name, raising=False)
            patch.delenv(name.lower(), raising=False)
        for name, place in (
            ("HF_HOME", cache),
            ("HF_HUB_CACHE", cache / "hub"),
            ("HF_ASSETS_CACHE", cache / "assets"),
            ("HF_TOKEN_PATH", cache / "token"),
            ("HF_STORED_TOKENS_PATH", cache / "stored_tokens"),
            ("AGENT_HARNESSES_PATH", cache / "agents.json"),
        ):
            patch.setattr(constants, name, str(place))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(time, "sleep", lambda seconds: None)  # between attempts
        self.endpoint(hub.endpoint)

    def endpoint(self, url: str) -> None:
        """Where the hub is."""
        self.patch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        self.patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def offline(self) -> None:
        """As HF_HUB_OFFLINE=1."""
        self.patch.setattr(constants, "HF_HUB_OFFLINE", True)

    def token(self, token: str | None) -> None:
        """As HF_TOKEN."""
        if token is None:
            self.patch.delenv("HF_TOKEN", raising=False)
        else:
            self.patch.setenv("HF_TOKEN", token)

    def impatient(self) -> None:
        """Give up on a hub that does not answer after a fifth of a second."""
        for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
            self.patch.setattr(constants, name, 0.2)

    def small_pieces(self) -> None:
        """Write downloads in pieces of 8 KB, so that a cut one leaves something to go on from."""
        self.patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 8192)

    def close(self) -> None:
        """End its connections."""
        close_session()
