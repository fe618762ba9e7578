"""Whole runs with the sparse step, in plain PyTorch on the CPU: the dense ones' results."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.test_train_resume import assert_equal, cfg
from training.loop import train
from training.sae_trainer import SAETrainer
from training.train_config import LossOptions, RunOptions, TrainConfig

__all__ = ["cfg"]  # a fixture

SPARSE = RunOptions(checkpoint_every=20, device="cpu", step="sparse")


class PowerCutError(Exception):
    """Not caught by the run."""


@pytest.fixture(params=["jumprelu", "jumprelu-momentum", "gated-topk-standard"])
def sparse_cfg(cfg: TrainConfig, request: pytest.FixtureRequest) -> TrainConfig:
    """SAEs of two sites."""
    *architectures, last = request.param.split("-")
    if last == "momentum":
        return replace(cfg, architectures=tuple(architectures), loss=replace(cfg.loss, beta1=0.9))
    return replace(cfg, architectures=(*architectures, last))


def _make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """So narrow a layer is dense for long: at first there is no room for its entries, then there
    is.
    """
    for step in ("sparse_step", "listed_step"):
        monkeypatch.setattr(f"training.{step}.MOST", 0.2)


def _until(monkeypatch: pytest.MonkeyPatch, cfg: TrainConfig, steps: int) -> None:
    """Run until `steps` steps of the run's SAEs have been taken, then end without a word."""
    taken = 0
    whole = SAETrainer.step

    def step(self: SAETrainer, *args: object) -> None:
        nonlocal taken
        taken += 1
        if taken > steps * len(cfg.plans):
            raise PowerCutError
        whole(self, *args)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(SAETrainer, "step", step)
        with pytest.raises(PowerCutError):
            train(cfg)


def test_sparse_runs_learn_what_dense_ones_do(
    sparse_cfg: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _make_room(monkeypatch)
    runs = {
        run.step: replace(
            sparse_cfg,
            out=str(tmp_path / run.step),
            run=run,
            eval_corpus=sparse_cfg.corpus,
            eval_tokens=2_000,
        )
        for run in (replace(SPARSE, step="dense"), SPARSE)
    }
    with caplog.at_level("INFO", "training"):
        results = {kind: train(run) for kind, run in runs.items()}
    for kind in runs:
        assert f"{sparse_cfg.plans[0].name}: {kind} steps" in caplog.messages
        assert any(f": {kind} steps from here on" in message for message in caplog.messages)
    for dense, sparse in zip(results["dense"], results["sparse"], strict=True):
        assert dense.measured is not None
        assert sparse.measured is not None
        for name in ("fvu", "l0"):
            assert sparse.measured[name] == pytest.approx(dense.measured[name], rel=0.01), name


def test_an_interrupted_sparse_run_goes_on_bit_for_bit(
    sparse_cfg: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = replace(sparse_cfg, run=SPARSE)
    whole = replace(cut, out=str(tmp_path / "whole"))
    _make_room(monkeypatch)
    train(whole)
    _until(monkeypatch, cut, 150)
    train(cut)
    assert_equal(whole, cut)


def test_what_sparse_steps_do_not_know_takes_dense_ones_and_says_so(
    cfg: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    few = replace(cfg, run=SPARSE, loss=LossOptions(frequency_scale=0.1), tokens=4 * cfg.batch)
    with caplog.at_level("INFO", "training"):
        train(few)
    (said,) = [m for m in caplog.messages if m.startswith(f"{few.plans[0].name}: dense steps")]
    assert "no other terms" in said
