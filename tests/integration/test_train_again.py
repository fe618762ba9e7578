"""The train command given again for a finished run, and out folders that are not this run's."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError

from sae_core.formats.saelens import load_sae
from tests.integration.test_train import MLP, RESIDUAL, base, equal, weights
from training import loop, results, run_provenance, train_run
from training.loop import train
from training.train_config import TrainConfig

__all__ = ["base"]  # a fixture


def test_finished_run_is_not_trained_again(
    base: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = replace(base, out=str(tmp_path))
    train(cfg)
    before = weights(cfg)

    def trained(*_: object) -> None:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(train_run.SAETrainer, "step", trained)
    train(cfg)
    assert equal(weights(cfg), before)
    # It may be saved in another format and measured on other text.
    (result, _) = train(replace(cfg, save_dtype="float8_e4m3fn", eval_tokens=100))
    assert weights(cfg)["W_dec"].dtype == torch.float8_e4m3fn
    assert result.measured is not None
    assert result.measured["tokens"] < 200


def test_measuring_again_leaves_the_account_of_the_training(
    base: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = replace(base, out=str(tmp_path))
    train(cfg)

    def metadata() -> dict[str, Any]:
        return load_sae(tmp_path / "saes" / MLP).cfg.metadata

    before = metadata()["training"]
    assert before["precision"] == "float32"
    assert before["steps"] == 60
    # Another machine, another version, another dtype.
    monkeypatch.setattr(run_provenance.platform, "machine", lambda: "another")
    monkeypatch.setattr(run_provenance, "_commit", lambda: "another")
    monkeypatch.setattr(run_provenance, "_PACKAGES", ())
    monkeypatch.setattr(loop, "chosen_dtype", lambda *_: torch.bfloat16)
    train(cfg)
    assert metadata()["measured"]["model_dtype"] == "bfloat16"
    assert metadata()["training"] == before


def test_full_disk_at_the_end_is_one_sentence_and_nothing_is_lost(
    base: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = replace(base, out=str(tmp_path))

    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(results, "save_sae", full)
        with pytest.raises(ValueError, match=r"No space left .*: free some space"):
            train(cfg)
    monkeypatch.setattr(train_run.SAETrainer, "step", full)
    assert len(train(cfg)) == 2


def test_out_folder_of_another_run_is_refused(base: TrainConfig, tmp_path: Path) -> None:
    cfg = replace(base, out=str(tmp_path / "run"))
    train(cfg)
    path = tmp_path / "run" / "config.json"
    settings = json.loads(path.read_text())
    # A version that did not know an option did as its default says.
    del settings["loss"]["beta1"]
    path.write_text(json.dumps(settings))
    assert len(train(cfg)) == 2
    with pytest.raises(ValueError, match="holds a run with another beta1: choose another out"):
        train(replace(cfg, loss=replace(cfg.loss, beta1=0.9)))
    for damaged in ("[]", '{"loss": []}'):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"holds a run with another .*: choose another out"):
            train(cfg)
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="holds a run with another d_sae, lrs: choose another out"):
        train(replace(cfg, lrs=(1e-4,), d_sae=32))


def test_a_folder_in_which_a_run_is_at_work_is_refused(base: TrainConfig, tmp_path: Path) -> None:
    cfg = replace(base, out=str(tmp_path / "run"), eval_corpus=(), tokens=2 * 128)
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / "run.lock"),
        pytest.raises(ValueError, match=r"another run is at work in .*: wait until it has ended"),
    ):
        train(cfg)
    assert not (tmp_path / "run" / "config.json").exists()
    train(cfg)
    assert (tmp_path / "run" / "config.json").exists()
    assert not (tmp_path / "run" / "run.lock").exists()


def test_out_folder_with_the_bundle_of_another_run_is_refused(
    base: TrainConfig, tmp_path: Path
) -> None:
    cfg = replace(base, out=str(tmp_path), eval_corpus=())
    train(cfg)
    shutil.rmtree(tmp_path / "checkpoints")
    written = (tmp_path / "bundle.json").read_text()
    with pytest.raises(ValueError, match="holds a run with another l0_targets: choose another out"):
        train(replace(cfg, l0_targets=(9,)))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="holds a bundle that train did not make: choose another"):
        train(cfg)
    assert (tmp_path / "bundle.json").read_text() == written
    assert not (tmp_path / "config.json").exists()


def test_the_users_words_in_the_bundle_stay(base: TrainConfig, tmp_path: Path) -> None:
    cfg = replace(base, out=str(tmp_path / "run"), eval_corpus=())
    train(cfg)
    file = tmp_path / "run" / "bundle.json"
    bundle = json.loads(file.read_text())
    assert (bundle["name"], bundle["title"], bundle["examples"]) == ("run", "2 SAEs on lm", {})
    shutil.copytree(tmp_path / "run" / "saes" / MLP, tmp_path / "run" / "saes" / "further")
    bundle |= {
        "name": "mine",
        "title": "Two small SAEs",
        "saes": ["further", MLP, RESIDUAL],
        "examples": {"prompts": ["Once upon a time"]},
    }
    file.write_text(json.dumps(bundle))
    train(cfg)
    assert json.loads(file.read_text()) == bundle
