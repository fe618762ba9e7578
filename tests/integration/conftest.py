"""Fixtures of the integration tests."""

import pytest

from app.commands.shared import DEMO
from sae_core.bundle import Bundle
from sae_core.splice import SplicedLM


@pytest.fixture(scope="session")
def lm() -> SplicedLM:
    """The demo's model with its SAEs. Shared: do not change it."""
    return Bundle.open(DEMO).load()
