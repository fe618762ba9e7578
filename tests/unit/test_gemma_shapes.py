"""Benchmarks of Gemma 2's shapes: right shapes, and they run through at a tiny one."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2Config

from benchmarks import gemma_shapes, steering_together
from benchmarks.measuring import Run
from sae_core.generation_run import GeneratedToken, GenerationStep


def leaves(value: Any) -> list[Any]:
    return [x for v in value.values() for x in leaves(v)] if isinstance(value, dict) else [value]


def test_the_shapes_are_gemmas() -> None:
    """2B's are transformers' defaults; 9B differs by its card."""
    default = Gemma2Config().to_dict()
    assert {k: default[k] for k in gemma_shapes.SHAPES["2b"]} == gemma_shapes.SHAPES["2b"]
    changed = {
        k: v for k, v in gemma_shapes.SHAPES["9b"].items() if gemma_shapes.SHAPES["2b"][k] != v
    }
    assert changed == {
        "hidden_size": 3584,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
    }


def test_every_part_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    result = gemma_shapes.main(["--tiny", "--out", str(out), "--folder", str(tmp_path)])
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text()) == result
    assert not [x for x in leaves(result) if isinstance(x, str) and x.startswith(("fail", "skip"))]
    measured = result["tiny"]["sae_64"]
    assert measured["load"]["l0"] == pytest.approx(16, abs=1)
    assert measured["analysis"]["over_two_forwards"]["p50"] > 0
    assert set(measured["generation"]["rate_over_plain"]) == {
        "transformers",
        "spliced",
        "steered",
        "steered_two_arms",
        "steered_and_watched_two_arms",
    }
    assert list(tmp_path.iterdir()) == [out]


def test_what_does_not_fit_costs_nothing_else(tmp_path: Path) -> None:
    run = Run(
        device=torch.device("cpu"),
        dtype=torch.float32,
        part_seconds=0.0,
        deadline=time.monotonic() + 60,
        out=tmp_path / "found.json",
    )

    def too_large() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    run.part(("a", "first"), too_large)
    run.part(("a", "second"), lambda: 1 / 3)
    run.deadline = 0.0
    run.part(("a", "third"), too_large)
    assert json.loads((tmp_path / "found.json").read_text()) == {
        "a": {
            "first": "failed: OutOfMemoryError: CUDA out of memory",
            "second": 0.333333,
            "third": "skipped: no time left",
        }
    }


def test_people_who_steer_together_get_what_they_get_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    size = ["--shape", "tiny", "--width", "64", "--people", "3", "--tokens", "6", "--rounds", "1"]
    result = steering_together.main([*size, "--dtypes", "float32", "--out", str(out)])
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text()) == result
    found = result["float32"]
    assert set(found["gain"]) == {"together", "within_a_second"}
    for way, alike in found["as_alone"].items():
        assert (alike["people"], alike["identical"], alike["parted_at_step"]) == (3, 3, []), way
        assert alike["activations_differ"] < 1e-5
        assert 0 < found["seconds_to_first_token"][way]["max"] < 60


def test_where_people_part_is_told_by_its_step() -> None:
    def got(ids: list[int], own: float) -> steering_together.Got:
        tokens = [GeneratedToken(id=each, own=(own,), after=(2.0,)) for each in ids]
        steps = [GenerationStep(tokens=(token,)) for token in tokens]
        return steering_together.Got(steps=steps, seconds_to_first=0.1)

    alone = [got([1, 2, 3], 1.0), got([4, 5, 6], 1.0)]
    assert steering_together.alike([got([1, 2, 9], 1.5), got([4, 5, 6], 1.0)], alone) == {
        "people": 2,
        "identical": 1,
        "parted_at_step": [2],
        "activations_differ": 0.25,
    }
