"""Runs whose features are shared out between processes: the weights of one process, come what may.

Sums that are split are rounded otherwise, which shows in the last bits: after some dozens of steps
the weights differ by about 2e-7 of their norm (float32). `CLOSE` leaves room for a pre-activation
that falls on the other side of its threshold once.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core.formats.saelens import load_config
from tests import processes, tiny
from training import train_checkpoint
from training.loop import train
from training.train_config import LossOptions, RunOptions, TrainConfig, short_run
from training.train_run import TrainRun

STEPS = 40
CLOSE = 1e-4
CLOSELY = {"loss", "fvu", "l0", "dead", "high_frequency", "in_window", "norm_p50", "threshold_p50"}


@pytest.fixture
def cfg(
    tiny_model: Gemma2ForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> TrainConfig:
    """40 steps of all architectures, TopK with dead features to revive, and a checkpoint every 10.

    Three prompts a forward: the last share of two processes is filled up.
    """
    tiny_model.save_pretrained(tmp_path / "lm")
    tiny_tokenizer.save_pretrained(tmp_path / "lm")
    return short_run(
        model=str(tmp_path / "lm"),
        corpus=(str(tiny.make_corpus(tmp_path / "text.parquet", count=80)),),
        sites=("resid_post/0",),
        architectures=("jumprelu", "gated", "topk", "standard"),
        d_sae=48,
        out=str(tmp_path / "one"),
        l0_targets=(4,),
        batch=64,
        tokens=STEPS * 64,
        context_size=24,
        buffer_tokens=150,
        lr_warmup=10,
        loss=LossOptions(dead_after=0.05),
        run=RunOptions(checkpoint_every=10, device="cpu"),
    )


def to(cfg: TrainConfig, name: str) -> TrainConfig:
    """The same in another folder."""
    return replace(cfg, out=str(Path(cfg.out).parent / name))


def assert_close(a: TrainConfig, b: TrainConfig) -> None:
    """The SAEs of two runs are the same up to rounding, and so is what they said on the way."""
    for name in (plan.name for plan in a.plans):
        files = (Path(c.out) / "saes" / name / "sae_weights.safetensors" for c in (a, b))
        first, second = map(load_file, files)
        assert first.keys() == second.keys()
        for key in first:
            distance = float((first[key] - second[key]).norm() / first[key].norm())
            assert distance < CLOSE, (name, key)
    for one, other in zip(lines(a), lines(b), strict=True):
        assert one.keys() == other.keys()
        assert (one["step"], one["sae"]) == (other["step"], other["sae"])
        for key in CLOSELY & one.keys():
            assert other[key] == pytest.approx(one[key], rel=1e-3), key
        assert sum(other["frequencies"]) == sum(one["frequencies"]) == 48


def lines(cfg: TrainConfig) -> list[dict]:
    text = (Path(cfg.out) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


class PowerCutError(Exception):
    """Not caught by the run."""


@pytest.fixture
def cut_at_20(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A run in this process ends without a word once step 20 is saved."""
    save = TrainRun.save

    def last(self: TrainRun) -> None:
        save(self)
        if self.step == 20:
            raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(TrainRun, "save", last)
        yield


