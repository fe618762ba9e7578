"""One index of the tiny SAE, and what it must hold."""

from pathlib import Path
from typing import Any

import pytest

from sae_core.index import Index, build_index
from sae_core.sae import SAE
from tests import tiny
from tests.index_reference import Reference, clear_of_ties, config, reference


@pytest.fixture(scope="package")
def sae(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> SAE:
    return clear_of_ties(tiny_sae, tiny_model, tiny_tokenizer)


@pytest.fixture(scope="package")
def dense(tiny_model: Any, tiny_tokenizer: Any, sae: SAE) -> Reference:
    return reference(tiny_model, tiny_tokenizer, sae)


@pytest.fixture(scope="package")
def index(
    tiny_model: Any,
    tiny_tokenizer: Any,
    sae: SAE,
    tiny_corpus: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Index:
    path = tmp_path_factory.mktemp("index") / "index.duckdb"
    build_index(tiny_model, tiny_tokenizer, sae, config(tiny_corpus), path)
    return Index.open(path)


@pytest.fixture(scope="package")
def pages(index: Index) -> list[dict[str, Any]]:
    return [index.feature(i) for i in range(tiny.D_SAE)]
