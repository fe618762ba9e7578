"""The demo's ready proofs, run: two that pass and one that fails, as they are named."""

import json
from typing import Any

import pytest

from app.commands.shared import DEMO
from app.endpoints import Api
from app.engine.workbench import Workbench
from app.settings import Settings
from sae_core.bundle import Bundle

PROOFS: list[dict[str, Any]] = json.loads((DEMO / "bundle.json").read_text())["examples"]["proofs"]


@pytest.fixture(scope="module")
def demo() -> Api:
    settings = Settings(threads=1, device="cpu", max_seconds=600)
    return Api(Workbench(settings, Bundle.open(DEMO)))


def test_two_pass_and_one_fails() -> None:
    said = [proof["title"].split(":")[0] for proof in PROOFS]
    assert sorted(said) == ["Fails", "Passes", "Passes"]


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof["title"])
def test_it_comes_out_as_it_is_named(demo: Api, proof: dict[str, Any]) -> None:
    answer = demo.prove(**{name: value for name, value in proof.items() if name != "title"})
    assert answer["separates"] is proof["title"].startswith("Passes"), answer["sentence"]
    # Not for want of runs.
    assert proof["seeds"] >= answer["fewest_seeds"]
    assert all(len(run["tokens"]) > 5 for arm in answer["arms"] for run in arm["runs"])