def test_two_processes_learn_what_one_does(
    cfg: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("sparse_step", "listed_step"):
        monkeypatch.setattr(f"training.{step}.MOST", 0.5)
    extras = LossOptions(decoder="free", tanh_scale=4.0, pre_act=1e-3)
    penalised = LossOptions(frequency_scale=0.1)
    runs = {
        "dense": cfg,
        "sparse": replace(cfg, run=replace(cfg.run, step="sparse")),
        "tanh": replace(cfg, architectures=("jumprelu",), loss=extras),
        "frequency": replace(cfg, architectures=("jumprelu",), loss=penalised),
    }
    for name, run in runs.items():
        train(to(run, f"{name}-1"))
    said = processes.finish([to(run, f"{name}-2") for name, run in runs.items()], 2)
    for architecture in ("gated", "topk", "standard"):
        assert f"{architecture}-l0_4: sparse steps" in said
    for name, run in runs.items():
        assert_close(to(run, f"{name}-1"), to(run, f"{name}-2"))


def test_a_killed_process_ends_all_and_any_number_goes_on(cfg: TrainConfig) -> None:
    cfg = replace(cfg, architectures=("topk",))
    train(cfg)
    cut = to(cfg, "cut")
    (status, said), killed = processes.kill_one(cut, world=2, rank=1, step=10)
    assert (status, killed[0]) == (2, -signal.SIGKILL), said
    last = said.strip().splitlines()[-1]
    assert last.startswith("another process of this run has ended")
    assert "Traceback" not in said
    ((step, newest), *_) = train_checkpoint.list_saved(Path(cut.out) / "checkpoints")
    assert newest.is_dir()
    assert step == 10
    for world in (1, 2, 4):
        again = to(cfg, f"cut-{world}")
        shutil.copytree(cut.out, again.out)
        if world == 1:
            train(again)
        else:
            assert f"continuing from step {step}" in processes.finish([again], world)
        assert_close(cfg, again)


def test_two_processes_continue_what_one_began(cfg: TrainConfig, cut_at_20: None) -> None:
    cfg = replace(cfg, architectures=("jumprelu", "standard"))
    with pytest.raises(PowerCutError):
        train(cfg)
    again = to(cfg, "again")
    shutil.copytree(cfg.out, again.out)
    assert "continuing from step 20" in processes.finish([again], 2)
    train(cfg)  # from step 20 on as well
    assert_close(cfg, again)
    folder = Path(again.out) / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "step-000000030",
        "step-000000040",
    ]


def test_a_damaged_part_is_a_damaged_checkpoint(cfg: TrainConfig, tmp_path: Path) -> None:
    cfg = replace(cfg, architectures=("jumprelu",))
    processes.finish([cfg], 2)
    folder = Path(cfg.out) / "checkpoints"
    (_, newest), (_, before) = train_checkpoint.list_saved(folder)
    part = sorted(newest.glob("*.safetensors"))[1]
    whole = part.read_bytes()
    for damage in (whole[:-10], None):
        part.unlink()
        if damage is not None:
            part.write_bytes(damage)
        loaded = train_checkpoint.load_newest(folder)
        assert loaded is not None
        assert loaded[0] == 30
    part.write_bytes(whole)
    loaded = train_checkpoint.load_newest(folder)
    assert loaded is not None
    step, tensors, _ = loaded
    assert step == STEPS
    name = f"{cfg.plans[0].name}.parameters"
    assert tensors[f"{name}.W_enc"].shape == (32, 48)
    assert torch.equal(tensors[f"{name}.W_dec"].norm(dim=1).round(decimals=5), torch.ones(48))
    assert before.is_dir()


def torchrun(cfg: TrainConfig, *options: str) -> subprocess.CompletedProcess[str]:
    """The command as users give it, in two processes."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        *("-m", "app.cli", "train", "--preset", "short_run", "--device", "cpu", "--json"),
        *("--model", cfg.model, "--corpus", *cfg.corpus, "--eval-corpus", *cfg.corpus),
        *("--eval-tokens", "500", "--sites", *cfg.sites, "--l0-targets", "4", "--batch", "64"),
        *("--tokens", str(20 * 64), "--context-size", "24", "--buffer-tokens", "150"),
        *("--out", cfg.out, *options),
    ]
    environment = {**os.environ, "PYTHONPATH": processes.PYTHONPATH, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=processes.PATIENCE,
        check=False,
    )


def test_the_command_under_torchrun(cfg: TrainConfig) -> None:
    done = torchrun(cfg, "--d-sae", "48")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["saes"]
    assert result["measured"]["tokens"] >= 500
    # A bar is drawn again and again, and begun once: by the first process alone.
    assert len(re.findall(r"filling the buffer: +0%", done.stderr)) == 1
    metadata = load_config(Path(result["folder"])).metadata
    assert metadata["training"]["processes"] == 2


def test_a_mistake_is_said_once(cfg: TrainConfig) -> None:
    failed = torchrun(cfg, "--d-sae", "49")
    assert failed.returncode != 0
    assert failed.stdout == ""
    said = [line for line in failed.stderr.splitlines() if line.startswith("jumpscope train:")]
    assert said == [
        "jumpscope train: d_sae is 49 but must be a multiple of 2, the number of processes that "
        "share the features."
    ]
