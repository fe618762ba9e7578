"""Fixtures of the unit tests, made from the session's."""

import shutil
from pathlib import Path

import pytest

from sae_core.bundle import Bundle
from tests import tiny


@pytest.fixture(scope="session")
def tiny_index(tiny_bundle: Bundle) -> Path:
    """The tiny bundle's index, of all of the tiny corpus. Shared: copy it to change it."""
    return tiny_bundle.index_path(tiny.SAE_NAME)


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the tiny bundle, to write into."""
    return Bundle.open(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
