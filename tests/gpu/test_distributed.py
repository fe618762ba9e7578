"""Two GPUs of one host learn what one does: dense and sparse steps, through NCCL."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import processes
from tests.integration.test_train_processes import cfg, lines, to
from training.loop import train
from training.train_config import RunOptions, TrainConfig

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

__all__ = ["cfg"]  # a fixture


@pytest.fixture(autouse=True)
def two_gpus() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs 2 CUDA devices of one host; here are {torch.cuda.device_count()}")


@pytest.mark.parametrize("step", ["sparse", "dense"])
def test_two_gpus_learn_what_one_does(
    cfg: TrainConfig, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")
    for module in ("sparse_step", "listed_step"):
        monkeypatch.setattr(f"training.{module}.MOST", 0.5)
    options = RunOptions(checkpoint_every=10, device="cuda", step=step)  # pyright: ignore[reportArgumentType]
    one = replace(cfg, run=options, precision="float32")
    two = to(one, "two")
    train(one)
    said = processes.finish([two], 2, device="cuda")
    assert f": {step} steps" in said
    for name in (plan.name for plan in one.plans):
        first, second = (
            load_file(Path(c.out) / "saes" / name / "sae_weights.safetensors") for c in (one, two)
        )
        for key, tensor in first.items():
            # The model runs on other numbers of prompts at once, whose products CUDA's libraries
            # round otherwise than one batch's: more than the sums that are split.
            assert float((second[key] - tensor).norm() / tensor.norm()) < 1e-3, (name, key)
    for a, b in zip(lines(one), lines(two), strict=True):
        assert b["fvu"] == pytest.approx(a["fvu"], rel=1e-2)
        assert b["l0"] == pytest.approx(a["l0"], rel=1e-2)
