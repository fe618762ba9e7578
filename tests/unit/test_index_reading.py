"""The benchmark of reading wide indexes: what it makes of the demo's index can be read as one."""

from pathlib import Path

import numpy as np
import pytest

from app.commands.shared import DEMO
from benchmarks import index_reading
from benchmarks.index_reading import OWN, write_large
from sae_core.index import Index


@pytest.mark.parametrize("gathered", [False, True])
def test_features_of_the_demo_are_repeated(
    gathered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gathered:
        monkeypatch.setattr(index_reading, "MANY_PAGES", 1)
    write_large(tmp_path / "wide.duckdb", 2 * OWN)
    demo = Index.open(next(DEMO.glob("saes/resid_post*/index.duckdb")))
    wide = Index.open(tmp_path / "wide.duckdb")
    assert wide.meta["d_sae"] == 2 * OWN < 2 * demo.meta["d_sae"]
    frequency = demo.frequencies()[:OWN]
    np.testing.assert_array_equal(wide.frequencies()[:OWN], frequency)
    often = int(frequency.argmax())
    assert wide.feature(often + OWN)["signature"] == demo.feature(often)["signature"]
    found = wide.search("sea")["features"]
    assert found
    assert all(row["feature"] < 2 * OWN for row in found)


def test_another_number_of_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="6080 features are no multiple of 4096"):
        write_large(tmp_path / "wide.duckdb", 6080)
