"""The benchmark of effects: it runs through, and does not measure two things that disagree."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import effects as benchmark

ARGUMENTS = ["--shape", "tiny", "--tokens", "24", "--d-sae", "64", "--exact", "5"]


def test_every_part_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "effects.json"
    result = benchmark.main([*ARGUMENTS, "--part-seconds", "0", "--out", str(out)])
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text()) == result
    assert result["agreement"]["largest_difference_nats"] < 1e-4
    assert min(result["agreement"]["features"]) > 1
    one, every = result["one_token"], result["all_tokens"]
    assert {"forward_ms", "effects_ms", "one_by_one_ms", "effects_over_forward"} < set(one)
    assert one["one_by_one_over_effects"]["n"] >= 3
    assert every["exact"] == 5 < every["pairs"]
    assert len(result["before"]["load_average"]) == len(result["after"]["load_average"]) == 3


def test_numbers_that_disagree_are_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = benchmark.Bench.one_by_one

    def other(self: Any, position: int, features: list[int]) -> torch.Tensor:
        return slow(self, position, features) + 0.01

    monkeypatch.setattr(benchmark.Bench, "one_by_one", other)
    result = benchmark.main([*ARGUMENTS, "--part-seconds", "0"])
    capsys.readouterr()
    assert "the two ways differ by 0.01" in result["agreement"]
