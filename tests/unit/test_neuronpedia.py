"""Neuronpedia's layout goes through an index page by page."""

from pathlib import Path

import pytest

from sae_core.index import Index
from sae_core.index.feature_pages import FEATURES, Page, PageShape
from sae_core.index.neuronpedia import write_neuronpedia
from tests import tiny


def test_a_page_is_unpacked_once(
    tiny_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[bytes] = []
    unpack = Page.unpack

    def counted(data: bytes, shape: PageShape) -> Page:
        unpacked.append(data)
        return unpack(data, shape)

    index = Index.open(tiny_index)
    monkeypatch.setattr(Page, "unpack", counted)
    write_neuronpedia(index, tmp_path / "out")
    assert len(unpacked) == len(set(unpacked)) == -(-tiny.D_SAE // FEATURES)
    index.close()
