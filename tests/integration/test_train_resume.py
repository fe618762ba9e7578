"""A run that is killed goes on and ends with the weights of one that was not, bit for bit."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from tests import tiny
from tests.processes import PYTHONPATH
from tests.waiting import STARTING
from training import checkpoint_file, train_checkpoint
from training.loop import train
from training.train_config import LossOptions, RunOptions, TrainConfig, short_run

STEPS = 300

# One thread: the sums of a matrix product may not depend on how busy the machine is.
PROGRAM = """
import json, logging, sys
import torch
from training.train_config import TrainConfig
from training.loop import train

torch.set_num_threads(1)
logging.basicConfig(stream=sys.stderr, level=logging.INFO)
train(TrainConfig.from_json(json.loads(sys.argv[1])))
"""


@pytest.fixture
def cfg(
    tiny_model: Gemma2ForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> TrainConfig:
    """300 steps with a checkpoint every 20; the buffer turns over several times in between.

    All architectures, TopK and JumpReLU with silent features to revive.
    """
    tiny_model.save_pretrained(tmp_path / "lm")
    tiny_tokenizer.save_pretrained(tmp_path / "lm")
    return short_run(
        model=str(tmp_path / "lm"),
        corpus=(str(tiny.make_corpus(tmp_path / "text.parquet", count=80)),),
        sites=("resid_post/0", "mlp_out/1"),
        architectures=("jumprelu", "gated", "topk", "standard"),
        d_sae=48,
        out=str(tmp_path / "killed"),
        l0_targets=(4,),
        batch=64,
        tokens=STEPS * 64,
        context_size=24,
        buffer_tokens=400,
        lr_warmup=10,
        loss=LossOptions(dead_after=0.05, b_dec_rate=0.03, revive=10, revive_after=0.003),
        run=RunOptions(checkpoint_every=20, device="cpu"),
    )


def start(cfg: TrainConfig) -> subprocess.Popen[str]:
    """The run, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(asdict(cfg))],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(cfg: TrainConfig) -> str:
    """Run to the end; returns what it said on stderr."""
    process = start(cfg)
    _, said = process.communicate(timeout=280)
    assert process.returncode == 0, said
    return said


def assert_equal(a: TrainConfig, b: TrainConfig) -> None:
    """The SAEs of two runs are the same, bit for bit."""
    for name in (plan.name for plan in a.plans):
        files = (Path(c.out) / "saes" / name / "sae_weights.safetensors" for c in (a, b))
        first, second = map(load_file, files)
        assert first.keys() == second.keys()
        for key in first:
            assert torch.equal(first[key], second[key]), (name, key)


def kill_after(cfg: TrainConfig, step: int) -> int:
    """Start the run, kill -9 it once it has saved `step` or a later one; returns that step."""
    folder = Path(cfg.out) / "checkpoints"
    process = start(cfg)
    deadline = time.monotonic() + STARTING
    try:
        while not (saved := train_checkpoint.list_saved(folder)) or saved[0][0] < step:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    return train_checkpoint.list_saved(folder)[0][0]


def test_killed_run_resumes_to_the_same_weights(cfg: TrainConfig, tmp_path: Path) -> None:
    whole = replace(cfg, out=str(tmp_path / "whole"))
    finish(whole)

    # Killed once early on, and once more with the newest checkpoint cut short.
    first = kill_after(cfg, 20)
    assert first < STEPS, "the run was over before it could be killed"
    second = kill_after(cfg, first + 60)
    assert first < second < STEPS
    # A kill between writing one and deleting the oldest leaves one more than are kept.
    (_, newest), (before, _), *_ = train_checkpoint.list_saved(Path(cfg.out) / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-100])

    said = finish(cfg)
    assert f"checkpoint {newest} is damaged" in said
    assert f"continuing from step {before} of {STEPS}" in said
    assert_equal(whole, cfg)
    lines = [
        json.loads(line) for line in (Path(cfg.out) / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines[:: len(cfg.plans)]] == list(range(3, STEPS + 1, 3))


def test_a_full_disk_costs_checkpoints_and_nothing_else(
    cfg: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    short = replace(cfg, sites=cfg.sites[:1], tokens=100 * 64)
    whole = replace(short, out=str(tmp_path / "whole"))
    train(whole)
    save_file, folder = checkpoint_file.save_file, Path(short.out) / "checkpoints"
    kept = []

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        step = int(path.name.split(".")[1].removeprefix("step-"))
        if step not in (40, 60):
            save_file(tensors, path, metadata)
            return
        path.write_bytes(b"half of a file")
        kept.append([step for step, _ in train_checkpoint.list_saved(folder)])
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint_file, "save_file", full)
    with caplog.at_level(logging.WARNING):
        train(short)
    assert kept == [[20], [20]]
    assert "going on without a checkpoint of step 40" in caplog.text
    assert "free some space" in caplog.text
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert_equal(whole, short)


def test_run_killed_before_its_first_checkpoint_starts_again(
    cfg: TrainConfig, tmp_path: Path
) -> None:
    late = replace(cfg, run=replace(cfg.run, checkpoint_every=0))
    process = start(late)
    while not (Path(late.out) / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not train_checkpoint.list_saved(Path(late.out) / "checkpoints")
    finish(late)
    whole = replace(cfg, out=str(tmp_path / "whole"))
    finish(whole)
    assert_equal(whole, late)


def test_ctrl_c_on_the_command_line(cfg: TrainConfig) -> None:
    command = [
        *(sys.executable, "-m", "app.cli", "train", "--preset", "short_run"),
        *("--model", cfg.model, "--corpus", *cfg.corpus, "--sites", *cfg.sites),
        *("--d-sae", "48", "--l0-targets", "4", "--batch", "64", "--tokens", str(3_000 * 64)),
        *("--context-size", "24", "--buffer-tokens", "400", "--lr-warmup", "10"),
        *("--out", cfg.out, "--device", "cpu", "--checkpoint-every", "20"),
    ]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not train_checkpoint.list_saved(Path(cfg.out) / "checkpoints"):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert printed == ""
    last = said.strip().splitlines()[-1]
    ((step, _), *_) = train_checkpoint.list_saved(Path(cfg.out) / "checkpoints")
    assert f"interrupted at step {step:,} of 3,000, saved: give the same command again" in last
    assert "Traceback" not in said
