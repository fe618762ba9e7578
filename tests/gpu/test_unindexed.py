"""An SAE without an index, asked on a CUDA device: what the CPU says of its features too.

Tolerances: float32 sums in another order, as in test_cuda.py.
"""

import shutil
from pathlib import Path

import pytest

from app.endpoints import Api
from app.engine.workbench import Workbench
from app.settings import Settings
from sae_core.bundle import Bundle
from sae_core.placement import Device
from tests import tiny

pytestmark = pytest.mark.gpu

TEXT = "The old clock measures two letters at noon."


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """The tiny bundle without its index."""
    shutil.copytree(
        tiny_bundle.path, tmp_path / "bundle", ignore=shutil.ignore_patterns("*.duckdb")
    )
    return Bundle.open(tmp_path / "bundle")


def api_on(device: Device, bundle: Bundle) -> Api:
    return Api(Workbench(Settings(device=device, dtype="float32", threads=1), bundle))


def test_features_are_described_alike(bundle: Bundle) -> None:
    here = api_on("cpu", bundle)
    there = api_on("cuda", bundle)
    for feature in (0, 5, tiny.DEAD):
        mine, theirs = there.feature(feature), here.feature(feature)
        assert mine["threshold"] == theirs["threshold"]
        assert mine["norms"] == pytest.approx(theirs["norms"], rel=1e-5)
        for side in ("raises", "lowers"):
            logits = [row["logit"] for row in mine["logits"][side]]
            expected = [row["logit"] for row in theirs["logits"][side]]
            assert logits == pytest.approx(expected, abs=1e-4)
        cosines = [row["cosine"] for row in mine["neighbours"]]
        assert cosines == pytest.approx([row["cosine"] for row in theirs["neighbours"]], abs=1e-5)


def test_lists_prompts_and_edits(bundle: Bundle) -> None:
    api = Api(Workbench(Settings(device="cuda", threads=1), bundle))
    listed = api.search_features(sort="threshold", limit=5)["features"]
    thresholds = [row["threshold"] for row in listed]
    assert thresholds == sorted(thresholds, reverse=True)
    result = api.prompt_features(TEXT)
    assert all(row["signature"] for row in result["features"])
    assert 0 < result["totals"]["fvu"] < 1
    edits = [{"feature": result["features"][0]["feature"], "value": 4.0}]
    assert len(api.steer(TEXT, edits, max_new_tokens=3)["steered"]) == 3
